"""What ``muster watch`` tells a person on standard error: each published change in a line, each trouble once a minute.

A daemon that waits for something says so now and then, not at each attempt, of which there is one a second.
"""

import logging
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping

from muster.model.endpoint import EndpointSet, ServiceKey

REPEAT_SECONDS = 60.0
_NAMES_SHOWN = 8
_TALKATIVE = ("asyncio", "grpc", "httpcore", "httpx", "redis")
_VARIES = re.compile(r" \(asked again in \d+ s\)|\d+(\.\d+)?")

_log = logging.getLogger(__name__)


def set_up(level: int = logging.INFO) -> None:
    """Log to standard error, the libraries' own words only if they warn."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handler.addFilter(OnceAMinute(time.monotonic))
    logging.basicConfig(level=level, handlers=[handler])
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(max(logging.WARNING, level))


class OnceAMinute(logging.Filter):
    """Lets a warning pass that was not given within the last minute; numbers in it do not make it another one."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        super().__init__()
        self._monotonic = monotonic
        self._told_at: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to tell it."""
        if record.levelno < logging.WARNING:
            return True
        now = self._monotonic()
        self._told_at = {said: at for said, at in self._told_at.items() if now - at < REPEAT_SECONDS}
        said = record.name, _VARIES.sub("", record.getMessage())
        if said in self._told_at:
            return False
        self._told_at[said] = now
        return True


class PublishLog:
    """One line for each published change; give ``note`` to the watcher."""

    def __init__(self) -> None:
        self._last: dict[ServiceKey, frozenset[str]] = {}
        self._taken_over: set[ServiceKey] = set()

    def take_over(self, key: ServiceKey, endpoints: EndpointSet) -> None:
        """Know what others have published, so that only what differs is told."""
        self._last[key] = frozenset(each.id for each in endpoints.endpoints)
        self._taken_over.add(key)

    def note(self, key: ServiceKey, endpoints: EndpointSet, name: str) -> None:
        """Tell what was published of a service, and how it differs from what was told last."""
        present = frozenset(each.id for each in endpoints.endpoints)
        last = self._last.get(key, frozenset())
        self._last[key] = present
        if not present and not last:
            return  # each deployment has a second port, on which mostly nobody serves
        words = "taken over" if key in self._taken_over else "the same endpoints"
        self._taken_over.discard(key)
        reasons = {each.id: each.reason.replace("_", " ") for each in endpoints.withheld}
        changes = [*_listed("+", present - last, {}), *_listed("-", last - present, reasons)]
        withheld = f", {len(endpoints.withheld)} withheld" if endpoints.withheld else ""
        _log.info(
            "%s port %d: %s (%d ready%s; revision %d.%d)",
            _plain(f"{name} ({key.service})" if name else key.service),
            key.port,
            _plain(" ".join(changes)) or words,
            len(present),
            withheld,
            endpoints.epoch,
            endpoints.revision,
        )


def _listed(sign: str, ids: Iterable[str], reasons: Mapping[str, str]) -> list[str]:
    named = [f"{sign}{each} ({reasons[each]})" if each in reasons else f"{sign}{each}" for each in sorted(ids)]
    left = len(named) - _NAMES_SHOWN
    return named if left <= 0 else [*named[:_NAMES_SHOWN], f"{sign}{left} more"]


def _plain(text: str) -> str:
    """Return what stays one line and moves no cursor: names and ids were made elsewhere."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
