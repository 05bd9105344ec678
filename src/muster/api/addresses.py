"""How a container is reached, as AutoDL's clients read it: URLs, SSH login, root password.

In: the ingress as clients see it, if there is one, and what opens sealed passwords. Out: the ``info`` of a container.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from muster.api import schemas
from muster.errors import SetupError
from muster.model.container import Container
from muster.model.deployment import PORTS, DeploymentSpec, PortProtocol
from muster.model.front import Front, addresses_of, service_url

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reach:
    """What the API knows of the ways to containers. Without an ingress (``front=None``) they have their own only."""

    front: Front | None = None
    unseal: Callable[[str], str] | None = None

    def info(self, container: Container, spec: DeploymentSpec) -> schemas.ContainerInfo:
        """Show how a container is reached."""
        found = addresses_of(self.front, container, PORTS)
        urls = {
            port: service_url(self.front, address, spec.protocols.get(port, PortProtocol.HTTP))
            for port, address in found.items()
        }
        main = found.get(PORTS[0])
        return schemas.ContainerInfo(
            ssh_command=self._ssh_command(container),
            root_password=self._password(container),
            service_6006_port_url=urls.get(6006, ""),
            service_6008_port_url=urls.get(6008, ""),
            service_url=urls.get(6006, ""),
            proxy_host=main.host if main else "",
            custom_port=main.port if main else 0,
        )

    def _ssh_command(self, container: Container) -> str:
        if self.front is None or container.ssh_port is None:
            return ""
        return f"ssh -p {container.ssh_port} root@{self.front.host}"

    def _password(self, container: Container) -> str:
        if self.unseal is None or not container.password:
            return ""
        try:
            return self.unseal(container.password)
        except SetupError as error:  # the key is gone or another: everything but the password can still be told
            _log.warning("root passwords cannot be told: %s", error)
            return ""
