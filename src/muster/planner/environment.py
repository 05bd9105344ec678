"""The environment of a container: what the platform promises to every start command.

The ``AutoDL…`` names are those of AutoDL's elastic deployment; each has a ``MUSTER_…`` twin. The user's own variables
come first and cannot replace these; an engine adds the ports to bind, which it alone knows, and, where there is no
ingress, the container's own addresses.
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from muster.model.container import Container
from muster.model.deployment import PORTS, Deployment, PortProtocol
from muster.model.front import Front, service_url


def environment(deployment: Deployment, container: Container, front: Front | None = None) -> Mapping[str, str]:
    """Return the variables of a placed container; ``MUSTER_GPU_INDICES`` names its claimed GPUs as the machine does.

    ``CUDA_VISIBLE_DEVICES`` is the engine's to say: it alone knows how the container's GPUs are numbered inside.
    """
    assert container.placement is not None
    assert container.uuid is not None
    return MappingProxyType(
        {
            **deployment.spec.env,
            "AutoDLContainerUUID": container.uuid,
            "AutoDLDeploymentUUID": deployment.id,
            "AutoDLDataCenter": container.placement.data_center,
            **_urls(deployment, container, front),
            "MUSTER_CONTAINER_UUID": container.uuid,
            "MUSTER_DEPLOYMENT_UUID": deployment.id,
            "MUSTER_DEPLOYMENT_NAME": deployment.spec.name,
            "MUSTER_DATA_CENTER": container.placement.data_center,
            "MUSTER_GPU_NAME": container.placement.gpu_name,
            "MUSTER_GPU_NUM": str(container.placement.gpu_num),
            "MUSTER_GPU_INDICES": ",".join(map(str, container.placement.gpu_indices)),
            "MUSTER_VERSION_NAME": container.version,
        }
    )


def _urls(deployment: Deployment, container: Container, front: Front | None) -> Mapping[str, str]:
    """Return its own addresses as AutoDL names them; where it has a way of its own to this host, by that."""
    if front is None:
        return {}
    if container.host_address and is_loopback(front.host) and not front.domain:
        front = replace(front, host=container.host_address)
    urls = {}
    for port in PORTS:
        address = front.address(container, port)
        if address is not None:
            urls[f"AutoDLService{port}URL"] = service_url(
                front, address, deployment.spec.protocols.get(port, PortProtocol.HTTP)
            )
    main = urls.get(f"AutoDLService{PORTS[0]}URL")
    return urls if main is None else {"AutoDLServiceURL": main, **urls}


def is_loopback(host: str) -> bool:
    """Tell whether a name means this very host to whoever uses it, so that a container that does means itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
