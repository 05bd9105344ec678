"""The ingress as ``muster up`` starts it, a process in a home of its own, with a snapshot and no server."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.ingress.backend import HOST
from benchmarks.ingress.program import Program, running
from muster.config import Settings
from muster.ingress.snapshot import Snapshot
from muster.model.container import Address
from muster.model.deployment import PortProtocol
from muster.model.front import hostname
from muster.model.ids import AccountId, ContainerId, ContainerUuid, DeploymentId, MachineId
from muster.model.password import hash_password
from muster.model.routes import PortRoute, Route, RouteState, RouteTable, SshRoute
from muster.processes.engines import CHOICE, CONTAINERS
from muster.tls.certificate import Certificates

DOMAIN = "bench.test"
HTTP, RAW = 6006, 6008


def route(number: int, http_port: int, raw_port: int, backend_port: int, ssh_port: int | None = None) -> Route:
    """Return the route of one container: HTTP on one port, raw TCP on the other, the same process behind both."""
    backend = Address(HOST, backend_port)
    return Route(
        container_uuid=ContainerUuid(f"bench-{number:06}"),
        container_id=ContainerId(f"{number:016x}"),
        machine_id=MachineId("a" * 10),
        generation=1,
        account_id=AccountId(1),
        deployment_id=DeploymentId("d" * 10),
        state=RouteState.ACCEPT,
        ports=(
            PortRoute(HTTP, http_port, PortProtocol.HTTP, backend),
            PortRoute(RAW, raw_port, PortProtocol.TCP, backend),
        ),
        ssh=None if ssh_port is None else SshRoute(ssh_port, hash_password("of nobody", "salt")),
        is_running=True,
    )


def raw_name(of: Route) -> str:
    """Return the name under which the raw port is reached in the domain."""
    return hostname(of.container_uuid, RAW, DOMAIN)


class Home:
    """The home of an ingress; ``domain_port`` is that of the layout with names, beside that with ports."""

    def __init__(self, folder: Path, domain_port: int | None = None) -> None:
        folder.mkdir()
        self.folder = folder
        self._settings = Settings(
            home=folder,
            host=HOST,
            ingress_domain=None if domain_port is None else DOMAIN,
            ingress_domain_port=domain_port or 443,
            ingress_status_port=0,
            log_level="warning",
        )
        names = {HOST, f"*.{DOMAIN}"} if domain_port else {HOST}
        Certificates.open(folder, names=names, certificate=None, key=None)

    @property
    def certificate(self) -> Path:
        """What it shows, which every peer shows too."""
        return self.folder / "tls" / "server.pem"

    @property
    def key(self) -> Path:
        """The certificate's key."""
        return self.folder / "tls" / "server.key"

    @property
    def authority(self) -> Path:
        """What clients trust."""
        return self.folder / "tls" / "ca.pem"

    def give_engine(self) -> None:
        """Have an engine, without which there are no SSH logins."""
        (self.folder / CHOICE).write_text("local\n")
        (self.folder / "installation").write_text("bench\n")
        (self.folder / CONTAINERS).mkdir()

    def put(self, *routes: Route) -> None:
        """Have these routes as the last that the server told."""
        Snapshot(self.folder).write(RouteTable(1, 1, routes).to_json())

    @contextlib.contextmanager
    def ingress(self) -> Iterator[Program]:
        """Run the ingress."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MUSTER_")}
        command = (sys.executable, "-m", "muster.processes.ingress")
        environment = {**inherited, **self._settings.environment()}
        with running(command, self.folder.with_suffix(".log"), environment) as program:
            yield program
