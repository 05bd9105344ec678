"""The registry port: publish and watch complete, fenced sets, stated for implementers.

* A set replaces the stored one only if its ``fence`` (epoch, revision) is greater; otherwise ``publish`` raises
  ``Fenced`` and stores nothing. Replacement is atomic: a reader sees one whole set or another, never a mixture.
* A missing key means *unknown*: ``get`` returns ``None`` and ``watch`` waits. It never means *nobody*; that is a set
  without endpoints.
* An alias is a key that stands for another key. ``get`` and ``watch`` follow it, also when it moves to another
  target; a fence is compared between sets of one target only. An alias of an alias is not followed, and a key's own
  set goes before an alias of the same name, so that a name never hides a uuid. ``publish`` does not follow aliases.
* ``watch`` yields the present set as soon as there is one, then each change; it may skip sets that were replaced
  before the reader came back. Of one target it never yields a set that is not newer than the last, so a smaller
  fence tells that an alias has moved. While the registry cannot be reached, or holds foreign data under the key, it
  keeps trying and yields nothing.
* Foreign data under a key is neither returned nor overwritten: ``RegistryUnavailable`` says what was found.

Safe for concurrent use by many tasks of one event loop; processes may share one registry where it is shared at all.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from muster.model.endpoint import EndpointSet, ServiceKey


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

    def watch(self, key: ServiceKey) -> AsyncIterator[EndpointSet]:
        """Yield the present set, then every newer one, for ever."""
        ...

    async def keys(self) -> Sequence[ServiceKey]:
        """Return all keys that hold a set (no aliases), in order."""
        ...

    async def aclose(self) -> None:
        """Let go of the registry; what was published stays."""
        ...
