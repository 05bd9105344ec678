"""Containers without a machine → placed containers. One key for all of them: GPUs are shared, so one writer places.

Commits placement, uuid, the claim of the GPUs, ports of the ingress and a root password, the reference of the image,
status ``creating`` and its event in one transaction; for a container that takes another over also that one's release
from the pool, so that no two ever take the same. What the scheduler could not place waits; why is kept in memory for
``explain`` and renewed with every look. It is woken by any change of a container, because one that ends makes room, by
a machine that can be used again and by a blacklist that changes; the end of a blacklist's entry it waits for itself.
"""

import datetime
import secrets
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from muster.clock import Clock
from muster.controller.demand import load_bans, load_requests
from muster.controller.ports import PortRanges, with_ports
from muster.errors import StaleWrite
from muster.model.container import Container, ContainerStatus
from muster.model.event import EventKind, NewEvent
from muster.model.ids import ContainerId, fresh_container_uuid, reused_container_uuid
from muster.model.password import PASSWORD_LENGTH, hash_password
from muster.scheduler.explain import Explanation
from muster.scheduler.filters import Demand
from muster.scheduler.inventory import Inventory
from muster.scheduler.place import Placed, Request, place
from muster.store.port import Store, Transaction
from muster.store.specs import spec_of
from muster.vault import Vault

ALL: Final = "all"


_ALPHABET = string.ascii_letters + string.digits
_NO_PORT = datetime.timedelta(seconds=30)
"""How soon to look again when no port of the ingress is free: one has rested when nobody tells of it."""
OUT_OF_PORTS = "no address is free: all of ingress_ports or ssh_ports are in use or were until lately"


@dataclass(frozen=True, slots=True)
class Addressing:
    """How containers get addresses: from which ports, and who seals their root passwords."""

    ports: PortRanges
    vault: Vault
    new_password: Callable[[], str] = lambda: "".join(secrets.choice(_ALPHABET) for _ in range(PASSWORD_LENGTH))


@dataclass(frozen=True, slots=True)
class _Choice:
    container_id: ContainerId
    placed: Placed
    demand: Demand


class _Loaded(NamedTuple):
    requests: Sequence[Request]
    inventory: Inventory
    look_again_at: datetime.datetime | None


class PlacementReconciler:
    """Places containers; see the module's text. ``has_images``: whether the engine fetches them.

    Without ``addressing`` there is no ingress: containers get no addresses but their own.
    """

    name = "placement"

    def __init__(
        self,
        store: Store,
        clock: Clock,
        random_hex: Callable[[int], str],
        *,
        has_images: bool = False,
        addressing: Addressing | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._random_hex = random_hex
        self._has_images = has_images
        self._addressing = addressing
        self._explanations: Mapping[ContainerId, Explanation] = {}

    def explanation(self, container_id: ContainerId) -> Explanation | None:
        """Say why a container had no machine when the scheduler last looked."""
        return self._explanations.get(container_id)

    async def keys(self) -> Iterable[str]:
        """Return the only key."""
        return (ALL,)

    async def reconcile(self, key: str) -> datetime.datetime | None:
        """Place what fits; oldest first."""
        assert key == ALL
        now = self._clock.now()
        loaded = await self._store.read(lambda tx: self._load(tx, now))
        if loaded is None:
            self._explanations = {}
            return None
        requests, inventory, look_again_at = loaded
        choices: list[_Choice] = []
        unplaced: dict[ContainerId, Explanation] = {}
        for request, outcome in zip(requests, place(requests, inventory).outcomes, strict=True):
            if isinstance(outcome, Placed):
                choices.append(_Choice(request.container_id, outcome, _demand(request)))
            else:
                unplaced[request.container_id] = outcome.explanation
        self._explanations = unplaced
        if choices:
            portless = await self._store.write(lambda tx: self._commit(tx, choices, now))
            if portless:
                self._explanations = {**unplaced, **portless}
                return min(now + _NO_PORT, look_again_at or now + _NO_PORT)
        return look_again_at if unplaced else None

    def _commit(
        self, tx: Transaction, choices: Iterable[_Choice], now: datetime.datetime
    ) -> Mapping[ContainerId, Explanation]:
        """Write the choices; return those that must wait for a port after all."""
        portless = {}
        for choice in choices:
            container = tx.containers.get(choice.container_id)
            if container is None or container.stop is not None or container.placement is not None:
                continue  # it was given up, or placed, since the decision
            addressed = self._addressed(tx, container, now)
            if addressed is None:
                portless[container.id] = Explanation(choice.demand, 0, (), None, OUT_OF_PORTS)
            else:
                self._place(tx, addressed, choice.placed, now)
        return portless

    def _addressed(self, tx: Transaction, container: Container, now: datetime.datetime) -> Container | None:
        """Return the container with ports of the ingress and a root password; ``None`` when no port is free."""
        if self._addressing is None:
            return container
        password = self._addressing.new_password()
        sealed = self._addressing.vault.seal(password)
        hashed = hash_password(password, self._random_hex(16))
        return with_ports(tx, replace(container, password=sealed, password_hash=hashed), self._addressing.ports, now)

    def _place(self, tx: Transaction, container: Container, placed: Placed, now: datetime.datetime) -> None:
        deployment = tx.deployments.get(container.deployment_id)
        assert deployment is not None  # rows of deployments are never deleted
        name = spec_of(tx, container, deployment).image
        image = tx.images.get(container.account_id, name)
        if placed.reuses is None:
            machine_id = placed.placement.machine_id
            uuid = fresh_container_uuid(container.deployment_id, machine_id, self._random_hex(10))
            reference = "" if image is None else image.reference
        else:
            old = tx.containers.by_uuid(placed.reuses)
            if old is None or not old.is_pooled:
                raise StaleWrite(f"{placed.reuses} has left the pool")
            tx.containers.update(replace(old, is_pooled=False, released_at=now, updated_at=now))
            uuid = reused_container_uuid(placed.reuses, self._random_hex(9))
            reference = old.image_reference
        tx.containers.update(
            replace(
                container,
                placement=placed.placement,
                uuid=uuid,
                image=name,
                image_reference=reference,
                reused_from=placed.reuses,
                placed_at=now,
                status=ContainerStatus.CREATING,
                updated_at=now,
            )
        )
        tx.events.append(
            NewEvent(
                account_id=container.account_id,
                deployment_id=container.deployment_id,
                container_id=container.id,
                container_uuid=uuid,
                kind=EventKind.STATUS,
                status=ContainerStatus.CREATING,
                created_at=now,
                message=placed.sentence(),
            )
        )

    def _load(self, tx: Transaction, now: datetime.datetime) -> _Loaded | None:
        """Return who waits, what there is, and when to look again; ``None`` when nobody waits, which is nearly always.

        A blacklist's entry ends without anybody's doing, so its end has to be waited for.
        """
        if not tx.containers.unplaced():
            return None
        bans = load_bans(tx, now)
        return _Loaded(*load_requests(tx, now, has_images=self._has_images, bans=bans), bans.until)


def _demand(request: Request) -> Demand:
    return Demand(request.requirements)
