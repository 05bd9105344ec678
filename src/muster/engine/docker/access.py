"""Which accounts may use what was fetched with a password: images outlive the process, so this is a file.

In: the name of an image without its tag, because that is what registries give access to; so whoever may have one tag
may have all, and nobody gets one by its digest that he could not get by its tag. Out: yes or no.

A name is noted *before* anything is fetched under it with a password, with nobody's account, and the account when the
registry has let it in. Whatever dies in between, a private image is never taken for a public one. For the same reason a
file that cannot be read refuses everything. Names that are not noted are everybody's: what the operator loaded himself,
and what came without a password.

Not kept apart: layers. Docker does not fetch a layer twice, so somebody who knows the digests of a private image's
layers could name them in a manifest of his own registry; these are told only to those who may have the image.
"""

import asyncio
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from muster.errors import EngineUnavailable
from muster.model.ids import AccountId

Notes = Mapping[str, tuple[int, ...]]


class Access:
    """See the module's text. ``path`` is nobody else's; it is written whole or not at all."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._notes: Notes | None = None
        self._lock = asyncio.Lock()

    def may_use(self, name: str, account_id: AccountId | None) -> bool:
        """Tell whether an account may use what is there under a name; ``None`` is the operator."""
        allowed = self._known().get(name)
        return allowed is None or account_id is None or account_id in allowed

    async def restrict(self, name: str) -> None:
        """Let nobody use a name who was not allowed to. Raises ``OSError``."""
        await self._add(name, (), is_new=True)

    async def allow(self, name: str, accounts: Iterable[AccountId]) -> None:
        """Note whom the registry let in, if the name is restricted at all. Raises ``OSError``."""
        await self._add(name, accounts, is_new=False)

    async def _add(self, name: str, accounts: Iterable[AccountId], *, is_new: bool) -> None:
        async with self._lock:
            notes = self._known()
            if name not in notes and not is_new:
                return
            allowed = tuple(sorted({*notes.get(name, ()), *accounts}))
            if notes.get(name) != allowed:
                changed = {**notes, name: allowed}
                await asyncio.to_thread(_write, self._path, changed)
                self._notes = changed

    def _known(self) -> Notes:
        """Return what is noted; read once, since nobody else writes."""
        if self._notes is None:
            try:
                found = json.loads(self._path.read_text(encoding="utf-8"))
                self._notes = {str(name): tuple(map(int, allowed)) for name, allowed in found.items()}
            except FileNotFoundError:
                self._notes = {}
            except (OSError, ValueError, AttributeError, TypeError) as error:
                raise EngineUnavailable(
                    f"{self._path} cannot be read, so whose the private images are is not known: restore it, or remove"
                    f" those images from Docker and then the file ({error})"
                ) from error
        return self._notes


def _write(path: Path, notes: Notes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(notes, file, indent=1)
        file.flush()
        os.fsync(file.fileno())  # an empty file after a power failure would refuse every image
    draft.replace(path)
