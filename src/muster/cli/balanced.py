"""What ``lb show`` does: ask a process that balances for its statistics, and tell them.

What it answers was written elsewhere, replicas' names and tenants by others still, so nothing of it reaches a terminal
but printable characters.
"""

import datetime
import json
import math
import sys
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

import httpx

from muster.balancer.cost import CostStatistics, KindStatistics
from muster.balancer.statistics import ReplicaStatistics, Statistics, TenantStatistics
from muster.balancer.statistics_json import Snapshot, from_json, to_json
from muster.cli.view import Column, Format, note, print_json, print_table, say
from muster.errors import ApiUnavailable, InvalidSpec, MusterError, NotFound
from muster.model.url import shown

PATIENCE_SECONDS = 5.0
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_REGISTRIES = frozenset({"memory", "file", "redis", "rediss", "etcd", "etcds", "muster+http", "muster+https"})
_CLEAR = "\x1b[H\x1b[2J"
_SWITCH_ON = "start that process with MUSTER_STATUS=127.0.0.1:9464, or let it call muster.connect(…, status=…)"

REPLICAS: tuple[Column[ReplicaStatistics], ...] = (
    Column("ID", lambda row: _plain(row.id)),
    Column("GPU", lambda row: _plain(row.gpu) or "-"),
    Column("TAKES", lambda row: f"{row.slowness:.2f} x", is_number=True),
    Column("IN FLIGHT", lambda row: row.in_flight, is_number=True),
    Column("LIMIT", lambda row: f"{row.limit} {'declared' if row.is_limit_declared else 'learned'}"),
    Column("OTHERS'", lambda row: row.others, is_number=True),
    Column("SERVED", lambda row: row.served, is_number=True),
    Column("STATE", lambda row: _plain(_state(row)), style=lambda cell: "green" if cell == "ready" else "yellow"),
)
BUDGETS: Column[ReplicaStatistics] = Column(
    "BUDGETS",
    lambda row: _plain(", ".join(f"{name} {held}/{whole}" for name, (held, whole) in row.budgets.items()) or "-"),
)
TENANTS: tuple[Column[TenantStatistics], ...] = (
    Column("TENANT", lambda row: _plain(row.tenant) or "-"),
    Column("WAITING", lambda row: row.waiting, is_number=True),
    Column("OLDEST", lambda row: _seconds(row.oldest_seconds), is_number=True),
)


def show_services(url: str, service: str | None, output: Format, *, every_seconds: float | None) -> None:
    """Print the statistics, once or every so often for ever.

    Raises ``InvalidSpec``, ``ApiUnavailable`` and ``NotFound`` at the first look; later ones are waited out.
    """
    address = _address(url)
    trusts_env = urlsplit(address).hostname not in _LOOPBACK  # a proxy of the environment cannot reach our own loopback
    is_tls = urlsplit(address).scheme == "https"  # loading the world's authorities takes longer than the rest
    with httpx.Client(timeout=PATIENCE_SECONDS, trust_env=trusts_env, verify=is_tls) as client:
        _print(_look(client, address, service), output, is_live=every_seconds is not None)
        said = ""
        while every_seconds is not None:
            time.sleep(every_seconds)
            try:
                found = _look(client, address, service)
            except MusterError as error:
                if str(error) != said:
                    said = str(error)
                    note(f"{said}\nwaiting for it")
                continue
            said = ""
            _print(found, output, is_live=True)


def _address(url: str) -> str:
    """Return where to ask, of what a user may write. Raises ``InvalidSpec``."""
    scheme, has_scheme, _ = url.partition("://")
    if not has_scheme and scheme.partition(":")[0] not in {"file", "memory"}:  # redis:9464 is a host and its port
        url, scheme = f"http://{url}", "http"
    scheme = scheme.partition(":")[0].lower()
    if scheme in _REGISTRIES:
        raise InvalidSpec(
            "URL",
            f"{shown(url)} is a registry; it holds who serves. How requests are spread is known only to the process"
            f" that sends them\nto see that, {_SWITCH_ON}, then: muster lb show http://127.0.0.1:9464"
            f"\nto see what the registry holds: muster registry show {shown(url)} SERVICE",
        )
    try:
        parts = urlsplit(url)
        is_url = scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_url = False
    if not is_url:
        raise InvalidSpec("URL", f"{shown(url)!r} is no status address; write it like http://127.0.0.1:9464")
    return url.rstrip("/").removesuffix("/services").removesuffix("/metrics")


def _look(client: httpx.Client, address: str, service: str | None) -> Snapshot:
    try:
        answer = client.get(f"{address}/services")
    except httpx.InvalidURL as error:
        raise InvalidSpec("URL", f"{shown(address)!r} is no URL: {error}") from error
    except httpx.HTTPError as error:
        raise ApiUnavailable(
            f"nobody tells anything at {shown(address)} ({str(error) or type(error).__name__}): {_SWITCH_ON}"
        ) from error
    if answer.status_code == httpx.codes.MISDIRECTED_REQUEST:
        raise ApiUnavailable(f"{shown(address)} refuses: {_plain(answer.text.strip())}")
    try:
        if not answer.is_success:
            raise ValueError(f"answers {answer.status_code}")
        found = from_json(answer.content)
    except ValueError as error:
        raise ApiUnavailable(
            f"{shown(address)} is no status address of a process that balances: what it tells {_plain(error)}"
            f"\nis it the one of MUSTER_STATUS, or of connection.status_url?"
        ) from error
    if service is None:
        return found
    named = tuple(each for each in found.services if _is_named(each.service, service))
    if not named:
        known = ", ".join(_plain(each.service) for each in found.services)
        raise NotFound(
            "service",
            service,
            f"process {found.pid} balances nothing that is called {service!r}: "
            + (f"there is {known}" if known else "it has asked for no service yet"),
        )
    return found._replace(services=named)


def _is_named(full: str, name: str) -> bool:
    """Whether ``name`` is the key, or what a user calls it: ``digits``, ``admin/digits``, ``digits/6006``."""
    key = full.partition("#")[0]
    account, _, rest = key.partition("/")
    own, _, port = rest.rpartition("/")
    return name in {full, key, own, f"{account}/{own}", f"{own}/{port}"}


def _print(found: Snapshot, output: Format, *, is_live: bool) -> None:
    if output is Format.JSON:
        print_json(json.loads(to_json(found.pid, found.services)), is_line=is_live)
        return
    if is_live:
        say(_CLEAR + _now() if sys.stdout.isatty() else _now())
    if not found.services:
        say(f"process {found.pid} has asked for no service yet")
    for index, each in enumerate(found.services):
        if index:
            say("")
        _print_service(each, found.pid)
    if is_live and not sys.stdout.isatty():
        say("")


def _print_service(it: Statistics, pid: int) -> None:
    for line in service_lines(it, pid):
        say(_plain(line))
    if it.replicas:
        say("")
        has_budgets = any(each.budgets for each in it.replicas)
        print_table(it.replicas, (*REPLICAS[:-1], BUDGETS, REPLICAS[-1]) if has_budgets else REPLICAS)
    if it.tenants and [each.tenant for each in it.tenants] != [""]:
        say("")
        print_table(it.tenants, TENANTS)


def service_lines(it: Statistics, pid: int) -> Sequence[str]:
    """Return what there is to say of a service as a whole."""
    if it.fence is None:
        held = "no set yet: the registry has none of that name, or cannot be reached"
    else:
        held = f"epoch {it.fence[0]}, revision {it.fence[1]}, {_count(len(it.replicas), 'replica')}"
    took = f" in {_seconds(it.busy_seconds / it.answered)} each" if it.answered else ""
    lines = [
        it.service,
        f"process    {pid}",
        f"set        {held}",
        f"requests   {it.granted} granted, {it.answered} answered{took}, {it.in_flight} in flight, {it.resent} re-sent",
        f"refused    {it.refused} by a full queue, {it.refused_early} early for deadlines, {it.timed_out} timed out",
        f"queue      {_queue(it)}",
        *((f"broker     {shown(it.broker)} chooses, for all of its clients",) if it.broker else ()),
    ]
    return [*lines, *_cost(it.cost)]


def _queue(it: Statistics) -> str:
    if it.broker:
        average = f", {_seconds(it.waited_seconds / it.granted)} on average so far" if it.granted else ""
        return f"{it.waiting} of ours waiting at the broker{average}"
    parts = [f"{it.waiting} waiting"]
    if it.tenants:
        parts.append(f"the oldest for {_seconds(max(each.oldest_seconds for each in it.tenants))}")
    wait = it.expected_wait_seconds
    parts.append(
        f"a request would wait {_seconds(wait)} now" if math.isfinite(wait) else "a request would wait in vain"
    )
    if it.granted:
        parts.append(f"{_seconds(it.waited_seconds / it.granted)} on average so far")
    return ", ".join(parts)


def _cost(cost: object) -> list[str]:
    if not isinstance(cost, CostStatistics) or not cost.observations:
        return ["cost       nothing learned yet"]
    lines = [
        f"cost       learned from {_count(cost.observations, 'answer')}, off by {_percent(cost.spread)}; {_crowd(cost)}"
    ]
    if cost.unmatched:
        lines.append(f"           {cost.unmatched} of them named no features that could be used")
    lines += [f"           {name}: {_kind(kind)}" for name, kind in cost.kinds.items()]
    if cost.gpus:
        takes = ", ".join(f"{gpu or 'unnamed'} {factor:.2f} x" for gpu, factor in sorted(cost.gpus.items()))
        lines.append(f"           GPUs take {takes} as long as the typical replica")
    return lines


def _crowd(cost: CostStatistics) -> str:
    if cost.crowding < 0.01:
        return "what runs side by side does not slow each other"
    return f"2 side by side take {2**cost.crowding:.2f} x as long"


def _kind(kind: KindStatistics) -> str:
    held = f"off by {_percent(kind.error)}"
    if kind.in_use != "mean":
        held += f", their mean by {_percent(kind.mean_error)}"
    return f"{kind.formula} ({kind.in_use}, {held}, {_count(kind.observations, 'answer')})"


def _state(row: ReplicaStatistics) -> str:
    if row.is_leaving:
        return "leaving"
    if row.aside_seconds > 0:
        span = f" for {_seconds(row.aside_seconds)}" if math.isfinite(row.aside_seconds) else ""
        return f"aside{span}{': ' if row.why else ''}{row.why}"
    if row.why:
        return f"on trial: {row.why}"
    return "full" if row.in_flight >= row.limit else "ready"


def _percent(deviation_of_log: float) -> str:
    return f"{math.expm1(min(deviation_of_log, 10.0)):.0%}"


def _seconds(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "for ever"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


def _plain(value: object) -> str:
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in str(value))
