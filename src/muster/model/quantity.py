"""Inclusive ranges, and the units that the model counts in.

Inside Muster memory is bytes, price is 1/1000 yuan per GPU-hour, CUDA is the version without its dot (12.8 is 128).
Wire units (GB of 2**30 bytes) are converted at the edge.
"""

import re
from dataclasses import dataclass
from typing import Self

from muster.errors import InvalidSpec

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from ``lower`` to ``upper``, both included; ``upper=None`` means no upper bound."""

    lower: int = 0
    upper: int | None = None

    def __post_init__(self) -> None:
        if self.lower < 0:
            raise InvalidSpec("range", f"{self.lower} is below 0")
        if self.upper is not None and self.upper < self.lower:
            raise InvalidSpec("range", f"from {self.lower} is greater than to {self.upper}")

    def __contains__(self, value: int) -> bool:
        return self.lower <= value and (self.upper is None or value <= self.upper)

    def __str__(self) -> str:
        lower = str(self.lower) if self.lower else ""
        upper = "" if self.upper is None else str(self.upper)
        return f"{lower}..{upper}" if lower or upper else "any"

    @classmethod
    def exactly(cls, value: int) -> Self:
        """Return the range that holds ``value`` only."""
        return cls(value, value)


ANY = Range()


def cuda_number(version: float | str) -> int:
    """Return a CUDA version without its dot: ``12.8``, ``"12.8"`` and ``128`` are 128; a bare ``12`` is 120.

    Raises ``InvalidSpec`` for anything else.
    """
    match = re.fullmatch(r"(\d{1,2})(?:\.(\d))?|(\d{3,4})", str(version).strip())
    if match is None:
        raise InvalidSpec("cuda", f"{version!r} is not a CUDA version like 12.8")
    major, minor, joined = match.groups()
    return int(joined) if joined else int(major) * 10 + int(minor or 0)
