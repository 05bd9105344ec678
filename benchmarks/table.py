"""How every benchmark shows what it measured: samples to percentiles, percentiles to a row, the machine once on top.

Percentiles are nearest-rank, so each one is a sample that was really measured; with fewer than a hundred samples p99
is the maximum, which is why n stands in every row. Nothing is interpolated and nothing is left out as an outlier.
"""

import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

PLAIN_WIDTH = 140


def percentile(samples: Sequence[float], percent: float) -> float:
    """Return the smallest sample that ``percent`` of all samples do not exceed."""
    ordered = sorted(samples)
    return ordered[max(0, -(-len(ordered) * percent // 100).__int__() - 1)]


def latency_table(title: str, caption: str = "") -> Table:
    """Return a table for ``add_latency``."""
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    table.add_column("what")
    for column in ("n", "p50", "p99", "max", "target"):
        table.add_column(column, justify="right")
    return table


def plain_table(title: str, columns: Sequence[str], caption: str = "") -> Table:
    """Return a table whose first column says what, and whose others hold numbers."""
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    for column in columns:
        table.add_column(column, justify="right" if table.columns else "left")
    return table


def add_latency(table: Table, what: str, samples: Sequence[float], target: str = "") -> None:
    """Add a row; ``samples`` are in seconds."""
    shown = (percentile(samples, 50), percentile(samples, 99), max(samples))
    table.add_row(what, str(len(samples)), *map(duration, shown), target)


def add_ratio(
    table: Table, what: str, samples: Sequence[float], peers: Sequence[float], target: str = "", *, percent: float = 50
) -> None:
    """Add a row to such a table: a percentile of ``samples`` over the same one of ``peers``."""
    ratio = percentile(samples, percent) / percentile(peers, percent)
    shown = f"{ratio:.2f} x" if ratio < 10 else f"{ratio:,.0f} x"
    table.add_row(what, f"{len(samples)}, {len(peers)}", shown, "", "", target)


def duration(seconds: float) -> str:
    """Write a duration in the unit that reads best."""
    return f"{seconds:.2f} s" if abs(seconds) >= 1 else f"{seconds * 1e3:.1f} ms"


def machine() -> str:
    """Name what the figures were measured on."""
    cores = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return (
        f"{cores} cores, {_processor()}; {python}; {platform.system()} {platform.release()}; load {load:.1f} at start"
    )


def console() -> Console:
    """Return where tables go: a terminal as it is, anything else wide enough that no row is folded."""
    return Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)


def show(out: Console, table: Table) -> None:
    """Print a table; without a terminal in plain ASCII."""
    if not out.is_terminal:
        table.box = box.MARKDOWN
    out.print(table)
    out.print()


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
