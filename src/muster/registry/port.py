"""The registry port: publish and watch complete, fenced sets, and agree on who publishes; stated for implementers.

**Sets**

* A set replaces the stored one only if its ``fence`` (epoch, revision) is greater; otherwise ``publish`` raises
  ``Fenced`` and stores nothing. Replacement is atomic: a reader sees one whole set or another, never a mixture.
* A missing key means *unknown*: ``get`` returns ``None`` and ``watch`` waits. It never means *nobody*; that is a set
  without endpoints.
* An alias is a key that stands for another key. ``get`` and ``watch`` follow it, also when it moves to another
  target; a fence is compared between sets of one target only. An alias of an alias is not followed, and a key's own
  set goes before an alias of the same name, so that a name never hides a uuid. ``publish`` does not follow aliases.
* ``watch`` yields the present set as soon as there is one, then each change; it may skip sets that were replaced
  before the reader came back. Of one target it never yields a set that is not newer than the last, so a smaller
  fence tells that an alias has moved. Whoever watches an alias that is forgotten stays with its last target until it
  stands for another: the deployment has ended, and that nobody serves any more is said there. While the registry
  cannot be reached, or holds foreign data under the key, it keeps trying and yields nothing.
* Foreign data under a key is neither returned nor overwritten: ``RegistryUnavailable`` says what was found.

**Publishers.** The registry keeps, for each key, who may publish it (a claim, with the epoch that this publisher is to
use) and for each publisher its last heartbeat. It judges nobody: whether a heartbeat is too old is for the reader to
say, by a clock of its own (``discovery/claims.py``), so the clocks of hosts need not agree. Claims order publishers
and save work; it is the fence that makes a publisher harmless that does not know yet that it was replaced.

Safe for concurrent use by many tasks of one event loop; processes may share one registry where it is shared at all.
"""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from muster.model.endpoint import EndpointSet, ServiceKey


@dataclass(frozen=True, slots=True)
class Beat:
    """A publisher's last heartbeat: its number, and for how many seconds it may be taken for alive."""

    count: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Claim:
    """Who publishes a key, under which epoch."""

    publisher: str
    epoch: int


class Registry(Protocol):
    """Holds the newest set of each service. Raises ``RegistryUnavailable`` when it cannot be reached."""

    async def publish(self, key: ServiceKey, endpoints: EndpointSet) -> None:
        """Replace the set of ``key``. Raises ``Fenced`` when the stored one is as new or newer."""
        ...

    async def link(self, alias: ServiceKey, target: ServiceKey) -> None:
        """Let ``alias`` stand for ``target`` from now on."""
        ...

    async def unlink(self, alias: ServiceKey) -> None:
        """Forget an alias; one that is not there is no error."""
        ...

    async def get(self, key: ServiceKey) -> EndpointSet | None:
        """Return the present set of a key or alias, ``None`` if there is none."""
        ...

    async def target(self, key: ServiceKey) -> ServiceKey | None:
        """Return the key whose set ``get`` would return: itself, or what an alias stands for; ``None`` if no set."""
        ...

    def watch(self, key: ServiceKey) -> AsyncIterator[EndpointSet]:
        """Yield the present set, then every newer one, for ever."""
        ...

    async def keys(self) -> Sequence[ServiceKey]:
        """Return all keys that hold a set (no aliases), in order."""
        ...

    async def beat(self, publisher: str, beat: Beat) -> Mapping[str, Beat]:
        """Record a heartbeat; return every publisher's last one as it was just before."""
        ...

    async def beats(self) -> Mapping[str, Beat]:
        """Return every publisher's last heartbeat."""
        ...

    async def retire(self, publisher: str) -> None:
        """Forget a publisher's heartbeat: nobody takes it for alive any more. Its claims stay until somebody's do."""
        ...

    async def claim(
        self, keys: Collection[ServiceKey], publisher: str, *, over: Collection[str], floor: int
    ) -> Mapping[ServiceKey, Claim]:
        """Give ``publisher`` each key that nobody, itself, or one of ``over`` has; return whose each is now.

        Each key that it gets comes with a new epoch: at least ``floor``, and greater than that of the former claim
        and of the stored set. Per key this is atomic, so no two publishers ever get the same epoch of a key. A key
        under which there is foreign data is left out of the answer.
        """
        ...

    async def claims(self) -> Mapping[ServiceKey, Claim]:
        """Return whose each key is."""
        ...

    async def aclose(self) -> None:
        """Let go of the registry; what was published stays."""
        ...
