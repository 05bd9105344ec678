"""The environment of a container: what the platform promises to every start command.

The ``AutoDL…`` names are those of AutoDL's elastic deployment; each has a ``MUSTER_…`` twin. The user's own variables
come first and cannot replace these; an engine adds ports and addresses, which it alone knows.
"""

from collections.abc import Mapping
from types import MappingProxyType

from muster.model.container import Container
from muster.model.deployment import Deployment


def environment(deployment: Deployment, container: Container) -> Mapping[str, str]:
    """Return the variables of a placed container; ``CUDA_VISIBLE_DEVICES`` names exactly its claimed GPUs."""
    assert container.placement is not None
    assert container.uuid is not None
    return MappingProxyType(
        {
            "CUDA_VISIBLE_DEVICES": ",".join(map(str, container.placement.gpu_indices)),
            **deployment.spec.env,
            "AutoDLContainerUUID": container.uuid,
            "AutoDLDeploymentUUID": deployment.id,
            "AutoDLDataCenter": container.placement.data_center,
            "MUSTER_CONTAINER_UUID": container.uuid,
            "MUSTER_DEPLOYMENT_UUID": deployment.id,
            "MUSTER_DEPLOYMENT_NAME": deployment.spec.name,
            "MUSTER_DATA_CENTER": container.placement.data_center,
            "MUSTER_GPU_NAME": container.placement.gpu_name,
            "MUSTER_GPU_NUM": str(container.placement.gpu_num),
            "MUSTER_VERSION_NAME": container.version,
        }
    )
