"""Decides about each request: who asks, for which service, with which options, and within which limits.

In: a head. Out: a ``Decision``, at once. The order is that of what is worth knowing: without a key nobody learns which
services there are, and nothing is counted before everything else is right, so that there is nothing to take back.

    fields ▸ key (401) ▸ route (400, 404, the body first, or which models there are) ▸ may it (403)
           ▸ options (400, 403) ▸ length (413) ▸ gate (404, 503) ▸ limits of the key (429) ▸ in

One object for one configuration: a reload makes another one. The gates (``services.py``) and what keys have used
(``ledger.py``) stay.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence

from muster.balancer.options import NO_OPTIONS, Options, header_options, options_from
from muster.errors import InvalidAsk
from muster.gateway import answers
from muster.gateway.config import GatewayConfig, KeyTable, RouteTable
from muster.gateway.keys import API_KEY, AUTHORIZATION, Key, Keyring
from muster.gateway.ledger import Ledger
from muster.gateway.models import Models, told
from muster.gateway.port import Decision, NeedsBody, Passage, Refused
from muster.gateway.routing import NoRoute, Rule, Table, segments_of
from muster.gateway.services import Services
from muster.http1.request_head import RequestHead

_MB = 1_000_000
_LONGEST_ERROR = 500
"""Of what quotes a client: a header's value may be as long as a head."""
_MOST_SAID_BYTES = 4096
"""Of all options together. What does not fit into an ask a worker decides by itself, past all who wait."""
_OURS = b"x-muster-"
_INITIALS = frozenset(b"aAxX")


class GatewayReception:
    """The reception of one configuration; made by ``reception_of``."""

    def __init__(
        self,
        table: Table,
        keys: Keyring,
        services: Services,
        ledger: Ledger,
        *,
        has_keys: bool = False,
        model_body_bytes: int = _MB,
        concurrency: Callable[[str, int], int | None] = lambda _, __: None,
    ) -> None:
        self._table = table
        self._keys = keys
        self._services = services
        self._ledger = ledger
        self._has_keys = has_keys
        self._concurrency = concurrency
        self._needs_body = NeedsBody(
            model_body_bytes,
            Refused(
                413,
                "body_too_large",
                f"the body says which service is meant, and more than {model_body_bytes} bytes of it are not read"
                " for that: name the service by the path",
            ),
        )

    def admit(self, head: RequestHead, peer: str, body: bytes | None, now: float) -> Decision:
        """Return what is to become of a request."""
        del peer
        fields = _Fields(head.lines)
        caller = self._keys.caller(fields.api_keys, fields.authorizations)
        if isinstance(caller, Refused):
            return caller
        found = self._table.find(head, fields.value, body)
        if found == "needs body":
            return self._needs_body
        if isinstance(found, Models):
            return told(found, caller.key)
        name = caller.key.name if caller.key is not None else ""
        if isinstance(found, NoRoute):
            return Refused(found.status, found.reason, found.error, key=name)
        service, rule = found.service, found.rule
        refused = _not_allowed(caller.key, service)
        options = refused or self._options(fields.ours, caller.key, rule, now)
        if isinstance(options, Refused):
            return dataclasses.replace(options, key=name, service=service)
        said_bytes = len(body) if body is not None else head.length or 0
        if rule.most_body_bytes is not None and said_bytes > rule.most_body_bytes:
            return dataclasses.replace(answers.too_large(rule.most_body_bytes), key=name, service=service)
        gate = self._services.gate(service, rule.port, concurrency=self._concurrency(service, rule.port))
        if isinstance(gate, Refused):
            return dataclasses.replace(gate, key=name)
        key = caller.key
        leave: Callable[[], None] = _nothing
        if key is not None and key.slot is not None:
            too_much = self._ledger.enter(key, now)
            if too_much is not None:
                return dataclasses.replace(too_much, service=service)
            leave = functools.partial(self._ledger.leave, key)
        return Passage(
            service=service,
            gate=gate,
            target=found.target,
            options=options,
            leave=leave,
            key=name,
            dropped=caller.dropped,
            most_body_bytes=rule.most_body_bytes,
        )

    def _options(self, ours: Sequence[tuple[str, str]], key: Key | None, rule: Rule, now: float) -> Options | Refused:
        """Read what a request says of itself, within what its key may say."""
        if not ours and key is None and rule.is_plain:
            return NO_OPTIONS
        if (size := sum(len(value) for _, value in ours)) > _MOST_SAID_BYTES:
            error = f"X-Muster-…: {size} bytes of options, more than {_MOST_SAID_BYTES}: say less"
            return Refused(400, "invalid", error)
        try:
            said = header_options(ours)
            refused = self._bounded(said, key, rule)
            return refused or options_from(said, now)
        except InvalidAsk as error:
            return Refused(400, "invalid", str(error)[:_LONGEST_ERROR])

    def _bounded(self, said: dict[str, object], key: Key | None, rule: Rule) -> Refused | None:
        """Fill in what the route and the key say; or say what a client may not. Raises ``InvalidAsk``."""
        if "hedge" in said:
            return Refused(400, "invalid", "X-Muster-Hedge: a gateway sends a request to one replica: leave it out")
        deadline = said.get("deadline", rule.deadline)
        if isinstance(deadline, float):
            if deadline <= 0:
                return Refused(400, "deadline", f"X-Muster-Deadline: {deadline:g} s: that has passed; give more time")
            said["deadline"] = min(deadline, key.deadline or math.inf) if key is not None else deadline
        elif key is not None and key.deadline is not None:
            said["deadline"] = key.deadline
        said.setdefault("timeout", rule.timeout)
        said.setdefault("idempotent", rule.idempotent)
        if self._has_keys:
            highest = max(rule.priority, key.priority if key is not None else 0)
            priority = said.setdefault("priority", highest)
            if isinstance(priority, int) and priority > highest:
                return _forbidden(f"X-Muster-Priority: {priority} is above {highest}, the highest that is allowed here")
            tenant = key.tenant if key is not None else ""
            if said.setdefault("tenant", tenant) != tenant:
                return _forbidden("X-Muster-Tenant: whose share a request takes is up to its API key: leave it out")
        else:
            said.setdefault("priority", rule.priority)
        return None


def reception_of(
    config: GatewayConfig, services: Services, ledger: Ledger, slots: Mapping[str, int]
) -> GatewayReception:
    """Return the reception for a configuration, and have gates for what it names; ``slots`` are those of its keys."""
    concurrencies = {
        (route.service, route.port): route.concurrency for route in reversed(config.route) if route.concurrency
    }
    services.tells_names = all(key.services is None for key in config.key)  # else some may not know of others' services
    table = Table(
        tuple(map(rule_of, config.route)),
        config.service,
        knows=services.knows,
        names=lambda: services.names,
        tells_names=services.tells_names,
    )

    def concurrency(name: str, port: int) -> int | None:
        return concurrencies.get((name, port)) or concurrencies.get(("*", port))

    services.mean(table.named, concurrency)
    return GatewayReception(
        table,
        Keyring((key_of(each, slots.get(each.name)) for each in config.key), is_needed=config.needs_key),
        services,
        ledger,
        has_keys=bool(config.key),
        model_body_bytes=int(config.limits.model_body_mb * _MB),
        concurrency=concurrency,
    )


def rule_of(route: RouteTable) -> Rule:
    """Return what a route means."""
    path = segments_of(route.path or "")
    strip = len(segments_of(route.strip)) if isinstance(route.strip, str) else len(path) * route.strip
    return Rule(
        service=route.service,
        port=route.port,
        path=path,
        host=route.host or "",
        header=route.header,
        models=frozenset(route.model),
        strip=strip,
        timeout=route.timeout,
        deadline=route.deadline,
        priority=route.priority,
        idempotent=route.idempotent,
        most_body_bytes=None if route.max_body_mb is None else int(route.max_body_mb * _MB),
    )


def key_of(table: KeyTable, slot: int | None) -> Key:
    """Return what a key may; one without limits needs no slot."""
    rate = table.requests_per_second
    return Key(
        name=table.name,
        sha256=table.sha256,
        tenant=table.tenant or table.name,
        priority=table.priority,
        services=None if table.services is None else frozenset(table.services),
        requests_per_second=rate,
        burst=table.burst or math.ceil(rate or 1),
        concurrency=table.concurrency,
        deadline=table.deadline,
        is_revoked=table.revoked,
        is_disabled=table.disabled,
        slot=slot if rate is not None or table.concurrency is not None else None,
    )


class _Fields:
    """What of a head is for the gateway."""

    __slots__ = ("_lines", "api_keys", "authorizations", "ours")

    def __init__(self, lines: Sequence[bytes]) -> None:
        self._lines = lines
        self.api_keys: list[bytes] = []
        self.authorizations: list[bytes] = []
        self.ours: list[tuple[str, str]] = []
        for line in lines:
            if line[0] not in _INITIALS:
                continue
            name, _, value = line.partition(b":")
            lower = name.lower()
            if lower[:9] == _OURS:
                self.ours.append((name.decode("latin-1"), value.strip().decode("latin-1")))
            elif lower == API_KEY:
                self.api_keys.append(value.strip())
            elif lower == AUTHORIZATION:
                self.authorizations.append(value.strip())

    def value(self, name: str) -> str | None:
        """Return the value of a field, with commas between several; ``None`` if there is none."""
        wanted, values = name.encode("latin-1", "replace"), []
        for line in self._lines:
            found, _, value = line.partition(b":")
            if found.lower() == wanted:
                values.append(value.strip().decode("latin-1"))
        return ", ".join(values) if values else None


def _not_allowed(key: Key | None, service: str) -> Refused | None:
    if key is None or key.services is None or service in key.services:
        return None
    return _forbidden(f"the API key {key.name!r} is not for this service: ask whoever runs this gateway")


def _forbidden(error: str) -> Refused:
    return Refused(403, "not_allowed", error)


def _nothing() -> None:
    """Give nothing back: nothing was counted."""
