"""A registry in a folder: ``file:///ABSOLUTE/FOLDER``, readable by any program and by a shell script.

Layout (``docs/endpoint-set.md``)::

    FOLDER/<account>/<service>/<port>.json             an endpoint set
    FOLDER/@aliases/<account>/<service>/<port>.json    {"schema":1,"target":{"account":…,"service":…,"port":…}}
    FOLDER/@beats.json, FOLDER/@claims.json            the publishers' heartbeats, and whose each key is
    FOLDER/@lock, FOLDER/@beats.lock                   flock'ed by whoever writes, or writes a heartbeat

A file is written beside its place and renamed over it, so a reader sees an old set or a new one and needs no lock and
no more than read permission. Writers hold ``@lock`` from reading the stored fence to the rename, so that two
publishers on one host cannot both win; a shared network folder works as far as its flock and rename do. A file is
flushed to the disk before the rename: an empty file after a power cut would be foreign data that blocks its key.
Heartbeats and claims are not flushed: after a power cut no publisher lives, and epochs go on from the present time.

All file access happens in worker threads. Watchers share one poller (``poll.py``) that compares identity, time and
size of files; contents are read only when those change. inotify was refused: not portable, blind on network folders.
"""

import asyncio
import contextlib
import errno
import fcntl
import json
import logging
import os
import time
import urllib.parse
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from muster.errors import Fenced, InvalidSpec, RegistryUnavailable
from muster.model.endpoint import EndpointSet, ServiceKey
from muster.registry import file_rows, names, stored
from muster.registry.claiming import claimed
from muster.registry.poll import Poller, Signature, signature
from muster.registry.port import Beat, Claim

_BEATS = "@beats.json"
_CLAIMS = "@claims.json"
LOCK_WAIT_SECONDS = 5.0
"""Far above any honest write (milliseconds); whoever holds the lock longer is stopped or hangs on its disk."""

RETRY_SECONDS = 0.2
"""How soon a watcher looks again at what it could not read."""

_log = logging.getLogger(__name__)


def open_url(url: str) -> "FileRegistry":
    """Open ``file:///ABSOLUTE/FOLDER``; the folder is made by the first publication."""
    parts = urllib.parse.urlsplit(url)
    folder = Path(urllib.parse.unquote(parts.path))
    if parts.netloc not in ("", "localhost") or not folder.is_absolute():
        raise InvalidSpec("registry", f"{url!r} is relative: write file:///absolute/folder, with three slashes")
    return FileRegistry(folder)


class FileRegistry:
    """One folder, seen by one event loop."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._poller = Poller()
        self._turn = asyncio.Lock()
        """Writers wait here and not in threads, which they would take from heartbeats."""

    async def publish(self, key: ServiceKey, endpoints: EndpointSet) -> None:
        """Replace the set of ``key``. Raises ``Fenced`` when the stored one is as new or newer."""
        async with self._turn:
            await asyncio.to_thread(self._publish, key, endpoints)

    async def link(self, alias: ServiceKey, target: ServiceKey) -> None:
        """Let ``alias`` stand for ``target`` from now on."""
        async with self._turn:
            await asyncio.to_thread(self._link, alias, target)

    async def unlink(self, alias: ServiceKey) -> None:
        """Forget an alias; one that is not there is no error."""
        async with self._turn:
            await asyncio.to_thread(self._unlink, alias)

    async def get(self, key: ServiceKey) -> EndpointSet | None:
        """Return the present set of a key or alias, ``None`` if there is none."""
        _, _, present = await asyncio.to_thread(self._resolve, key)
        return present

    async def target(self, key: ServiceKey) -> ServiceKey | None:
        """Return the key whose set ``get`` would return, ``None`` if there is no set."""
        target, _, present = await asyncio.to_thread(self._resolve, key)
        return None if present is None else target

    async def watch(self, key: ServiceKey) -> AsyncIterator[EndpointSet]:
        """Yield the present set, then every newer one, for ever."""
        seen: tuple[ServiceKey, tuple[int, int]] | None = None
        trouble = ""
        with self._poller.subscribe() as watched:
            while True:
                try:
                    last = seen[0] if seen else None
                    target, signatures, present = await asyncio.to_thread(self._resolve, key, last)
                except RegistryUnavailable as error:
                    if trouble != str(error):
                        trouble = str(error)
                        _log.warning("watching %s: %s; still trying", key, error)
                    # Not every repair shows in a file's signature (chmod does not), so look again anyway.
                    await asyncio.sleep(RETRY_SECONDS)
                    continue
                trouble = ""
                if present is not None and (seen is None or target != seen[0] or present.fence > seen[1]):
                    seen = target, present.fence
                    yield present
                await watched.changed(signatures)

    async def keys(self) -> Sequence[ServiceKey]:
        """Return all keys that hold a set (no aliases), in order."""
        return await asyncio.to_thread(self._keys)

    async def beat(self, publisher: str, beat: Beat) -> Mapping[str, Beat]:
        """Record a heartbeat; return every publisher's last one as it was just before."""
        return await asyncio.to_thread(self._beat, publisher, beat)

    async def beats(self) -> Mapping[str, Beat]:
        """Return every publisher's last heartbeat."""
        return await asyncio.to_thread(self._read_beats)

    async def retire(self, publisher: str) -> None:
        """Forget a publisher's heartbeat."""
        await asyncio.to_thread(self._beat, publisher, None)

    async def claim(
        self, keys: Collection[ServiceKey], publisher: str, *, over: Collection[str], floor: int
    ) -> Mapping[ServiceKey, Claim]:
        """Give ``publisher`` what nobody, itself, or one of ``over`` has; return whose each key is now."""
        async with self._turn:
            return await asyncio.to_thread(self._claim, keys, publisher, over, floor)

    async def claims(self) -> Mapping[ServiceKey, Claim]:
        """Return whose each key is."""
        return await asyncio.to_thread(self._read_claims)

    async def aclose(self) -> None:
        """Let go of the registry; what was published stays."""

    def _beat(self, publisher: str, beat: Beat | None) -> Mapping[str, Beat]:
        with self._locked("@beats.lock"):  # sets are flushed under the other, which takes a slow disk a while
            wire = _read_own(self._folder / _BEATS)
            before = file_rows.beats(wire)
            wire.pop(publisher, None)
            if beat is not None:
                wire[publisher] = [beat.count, beat.seconds]
            _replace(self._folder / _BEATS, json.dumps(wire), is_flushed=False)
        return before

    def _read_beats(self) -> Mapping[str, Beat]:
        return file_rows.beats(_read_own(self._folder / _BEATS))

    def _claim(
        self, keys: Collection[ServiceKey], publisher: str, over: Collection[str], floor: int
    ) -> Mapping[ServiceKey, Claim]:
        answer: dict[ServiceKey, Claim] = {}
        with self._locked():
            wire = _read_own(self._folder / _CLAIMS)
            claims = file_rows.claims(wire)
            for key in keys:
                if key not in claims and file_rows.name_of(key) in wire:
                    continue  # foreign, perhaps of a newer version: neither read nor overwritten
                try:
                    present = self._read_set(key)
                except RegistryUnavailable as error:
                    _log.warning("%s", error)
                    continue
                answer[key] = claimed(claims.get(key), present, publisher, over=over, floor=floor)
            wire |= {file_rows.name_of(key): [claim.publisher, claim.epoch] for key, claim in answer.items()}
            _replace(self._folder / _CLAIMS, json.dumps(wire), is_flushed=False)
        return answer

    def _read_claims(self) -> Mapping[ServiceKey, Claim]:
        return file_rows.claims(_read_own(self._folder / _CLAIMS))

    def _set_path(self, key: ServiceKey) -> Path:
        return self._folder / names.relative_path(key)

    def _alias_path(self, key: ServiceKey) -> Path:
        return self._folder / "@aliases" / names.relative_path(key)

    def _signatures(self, key: ServiceKey) -> dict[str, Signature | None]:
        return {str(path): signature(str(path)) for path in (self._set_path(key), self._alias_path(key))}

    def _resolve(
        self, key: ServiceKey, last: ServiceKey | None = None
    ) -> tuple[ServiceKey, dict[str, Signature | None], EndpointSet | None]:
        """Return the key that ``key`` stands for (``last`` if none), the state of every file that decided it, the set.

        A file's state is taken before its contents are read: a change in between is then seen as one.
        """
        signatures = self._signatures(key)
        present = self._read_set(key)
        if present is not None:
            return key, signatures, present
        target = self._read_alias(key) or last
        if target is None:
            return key, signatures, None
        path = str(self._set_path(target))
        signatures[path] = signature(path)
        return target, signatures, self._read_set(target)

    def _read_set(self, key: ServiceKey) -> EndpointSet | None:
        path = self._set_path(key)
        text = _read(path)
        if text is None:
            return None
        try:
            return EndpointSet.from_json(text)
        except InvalidSpec as error:
            raise RegistryUnavailable(f"read {path}: foreign data: {error}") from error

    def _read_alias(self, alias: ServiceKey) -> ServiceKey | None:
        path = self._alias_path(alias)
        text = _read(path)
        if text is None:
            return None
        try:
            return stored.alias_from_text(text)
        except InvalidSpec as error:
            raise RegistryUnavailable(f"read {path}: foreign data: {error}") from error

    def _publish(self, key: ServiceKey, endpoints: EndpointSet) -> None:
        with self._locked():
            present = self._read_set(key)
            if present is not None and present.fence >= endpoints.fence:
                raise Fenced(f"publish {key} at {endpoints.fence}: the registry holds {present.fence}")
            _replace(self._set_path(key), endpoints.to_json())

    def _link(self, alias: ServiceKey, target: ServiceKey) -> None:
        with self._locked():
            if self._read_alias(alias) != target:
                _replace(self._alias_path(alias), stored.alias_to_text(target))

    def _unlink(self, alias: ServiceKey) -> None:
        with self._locked():
            if self._read_alias(alias) is not None:
                self._alias_path(alias).unlink(missing_ok=True)

    def _keys(self) -> Sequence[ServiceKey]:
        found = []
        with _converted(f"list {self._folder}"):
            for path in self._folder.glob("[!@.]*/[!.]*/*.json"):
                key = names.key_of(path.parent.parent.name, path.parent.name, path.name)
                if key is not None:
                    found.append(key)
        return sorted(found, key=lambda key: (key.account, key.service, key.port))

    @contextlib.contextmanager
    def _locked(self, name: str = "@lock") -> Iterator[None]:
        """Hold the writers' lock; a lock that somebody keeps too long is an unavailable registry."""
        path = self._folder / name
        with _converted(f"write to {self._folder}"):
            self._folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                deadline = time.monotonic() + LOCK_WAIT_SECONDS
                while True:
                    try:
                        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        break
                    except BlockingIOError as error:
                        if time.monotonic() > deadline:
                            raise RegistryUnavailable(f"lock {path}: another publisher does not let go") from error
                        time.sleep(0.002)
                yield
            finally:
                os.close(descriptor)


def _read(path: Path) -> bytes | None:
    with _converted(f"read {path}"):
        try:
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:  # so nobody can have published it
                return None
            raise


def _read_own(path: Path) -> dict[str, Any]:
    """Read a file that nobody but publishers writes; one that a power cut left torn says nothing."""
    text = _read(path)
    if text is None:
        return {}
    with contextlib.suppress(ValueError, RecursionError):
        wire = json.loads(text)
        if isinstance(wire, dict):
            return wire
    _log.warning("%s is torn, perhaps by a power cut: starting it anew", path)
    return {}


def _replace(path: Path, text: str, *, is_flushed: bool = True) -> None:
    """Write ``text`` to ``path`` atomically; the caller holds the lock, so the temporary name is its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.tmp")
    with beside.open("w", encoding="utf-8") as file:
        file.write(text + "\n")
        if is_flushed:
            file.flush()
            os.fsync(file.fileno())
    beside.replace(path)


@contextlib.contextmanager
def _converted(attempt: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RegistryUnavailable(f"{attempt}: {error.strerror or error}") from error
