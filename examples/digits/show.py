"""What the demo prints: steps as they happen, a line of progress while the load runs, tables at the end.

On a terminal the progress is a live line; anywhere else there are plain lines only.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from examples.digits.load import Tally


@dataclass(frozen=True)
class Check:
    """One thing that the demo promises, and what was found."""

    promise: str
    found: str
    is_kept: bool


class Show:
    """Prints, and remembers when what happened."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)
        self._begun = time.monotonic()
        self._moments: list[tuple[float, str]] = []

    def step(self, text: str) -> None:
        """Announce a step."""
        self._console.print(f"[bold cyan]▸[/] {text}")

    def moment(self, text: str) -> None:
        """Tell something that happened; it comes again in the timeline."""
        seconds = time.monotonic() - self._begun
        self._moments.append((seconds, text))
        self._console.print(f"  [dim]{seconds:6.2f} s[/]  {text}")

    @contextmanager
    def progress(self, tally: Tally) -> Iterator[None]:
        """Keep a line about the load up to date, where there is a terminal."""
        if not self._console.is_terminal:
            yield
            return
        begun = time.monotonic()

        def line() -> Text:
            rate = tally.answered / max(0.001, time.monotonic() - begun)
            percent = 100 * (tally.answered % tally.images) // tally.images
            return Text(
                f"  load: pass {tally.passes + 1} at {percent:2d} %, {tally.answered} answered, "
                f"{tally.failed} failed, {rate:.0f}/s",
                style="green" if not tally.failed else "red",
            )

        with Live(get_renderable=line, console=self._console, refresh_per_second=8, transient=True):
            yield

    def disturbances(self, rows: Iterable[Sequence[str]]) -> None:
        """Print what each disturbance cost."""
        columns = ("disturbance", "settled after", "answered meanwhile", "failed", "p50", "p99")
        self._table("Under load", columns, rows)

    def timeline(self) -> None:
        """Print every moment again, in order."""
        rows = [(f"{seconds:.2f} s", text) for seconds, text in self._moments]
        self._table("Timeline", ("at", "what"), rows, right=1)

    def verdict(self, checks: Sequence[Check]) -> bool:
        """Print the checks and the verdict; return whether all promises were kept."""
        table = Table(title="Verdict", title_justify="left", title_style="bold")
        for column in ("", "promise", "found"):
            table.add_column(column)
        for check in checks:
            mark = "[green]✓[/]" if check.is_kept else "[red]✗[/]"
            table.add_row(mark, check.promise, check.found)
        self._console.print(table)
        is_kept = all(check.is_kept for check in checks)
        self._console.print("[bold green]PASSED[/]" if is_kept else "[bold red]FAILED[/]")
        return is_kept

    def _table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: int = 6) -> None:
        table = Table(title=title, title_justify="left", title_style="bold")
        for number, column in enumerate(columns):
            table.add_column(column, justify="right" if 0 < number < right and right > 1 else "left")
        for row in rows:
            table.add_row(*row)
        self._console.print(table)
