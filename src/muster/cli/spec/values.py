"""Texts of a deployment file to values: pure, one function a notation.

Scalars reach here as the characters that were written, never as YAML's own guess, so that ``cuda: 12.10`` is no float
and ``DEBUG: yes`` no truth value. A wrong text raises ``ValueError`` whose message says what is wrong and what would
be right; the caller adds file, line and field.

A single number where a range may stand means what a person means by it: at least so many CPUs, so much memory, so
new a CUDA, and at most such a price. Exactly that much (``8..8``) is hardly ever true of a machine.
"""

import re
from collections.abc import Callable, Mapping

from muster.errors import InvalidSpec
from muster.model.quantity import cuda_number

_MEMORY = re.compile(r"(\d+)\s*(?:(g|gb|gib)|(t|tb|tib))?", re.IGNORECASE)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)?", re.IGNORECASE)
_PRICE = re.compile(r"\d*\.?\d+|\d+\.")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_TRUTHS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}

MOST_GB = 2**20
"""More gigabytes than this (a petabyte) are bytes, given by mistake."""


def text(written: str) -> str:
    """Return a text that must not be empty."""
    if not written.strip():
        raise ValueError("is empty; give a text")
    return written


def whole(written: str, *, least: int = 0) -> int:
    """Return a whole number."""
    if not re.fullmatch(r"\d+", written) or int(written) < least:
        raise ValueError(f"{written!r} is not a whole number of at least {least}")
    return int(written)


def positive(written: str) -> int:
    """Return a whole number of at least 1."""
    return whole(written, least=1)


def truth(written: str) -> bool:
    """Return a truth value."""
    value = _TRUTHS.get(written.lower())
    if value is None:
        raise ValueError(f"{written!r} is neither true nor false")
    return value


def memory_gb(written: str) -> int:
    """Return whole gigabytes of ``24``, ``24GB`` or ``1TB``."""
    match = _MEMORY.fullmatch(written.strip())
    if match is None:
        raise ValueError(f"{written!r} is not a number of GB; write 24 or 24GB")
    number = int(match[1]) * (1024 if match[3] else 1)
    if number > MOST_GB:
        raise ValueError(f"{written} GB is more than any machine has; give GB, not bytes")
    return number


def cuda(written: str) -> int:
    """Return a CUDA version without its dot."""
    try:
        return cuda_number(written)
    except InvalidSpec:
        raise ValueError(f"{written!r} is not a CUDA version; write 12.8 (or 128)") from None


def yuan(written: str) -> int:
    """Return 1/1000 yuan of a price in yuan."""
    if _PRICE.fullmatch(written.strip()) is None:
        raise ValueError(f"{written!r} is not a price; write yuan per GPU-hour, like 3.5")
    milliyuan = float(written) * 1000
    if abs(milliyuan - round(milliyuan)) > 1e-6:
        raise ValueError(f"{written} is finer than 1/1000 yuan; round it")
    return round(milliyuan)


def duration(written: str) -> float:
    """Return seconds of ``30``, ``30s``, ``500ms``, ``2m`` or ``1h``."""
    match = _DURATION.fullmatch(written.strip())
    if match is None:
        raise ValueError(f"{written!r} is not a duration; write 30s, 500ms, 2m or 1h")
    return round(float(match[1]) * _SECONDS[(match[2] or "s").lower()], 6)


def span(written: str, number: Callable[[str], int], *, single_is_most: bool = False) -> tuple[int | None, int | None]:
    """Return lower and upper bound of ``4..8``, ``4..``, ``..8``, or of a single number."""
    lower_text, dots, upper_text = written.partition("..")
    if not dots:
        written = f"..{written}" if single_is_most else f"{written}.."
        lower_text, _, upper_text = written.partition("..")
    lower = number(lower_text.strip()) if lower_text.strip() else None
    upper = number(upper_text.strip()) if upper_text.strip() else None
    if lower is None and upper is None:
        raise ValueError("'..' has no bound; write 4..8, 4.. or ..8, or leave the field out")
    if upper == 0:
        raise ValueError("ends at 0, which AutoDL reads as no end; leave the end open, or begin at 1")
    if lower is not None and upper is not None and lower > upper:
        raise ValueError(f"{written} runs backwards; the smaller number comes first")
    return lower, upper


def gpu(written: str) -> tuple[str | None, int | None]:
    """Return model and count of ``RTX 4090:2``, ``RTX 4090``, ``any:2`` or ``2``; ``None`` is what was not said."""
    if written.isdigit():
        return None, positive(written)
    model, colon, count = written.rpartition(":")
    if not colon:
        model, count = written, ""
    model = model.strip()
    if not model or (colon and not count.strip().isdigit()):
        raise ValueError(f"{written!r} is not MODEL:COUNT; write RTX 4090:2")
    return None if model.lower() == "any" else model, positive(count.strip()) if colon else None


def word(words: Mapping[str, str]) -> Callable[[str], str]:
    """Return a function that maps one of some words, in any case, to what the wire calls it."""

    def parse(written: str) -> str:
        found = words.get(written.lower())
        if found is None:
            raise ValueError(f"{written!r} is not one of {', '.join(words)}")
        return found

    return parse
