"""What ``queue show`` and ``queue cancel`` do: find a service's broker, ask it, and tell what it says.

Tenants and clients name themselves, so nothing of it reaches a terminal but printable characters.
"""

import asyncio
import contextlib
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from muster import registry
from muster.balancer.statistics import TenantStatistics
from muster.broker import inspect
from muster.broker.inspect import Queue, Waiting, Where
from muster.broker.link import addresses
from muster.cli.connection import resolve
from muster.cli.view import Column, Format, note, print_json, print_table, say
from muster.client import Client
from muster.errors import MusterError, NotFound, SetupError
from muster.home import absolute, default_home
from muster.model.deployment import PORTS
from muster.model.endpoint import EndpointSet, ServiceKey
from muster.model.url import shown

WATCH_SECONDS = 1.0
_CLEAR = "\x1b[H\x1b[2J"
_MOST_ROWS = 50
_MOST_NAMES = 20
_AUTHORITY = Path("tls", "ca.pem")
"""``tls/authority.py``, which needs what the base install does not have."""

ASKS: tuple[Column[Waiting], ...] = (
    Column("ASK", lambda row: row.ask, is_number=True),
    Column("TENANT", lambda row: _plain(row.tenant) or "-"),
    Column("PRIORITY", lambda row: row.priority, is_number=True),
    Column("WAITS FOR", lambda row: _seconds(row.waited_seconds), is_number=True),
    Column("LEFT", lambda row: _seconds(row.seconds_left), is_number=True),
    Column("TAKES", lambda row: _seconds(row.cost_seconds), is_number=True),
    Column("CLIENT", lambda row: _plain(row.client) or "-"),
)
TENANTS: tuple[Column[TenantStatistics], ...] = (
    Column("TENANT", lambda row: _plain(row.tenant) or "-"),
    Column("WAITING", lambda row: row.waiting, is_number=True),
    Column("OLDEST", lambda row: _seconds(row.oldest_seconds), is_number=True),
)


@dataclass(frozen=True, slots=True)
class Asked:
    """A service, and whom to ask for its broker: ``broker`` itself, a registry, or the API."""

    service: str
    port: int
    account: str
    registry: str | None
    broker: str | None
    api: str | None = None
    token_file: Path | None = None
    home: Path | None = None


def show_queue(asked: Asked, output: Format, *, is_watching: bool) -> None:
    """Print a service's queue, once or each second for ever. Raises ``MusterError`` at the first look."""
    found = _find(asked)
    _print(_look(found), output, is_live=is_watching)
    said = ""
    while is_watching:
        time.sleep(WATCH_SECONDS)
        try:
            if said:
                found = _find(asked)  # it may have come back at another address
            seen = _look(found)
        except MusterError as error:
            if str(error) != said:
                said = str(error)
                note(f"{said}\nwaiting for it")
            continue
        said = ""
        _print(seen, output, is_live=True)


def cancel_asks(asked: Asked, conditions: Mapping[str, object], output: Format) -> None:
    """Take asks out of the queue, and say how many."""
    found = _find(asked)
    count = asyncio.run(inspect.evict(found, conditions))
    if output is Format.JSON:
        print_json({"action": "cancel", "service": found.key.service, "count": count})
        return
    say(f"{_counted(count, 'request')} taken out of the queue of {found.key.service}")


def _look(where: Where) -> Queue:
    return asyncio.run(inspect.show(where))


def _find(asked: Asked) -> Where:
    """Find the broker. Raises ``NotFound`` where there is none, and ``SetupError`` where there is no token for it."""
    # A broker alone takes the account to be the one whose token it is given.
    key = ServiceKey(asked.account if asked.registry else "", asked.service, asked.port)
    if asked.registry or asked.broker:
        token = _own_token(asked)
        present = asyncio.run(_published(asked.registry, key)) if asked.registry else None
    else:
        url, token = resolve(os.environ, api=asked.api, token_file=asked.token_file, home=asked.home)
        with Client(url, token) as client:
            key = ServiceKey(client.me().name, asked.service, asked.port)
            present = _told(client, key)
    urls = asked.broker or (present.broker_url if present is not None else None)
    if not urls:
        raise NotFound(
            "broker",
            asked.service,
            f"{asked.service} has no broker: its clients choose by themselves, each with a queue of its own; "
            "see them with `muster lb show`, or give them a broker (docs/broker.md)",
        )
    ca_pem = _own_authority(asked.home) if present is None else present.ca_pem
    return Where(addresses(urls), ca_pem, key, token)


def _own_authority(home: Path | None) -> str | None:
    """Return the home's authority, where no set says whom to trust."""
    try:
        return ((absolute(home) if home else default_home(os.environ)) / _AUTHORITY).read_text(encoding="ascii")
    except (OSError, ValueError):
        return None


def _own_token(asked: Asked) -> str:
    """Return the token; the API's address is of no importance where a registry is read."""
    if asked.token_file is None and not os.environ.get("MUSTER_TOKEN"):
        try:
            return resolve(os.environ, home=asked.home)[1]
        except SetupError:
            if asked.broker and all(each.startswith("unix:") for each in addresses(asked.broker)):
                return ""  # that of a gateway, say, which asks for none
            raise SetupError("no token for the broker: set MUSTER_TOKEN or use --token-file") from None
    return resolve(os.environ, token_file=asked.token_file)[1]


def _told(client: Client, key: ServiceKey) -> EndpointSet:
    """Return the set that the API tells. Raises ``NotFound``, saying which ports of the service have one."""
    try:
        return client.endpoints(key.service, key.port)
    except NotFound:
        ports = []
        for port in PORTS:
            with contextlib.suppress(NotFound):
                client.endpoints(key.service, port)
                ports.append(port)
        raise _unknown(key, ports, "`muster ps` lists the services") from None


async def _published(url: str, key: ServiceKey) -> EndpointSet:
    """Return the set that a registry holds. Raises ``NotFound``, saying which ports of the service have one."""
    opened = registry.connect(url)
    try:
        found = await opened.get(key)
        if found is None:
            keys = await opened.keys()
            others = {each.port for each in keys if each.account == key.account}
            ports = [each for each in sorted(others) if await opened.get(replace(key, port=each)) is not None]
            known = ", ".join(_plain(each) for each in keys[:_MOST_NAMES]) or "nothing"
            raise _unknown(key, ports, f"{shown(url)} holds {known}")
        return found
    finally:
        await opened.aclose()


def _unknown(key: ServiceKey, ports: Sequence[int], hint: str) -> NotFound:
    rest = f", but at {' and '.join(map(str, ports))} (--port)" if ports else f": {hint}"
    return NotFound("service", key.service, f"nothing is known of {_plain(key.service)} at port {key.port}{rest}")


def _print(found: Queue, output: Format, *, is_live: bool) -> None:
    if output is Format.JSON:
        print_json({"broker": shown(found.broker), **found.value}, is_line=is_live)
        return
    if is_live and sys.stdout.isatty():
        say(_CLEAR)
    it = found.statistics
    wait = it.expected_wait_seconds
    say(_plain(it.service))
    say(f"broker   {_plain(shown(found.broker))}, {_counted(found.clients, 'connection')}, this one among them")
    would = (
        f"a request of a new tenant would wait {_seconds(wait)}"
        if math.isfinite(wait)
        else "a request would wait in vain"
    )
    say(f"queue    {found.waiting_num} waiting, {would}")
    slots = sum(each.limit for each in it.replicas if not each.is_leaving)
    replicas = f"{_counted(len(it.replicas), 'replica')} with {_counted(slots, 'slot')}"
    say(f"running  {_counted(it.in_flight, 'request')}, {replicas}")
    if it.tenants:
        say("")
        print_table(it.tenants, TENANTS)
    if found.waiting:
        say("")
        print_table(found.waiting[:_MOST_ROWS], ASKS)
        if found.waiting_num > _MOST_ROWS:
            say(f"and {found.waiting_num - _MOST_ROWS} younger ones; -o json shows up to {len(found.waiting)}")
    if is_live and not sys.stdout.isatty():
        say("")


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _seconds(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "for ever"
    return f"{seconds * 1000:.0f} ms" if abs(seconds) < 1 else f"{seconds:.1f} s"


def _plain(value: object) -> str:
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in str(value))
