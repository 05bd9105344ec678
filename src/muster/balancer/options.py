"""What a request says about itself to the balancer: options in an extension, in headers, or by a callable.

``request.extensions["muster"]`` holds them as they are (``{"features": {"pixels": 1048576}, "timeout": 5}``). Headers
hold the same as texts, for SDKs that can only add headers (``extra_headers`` of the OpenAI SDK); they are ours, so they
are taken out before anything is sent. ``features=`` of a transport is asked when neither gives features. What the
extension says goes before what a header says.

An option that nobody knows is refused, as a wrong value is: a mistyped ``idempotnet`` would otherwise look like one
that works, and as a header it would be sent on. Nothing is parsed for a request that says nothing.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from muster.balancer.ask import NOTHING_SAID, Ask, ask_from, seconds_of
from muster.errors import CannotMeetDeadline, InvalidAsk

DEFAULT_RESENDS = 2
"""How often a request goes again after it may have been sent: three replicas that break are the request's own doing.

Finagle stops after 2 as well, Envoy after 1.
"""

_ASK = ("features", "demands", "priority", "tenant", "affinity", "deadline")
_NAMES = frozenset((*_ASK, "timeout", "idempotent", "hedge", "resends"))


@dataclass(frozen=True, slots=True)
class Options:
    """``None`` is what was not said. ``timeout_seconds`` bounds the wait for a replica, ``ask.answer_by`` all of it."""

    ask: Ask = NOTHING_SAID
    timeout_seconds: float | None = None
    is_idempotent: bool | None = None
    hedge_seconds: float | None = None
    resends: int = DEFAULT_RESENDS


NO_OPTIONS = Options()


def take_options(
    headers: httpx.Headers, given: object, now: float, features: Callable[[], object] | None = None
) -> Options:
    """Read a request's options, and take those among ``headers`` out. Raises ``InvalidAsk``, which names the option.

    ``given`` is the extension, ``None`` if there is none.
    """
    options = _from_headers(headers) if any(_is_ours(key) for key, _ in headers.raw) else {}
    if given is not None:
        if not isinstance(given, Mapping):
            raise InvalidAsk('extensions["muster"]', f"is a {type(given).__name__}, not a mapping of options")
        options |= given
    if features is not None and options.get("features") is None:
        options["features"] = _asked(features)
    return options_from(options, now) if options else NO_OPTIONS


def options_from(options: Mapping[str, Any], now: float) -> Options:
    """Read options by name. Raises ``InvalidAsk``."""
    if not options.keys() <= _NAMES:
        (unknown, *_) = options.keys() - _NAMES
        raise InvalidAsk(str(unknown), f"is no option; there are {', '.join(sorted(_NAMES))}")
    hedge = options.get("hedge")
    if hedge is not None and not 0 <= seconds_of("hedge", hedge, default=0) < math.inf:
        raise InvalidAsk("hedge", f"{hedge!r} is not a number of seconds ≥ 0")
    timeout = options.get("timeout")
    return Options(
        ask=ask_from(options, now) if not options.keys().isdisjoint(_ASK) else NOTHING_SAID,
        timeout_seconds=None if timeout is None else seconds_of("timeout", timeout, default=0),
        is_idempotent=_flag(options.get("idempotent")),
        hedge_seconds=hedge,
        resends=_count("resends", options.get("resends"), DEFAULT_RESENDS),
    )


def too_late(seconds: float) -> CannotMeetDeadline:
    """Return the error for a request whose deadline had passed ``seconds`` before it was made."""
    return CannotMeetDeadline(
        f"its deadline had passed by {seconds:.3g} s when it was made, so nothing was sent: drop it, or give more time",
        waited_seconds=0.0,
        expected_seconds=0.0,
    )


def _asked(features: Callable[[], object]) -> object:
    try:
        found = features()
    except Exception as error:
        raise InvalidAsk("features", f"the callable raised {type(error).__name__}: {error}") from error
    if found is not None and not isinstance(found, Mapping):
        if hasattr(found, "close"):
            found.close()  # a coroutine would complain that nobody awaited it
        raise InvalidAsk("features", f"the callable returned a {type(found).__name__}, not a mapping of numbers")
    return found


def header_options(fields: Iterable[tuple[str, str]]) -> dict[str, object]:
    """Read the options among a message's fields, as ``options_from`` takes them. Raises ``InvalidAsk``.

    ``fields`` are names and values; a name that comes twice counts as one with both values.
    """
    said: dict[str, str] = {}
    for name, value in fields:
        if _is_ours(name):
            lower = name.lower()
            said[lower] = f"{said[lower]}, {value}" if lower in said else value
    options: dict[str, object] = {}
    for header, (name, parse) in _HEADERS.items():
        text = said.pop(header.lower(), None)
        if text is not None:
            try:
                options[name] = parse(text.strip())
            except (ValueError, RecursionError) as error:
                raise InvalidAsk(header, f"{text!r} is wrong: {_EXAMPLES[name]}") from error
    for unknown in said:
        raise InvalidAsk(unknown, f"is no header of ours; there are {', '.join(_HEADERS)}")
    return options


def _from_headers(headers: httpx.Headers) -> dict[str, object]:
    ours = [(name, value) for name, value in headers.items() if _is_ours(name)]
    for name, _ in ours:
        del headers[name]
    return header_options(ours)


def _is_ours(header: str | bytes) -> bool:
    return header[:9].lower() in ("x-muster-", b"x-muster-")


def _numbers(text: str) -> dict[str, object]:
    """Read ``pixels=1048576, steps=30``, or the same as a JSON object."""
    if text.startswith("{"):
        found: dict[str, object] = json.loads(text)
        return found
    numbers: dict[str, object] = {}
    for pair in filter(None, map(str.strip, text.split(","))):
        name, _, number = pair.partition("=")
        numbers[name.strip()] = float(number)
    return numbers


def _truth(text: str) -> bool:
    if text.lower() not in _TRUTHS:
        raise ValueError(text)
    return _TRUTHS[text.lower()]


def _flag(value: object) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise InvalidAsk("idempotent", f"{value!r} is neither True nor False")
    return value


def _count(name: str, value: object, default: int) -> int:
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidAsk(name, f"{value!r} is not a whole number ≥ 0")
    return value


_TRUTHS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}

_HEADERS: Mapping[str, tuple[str, Callable[[str], object]]] = {
    "X-Muster-Features": ("features", _numbers),
    "X-Muster-Demands": ("demands", _numbers),
    "X-Muster-Priority": ("priority", int),
    "X-Muster-Tenant": ("tenant", str),
    "X-Muster-Affinity": ("affinity", str),
    "X-Muster-Deadline": ("deadline", float),
    "X-Muster-Timeout": ("timeout", float),
    "X-Muster-Idempotent": ("idempotent", _truth),
    "X-Muster-Hedge": ("hedge", float),
    "X-Muster-Resends": ("resends", int),
}

_EXAMPLES = {
    "features": "write pixels=1048576, steps=30, or a JSON object",
    "demands": "write vram_mb=3000, or a JSON object",
    "priority": "write a whole number",
    "deadline": "write a number of seconds",
    "timeout": "write a number of seconds",
    "idempotent": "write 1 or 0",
    "hedge": "write a number of seconds",
    "resends": "write a whole number",
}
