"""A beginning in time as people write it, in a query or on a command line: ``since=10m``.

In: a text, now, and the zone of times that name none. Out: a moment in UTC. Pure.

It is a duration before now (``90s``, ``10m``, ``2h30m``, ``1.5h``, ``2d``, or plain seconds, ``90``), or a moment as
RFC 3339 has it (``2026-03-02T10:00:00+08:00``; without a zone, or the day alone). A plain number from ``_UNIX_TIME``
on is Unix time, as Docker reads it: nobody means 30 years ago.
"""

import datetime
import re

from muster.errors import InvalidSpec

_UNIX_TIME = 1_000_000_000
"""In September 2001."""
_DURATION = re.compile(
    r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?", re.ASCII
)
_UNITS = ("days", "hours", "minutes", "seconds")
_NUMBER = re.compile(r"\d{10,}(?:\.\d+)?", re.ASCII)


def moment(field: str, text: str, *, now: datetime.datetime, zone: datetime.tzinfo) -> datetime.datetime:
    """Return the moment that is meant. Raises ``InvalidSpec`` for ``field``."""
    try:
        if _NUMBER.fullmatch(text) and float(text) >= _UNIX_TIME:
            return datetime.datetime.fromtimestamp(float(text), datetime.UTC)
        duration = _DURATION.fullmatch(text)
        if duration is not None and any(duration.groups()):
            parts = {unit: float(part or 0) for unit, part in zip(_UNITS, duration.groups(), strict=True)}
            return now - datetime.timedelta(**parts)
        told = datetime.datetime.fromisoformat(text)
        return told.replace(tzinfo=told.tzinfo or zone).astimezone(datetime.UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise InvalidSpec(
            field, f"must be a duration like 10m or 2h30m, or a time like 2026-03-02T10:00:00+08:00, not {text!r}"
        ) from error
