"""Exports sets for those who stay with a proxy: a file that it includes, a command that reloads it, or both.

The sets are read from the registry and not from the watcher beside it, so a watcher that stands by keeps its host's
proxy right as well. A service that is unknown keeps its last set; one that has not been known since we started keeps
the block that the file already had for it. Before any is known nothing is written, so a registry that is away at the
start changes no proxy. A stale set is still the best known.

The file is replaced whole, by renaming another over it, and only when it changes. The command is run once at the
start, because nobody knows whether the last one got so far, and then after changes (``export_command.py``).
"""

import asyncio
import contextlib
import dataclasses
import datetime
import json
import logging
import os
from collections.abc import Collection, Mapping
from pathlib import Path

from muster.clock import Clock
from muster.discovery.export_command import Debounced, run_command
from muster.discovery.export_templates import (
    BLOCKS,
    Service,
    Template,
    block_names,
    join_blocks,
    read_service,
    split_blocks,
    title,
)
from muster.errors import RegistryError, SetupError
from muster.model.endpoint import EndpointSet, ServiceKey
from muster.registry.port import Registry

GATHER_SECONDS = 0.05
"""Sets that change together are written together."""
BREATHS = 4
"""The rest after a write, in times of what it took."""
RETRY_SECONDS = 5.0
KEYS_SECONDS = 2.0
"""How soon a service is found that nobody named."""

_log = logging.getLogger(__name__)


class Exporter:
    """Writes and reloads for ever; give ``run`` a task.

    ``keys`` are the services to export, by name or uuid, one key per port; a port that no service has is never known
    and so never written. ``None`` means all sets that the registry holds, by uuid. ``template`` goes with ``output``,
    the file to write. ``command`` is run by ``sh -c``; without a template it gets the sets as JSON on standard input.
    Raises ``SetupError``, which says what to change.
    """

    def __init__(
        self,
        registry: Registry,
        keys: Collection[ServiceKey] | None,
        clock: Clock,
        *,
        template: str | None = None,
        output: Path | None = None,
        command: str | None = None,
    ) -> None:
        self._template = _template(template)
        if (self._template is None) is not (output is None):
            raise SetupError("a template needs a file to write, and a file a template")
        if self._template is None and not command:
            raise SetupError("nothing to export: neither a template nor a command was told")
        self._output = None if output is None else _usable(output)
        self._registry = registry
        self._keys = None if keys is None else frozenset(keys)
        self._clock = clock
        self._command = command
        self._sets: dict[ServiceKey, EndpointSet] = {}
        self._told: dict[ServiceKey, tuple[str, ...]] = {}
        self._blocks: dict[ServiceKey, tuple[Service, str]] = {}
        self._carried: dict[str, str] = {}
        self._names: dict[ServiceKey, str] = {}
        self._written: dict[Path, str] = {}
        self._has_tcp: dict[str, bool] = {}
        self._changed = asyncio.Event()
        self._reload = Debounced(clock, self._run_command)

    async def run(self) -> None:
        """Watch, write and reload for ever."""
        if self._output is not None:
            self._carried = await asyncio.to_thread(self._read_blocks)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._reload.run(), name="export command")
            group.create_task(self._write_changes(), name="export write")
            watched: set[ServiceKey] = set()
            while True:
                for key in await self._find() - watched:
                    watched.add(key)
                    group.create_task(self._watch(key), name=f"export {key}")
                if self._keys is not None:
                    return
                await self._clock.sleep(KEYS_SECONDS)

    async def _find(self) -> frozenset[ServiceKey]:
        if self._keys is not None:
            return self._keys
        try:
            return frozenset(await self._registry.keys())
        except RegistryError as error:
            _log.warning("the export finds no new services: %s", error)
            return frozenset()

    async def _watch(self, key: ServiceKey) -> None:
        said = ""
        while True:
            try:
                async for found in self._registry.watch(key):
                    last, self._sets[key] = self._sets.get(key), found
                    if last is None or _content(last) != _content(found):
                        self._blocks.pop(key, None)
                        self._changed.set()
            except RegistryError as error:
                if said != str(error):
                    said = str(error)
                    _log.warning("%s is not exported any more: %s; still trying", key, error)
            await self._clock.sleep(RETRY_SECONDS)

    async def _write_changes(self) -> None:
        is_first = True
        while True:
            await self._changed.wait()
            await self._clock.sleep(GATHER_SECONDS)
            self._changed.clear()
            began, is_new = self._clock.monotonic(), True
            if self._template is not None and self._output is not None:
                texts = await self._render(self._template, self._output)
                coming = {path: text for path, text in texts.items() if self._written.get(path) != text}
                try:
                    is_new = await asyncio.to_thread(_replace_changed, coming)
                except OSError as error:
                    _log.warning("the export cannot be written, again in %.0f s: %s", RETRY_SECONDS, error)
                    self._changed.set()
                    await self._clock.sleep(RETRY_SECONDS)
                    continue
                self._written = texts
            if self._command and (is_new or is_first):
                self._reload.change()
            is_first = False
            await self._clock.sleep(BREATHS * (self._clock.monotonic() - began))

    async def _render(self, template: Template, output: Path) -> dict[Path, str]:
        """Return what each file is to hold, the one that names the others last."""
        texts: dict[Path, str] = {}
        blocks = dict(self._carried)
        for key, name in self._block_names().items():
            if key not in self._sets:
                continue
            known = self._blocks.get(key)
            if known is None or known[0].name != name:
                service = self._read(key, name, output.parent)
                known = self._blocks[key] = service, title(key) + BLOCKS[template](service)
                await self._clock.sleep(0)  # a thousand new ones take a second, and a watcher's heartbeat cannot wait
            service, blocks[name] = known
            if service.ca is not None and service.ca_pem is not None:
                texts[service.ca] = service.ca_pem
        return {**texts, output: join_blocks(template, blocks)}

    def _block_names(self) -> dict[ServiceKey, str]:
        keys = self._sets.keys() if self._keys is None else self._keys
        if len(keys) != len(self._names):  # no key ever leaves
            self._names = block_names(keys)
        return self._names

    def _read(self, key: ServiceKey, name: str, folder: Path) -> Service:
        service = read_service(name, self._sets[key], folder, had_tcp=self._has_tcp.get(name, False))
        self._has_tcp[name] = service.has_tcp
        if self._told.get(key) != service.skipped:
            self._told[key] = service.skipped
            for reason in service.skipped:
                _log.warning("export of %s: %s", key, reason)
        return service

    async def _run_command(self) -> bool:
        stdin = None if self._template is not None else to_json(self._sets).encode()
        return await run_command(self._command or "", stdin)

    def _read_blocks(self) -> dict[str, str]:
        """Return the blocks that the file has already, of services that are ours to export."""
        assert self._template is not None
        assert self._output is not None
        try:
            found = split_blocks(self._template, self._output.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError):
            return {}
        names = None if self._keys is None else set(self._block_names().values())
        found = {name: block for name, block in found.items() if names is None or name in names}
        self._has_tcp = {name: "mode tcp\n" in block or "raw TCP" in block for name, block in found.items()}
        return found


def to_json(sets: Mapping[ServiceKey, EndpointSet]) -> str:
    """Return the document that a command without a template reads."""
    services = [
        {"account": key.account, "service": key.service, "port": key.port, "set": json.loads(sets[key].to_json())}
        for key in sorted(sets, key=lambda key: (key.account, key.service, key.port))
    ]
    return json.dumps({"services": services}, separators=(",", ":"), ensure_ascii=False) + "\n"


def _content(found: EndpointSet) -> EndpointSet:
    """Return a set without what changes when another publisher says the same."""
    return dataclasses.replace(
        found, epoch=0, revision=0, published_at=datetime.datetime.min.replace(tzinfo=datetime.UTC)
    )


def _template(word: str | None) -> Template | None:
    try:
        return None if word is None else Template(word)
    except ValueError as error:
        raise SetupError(f"no template {word!r}: there are {' and '.join(Template)}") from error


def _usable(output: Path) -> Path:
    """Return the file to replace, behind symbolic links; its folder's name is written into configurations."""
    path = Path(os.path.realpath(output))
    if not str(path).isprintable() or set("'\"\\$") & set(str(path)):
        raise SetupError(f"{str(output)!r}: quotes, $ and backslashes cannot be part of this file's name or folder")
    if path.is_dir() or not path.parent.is_dir():
        raise SetupError(f"{output}: name a file in a folder that exists")
    return path


def _replace_changed(texts: Mapping[Path, str]) -> bool:
    """Write the files that do not hold their text; return whether there were any. Raises ``OSError``."""
    is_changed = False
    for path, text in texts.items():
        coming = text.encode()
        with contextlib.suppress(FileNotFoundError):
            if path.read_bytes() == coming:
                continue
        _replace(path, coming)
        is_changed = True
    return is_changed


def _replace(path: Path, content: bytes) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # no proxy's include of *.conf or *.cfg matches it
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
