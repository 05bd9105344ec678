"""What ``registry show`` and ``registry watch`` do: read a registry, judge who publishes, and tell it.

What a registry holds was written elsewhere, so nothing of it reaches a terminal but printable characters, and no
password that a URL may carry.
"""

import asyncio
import contextlib
import dataclasses
import datetime
import enum
import json
import logging
import urllib.parse
from collections.abc import AsyncIterator, Iterator

from muster.cli.view import Column, Format, age, note, print_json, print_table, say
from muster.errors import NotFound, RegistryError, RegistryUnavailable
from muster.model.endpoint import Endpoint, EndpointSet, ServiceKey, Withheld
from muster.registry import connect
from muster.registry.port import Registry

LOOK_SECONDS = 0.1
LONGEST_LOOK_SECONDS = 5.0
"""A heartbeat that promises more than this is not waited for."""
CHECK_SECONDS = 2.0
"""How often a registry is asked whether it is there while nothing changes."""
_SHOWN_NAMES = 20
_LEFT = "the set stays as it is until a watcher takes over"


class Life(enum.StrEnum):
    """What a publisher's heartbeat tells of it."""

    ALIVE = "alive"
    SILENT = "silent"
    """It stands still for longer than it promised: killed, paused, or cut off."""
    RETIRED = "retired"
    """There is none: it has stopped (or died long ago), or cannot read its API and lets others publish."""
    UNKNOWN = "unknown"
    """It is slow, and nobody can tell soon."""


@dataclasses.dataclass(frozen=True, slots=True)
class Publisher:
    """Who has claimed a service."""

    name: str
    epoch: int
    life: Life


ENDPOINTS: tuple[Column[Endpoint], ...] = (
    Column("ID", lambda row: _plain(row.id)),
    Column("URL", lambda row: _plain(_without_password(row.url))),
    Column("GPU", lambda row: _plain(f"{row.gpu_num} x {row.gpu_name}") if row.gpu_name else "-"),
    Column("CONCURRENCY", lambda row: "-" if row.concurrency is None else _plain(row.concurrency), is_number=True),
    Column("STARTED", lambda row: row.started_at.isoformat(timespec="seconds") if row.started_at else "-"),
)
WITHHELD: tuple[Column[Withheld], ...] = (
    Column("NOT IN THE SET", lambda row: _plain(row.id)),
    Column("REASON", lambda row: _plain(_words(row.reason))),
)


@contextlib.asynccontextmanager
async def _opened(url: str) -> AsyncIterator[Registry]:
    opened = connect(url)
    try:
        yield opened
    finally:
        await opened.aclose()


async def show_set(url: str, key: ServiceKey, output: Format) -> None:
    """Print the present set. Raises ``NotFound`` where there is none, ``RegistryError``."""
    async with _opened(url) as opened:
        found = await opened.get(key)
        if found is None:
            raise await _unknown(opened, key)
        target, publisher = await _publisher(opened, key, found)
    if output is Format.JSON:
        print_json(
            {
                "account": target.account,
                "service": target.service,
                "port": target.port,
                "set": json.loads(found.to_json()),
                "publisher": publisher,
            }
        )
        return
    say(_plain(_named(key) if target == key else f"{key.service}: {target}"))
    say(f"published  {_moment(found.published_at)}, {age(found.published_at)} ago")
    say(f"fence      epoch {found.epoch}, revision {found.revision}")
    if publisher is not None:
        say(f"publisher  {_plain(publisher.name)}, {_life(publisher, found)}")
    if found.stale_since is not None:
        say(
            f"stale      since {_moment(found.stale_since)}, for {age(found.stale_since)}:"
            " nobody could check these, they are the last known"
        )
    say("")
    if found.endpoints:
        print_table(found.endpoints, ENDPOINTS)
    else:
        say("nobody serves")
    if found.withheld:
        say("")
        print_table(found.withheld, WITHHELD)


async def _unknown(opened: Registry, key: ServiceKey) -> NotFound:
    """Return what to say of a key that holds nothing: which there are."""
    keys = await opened.keys()
    same = [each for each in keys if each.service == key.service]
    if same:
        others = ", ".join(f"{_plain(each.service)} of {_plain(each.account)} at port {each.port}" for each in same)
        hint = f"there is {others} (--account, --port)"
    elif keys:
        shown = [f"  {_plain(each)}" for each in keys[:_SHOWN_NAMES]]
        more = [f"  and {len(keys) - _SHOWN_NAMES} more"] if len(keys) > _SHOWN_NAMES else []
        hint = "\n".join(["these are published (account/uuid/port; their names lead to them too):", *shown, *more])
    else:
        hint = "nothing is published there at all"
    return NotFound("service", key.service, f"nothing is known of {_plain(_named(key))}: {hint}")


async def _publisher(opened: Registry, key: ServiceKey, found: EndpointSet) -> tuple[ServiceKey, Publisher | None]:
    """Return the key that holds the set, which a name only leads to, and who has claimed it, if that is told."""
    with contextlib.suppress(RegistryError):  # who can only reach the API is not told
        claims = await opened.claims()
        target = key
        if key not in claims:
            alike = [each for each in claims if (each.account, each.port) == (key.account, key.port)]
            alike.sort(key=lambda each: claims[each].epoch != found.epoch)
            for each in alike:
                if await opened.get(each) == found:
                    target = each
                    break
            else:
                return key, None
        claim = claims[target]
        return target, Publisher(claim.publisher, claim.epoch, await _look_at(opened, claim.publisher))
    return key, None


async def _look_at(opened: Registry, publisher: str) -> Life:
    """Look at a heartbeat for as long as it promised that it would not stand still."""
    first = (await opened.beats()).get(publisher)
    if first is None:
        return Life.RETIRED
    looks = int(min(first.seconds, LONGEST_LOOK_SECONDS) / LOOK_SECONDS) + 1
    for _ in range(looks):
        await asyncio.sleep(LOOK_SECONDS)
        now = (await opened.beats()).get(publisher)
        if now is None:
            return Life.RETIRED
        if now.count != first.count:
            return Life.ALIVE
    return Life.UNKNOWN if first.seconds > LONGEST_LOOK_SECONDS else Life.SILENT


def _life(publisher: Publisher, found: EndpointSet) -> str:
    match publisher.life:
        case Life.ALIVE if publisher.epoch != found.epoch:
            return f"alive; it has taken over with epoch {publisher.epoch} and published nothing yet"
        case Life.ALIVE:
            return "alive"
        case Life.SILENT:
            return f"silent: killed, paused or cut off; {_LEFT}"
        case Life.RETIRED:
            return f"retired: stopped, or it cannot read its API; {_LEFT}"
        case Life.UNKNOWN:
            return "whose heartbeat is slow: nobody can say yet whether it lives"


async def watch_set(url: str, key: ServiceKey, output: Format) -> None:
    """Print each set for ever; while the registry is away, say so once and wait. Raises ``RegistryError``."""
    async with _opened(url) as opened:
        with _quiet_registries():
            seen = asyncio.Event()
            check = asyncio.create_task(_tell_when_away(opened, key, seen))
            try:
                await _follow(opened, key, output, seen)
            finally:
                check.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await check


async def _follow(opened: Registry, key: ServiceKey, output: Format, seen: asyncio.Event) -> None:
    last: EndpointSet | None = None
    async for found in opened.watch(key):
        say(found.to_json() if output is Format.JSON else change_line(last, found))
        last = found
        seen.set()


def change_line(last: EndpointSet | None, found: EndpointSet) -> str:
    """Return what is new in a set, in one line."""
    before = {} if last is None else {each.id: each for each in last.endpoints}
    after = {each.id: each for each in found.endpoints}
    parts = [_moment(found.published_at), f"{found.epoch}.{found.revision}", f"{len(after)} ready"]
    parts += [f"+{each}" for each in after if each not in before]
    parts += [f"-{each}" for each in before if each not in after]
    parts += [f"~{each}" for each in after if each in before and after[each] != before[each]]
    if found.withheld:
        parts.append("withheld: " + ", ".join(f"{each.id} ({_words(each.reason)})" for each in found.withheld))
    if last is not None and last.fence > found.fence:
        parts.append("the name leads to another deployment now")
    if found.stale_since is not None:
        parts.append(f"stale since {_moment(found.stale_since)}")
    return _plain("  ".join(parts))


async def _tell_when_away(opened: Registry, key: ServiceKey, seen: asyncio.Event) -> None:
    """Say when nothing comes because nothing can, and when that is over."""
    said, was_away = "", False
    while True:
        is_away = False
        try:
            now = "" if await opened.get(key) is not None else f"nothing is known of {_named(key)}; waiting for it"
            if now and seen.is_set():
                now = f"{_named(key)} is not known any more: it has ended, or the registry was emptied; still watching"
        except RegistryUnavailable as error:
            now, is_away = f"{error}; waiting for it", True
        except RegistryError:
            return  # the watch says it, and ends
        if was_away and not is_away:
            note("the registry answers again")
        if now and now != said:
            note(_plain(now))
        said, was_away = now, is_away
        await asyncio.sleep(CHECK_SECONDS)


@contextlib.contextmanager
def _quiet_registries() -> Iterator[None]:
    """Keep a registry's own warnings back: what they say is said by ``_tell_when_away``, once."""
    log = logging.getLogger("muster.registry")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def _named(key: ServiceKey) -> str:
    return str(key) if key.account else f"{key.service}/{key.port}"


def _moment(moment: datetime.datetime) -> str:
    return moment.isoformat(timespec="seconds")


def _words(reason: str) -> str:
    return reason.replace("_", " ")


def _without_password(url: str) -> str:
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        return "unreadable"
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if "@" in parts.netloc else url


def _plain(value: object) -> str:
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in str(value))
