"""What stands under keys that a watcher has just claimed: told before anything of its own is published there.

Who takes over may know less than who came before: its probes may never have been answered by a container that serves,
and is too busy to say so. So whoever judges readiness is told whom the last publisher had in its sets
(``Probes.adopt``), and who tells of changes is told what they differ from.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping

from muster.errors import RegistryError
from muster.model.endpoint import EndpointSet, ServiceKey
from muster.registry.port import Registry

OnTakeOver = Callable[[ServiceKey, EndpointSet], None]
AT_ONCE = 32
"""As many as are published at once."""


async def tell_present(
    registry: Registry, keys: Collection[ServiceKey], tell: OnTakeOver
) -> Mapping[ServiceKey, RegistryError]:
    """Tell the present set of each key that has one; return which could not be read, and why."""
    places = asyncio.Semaphore(AT_ONCE)
    failed: dict[ServiceKey, RegistryError] = {}

    async def read(key: ServiceKey) -> None:
        async with places:
            try:
                present = await registry.get(key)
            except RegistryError as error:
                failed[key] = error
            else:
                if present is not None:
                    tell(key, present)

    async with asyncio.TaskGroup() as group:
        for key in keys:
            group.create_task(read(key), name=f"take over {key}")
    return failed
