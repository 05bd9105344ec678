"""What commands print: a table for a person, plain lines for a pipe, JSON for a program.

Rows are the client's frozen values. JSON is those values field by field, memory in bytes and prices in 1/1000 yuan,
and nothing else reaches standard output with it; its names are part of the public interface. On a terminal
cells have colours; into a pipe go the same cells as aligned lines. Nothing is ever cut off.
"""

import dataclasses
import datetime
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, Generic, TypeVar

import typer

Row = TypeVar("Row")

GIB = 2**30
_WIDEST = 10_000


class Format(StrEnum):
    """How a command prints what it read."""

    TABLE = "table"
    JSON = "json"


Output = Annotated[Format, typer.Option("--output", "-o", help="How to print it.", show_default=True)]


@dataclasses.dataclass(frozen=True, slots=True)
class Column(Generic[Row]):
    """A heading, and the cell under it; ``style`` names a colour for a cell's text."""

    title: str
    cell: Callable[[Row], object]
    is_number: bool = False
    style: Callable[[str], str] | None = None


def show(rows: Iterable[Row], columns: Sequence[Column[Row]], output: Format, *, empty: str) -> None:
    """Print rows; ``empty`` is told to a person when there is none."""
    listed = list(rows)
    if output is Format.JSON:
        print_json(listed)
    elif not listed:
        print(empty, file=sys.stderr)  # noqa: T201 the CLI prints
    else:
        print_table(listed, columns)


def print_table(rows: Sequence[Row], columns: Sequence[Column[Row]]) -> None:
    """Draw a table on a terminal; print aligned lines anywhere else."""
    cells = [[_text(column.cell(row)) for column in columns] for row in rows]
    if sys.stdout.isatty():
        _draw(cells, columns)
        return
    titles = [column.title for column in columns]
    widths = [max(map(len, each)) for each in zip(titles, *cells, strict=True)]
    for line in [titles, *cells]:
        padded = [
            cell.rjust(width) if column.is_number else cell.ljust(width)
            for column, cell, width in zip(columns, line, widths, strict=True)
        ]
        print("  ".join(padded).rstrip())  # noqa: T201


def _draw(cells: Sequence[Sequence[str]], columns: Sequence[Column[Row]]) -> None:
    """Draw on a terminal; a line that is too long is wrapped by the terminal as a whole, not cell by cell."""
    from rich.console import Console  # noqa: PLC0415 rich is loaded only where something is drawn
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column.title, justify="right" if column.is_number else "left", no_wrap=True)
    for line in cells:
        table.add_row(*(Text(cell, _style(column, cell)) for column, cell in zip(columns, line, strict=True)))
    console = Console()
    console.width = console.measure(table, options=console.options.update(width=_WIDEST)).maximum
    console.print(table, soft_wrap=True)


def print_json(value: object, *, is_line: bool = False) -> None:
    """Print one JSON value; as one line where more follow."""
    text = json.dumps(value, default=_plain, ensure_ascii=False, indent=None if is_line else 2)
    print(text, flush=is_line)  # noqa: T201


def note(text: str) -> None:
    """Tell a person something that is not the answer: it goes to standard error."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def say(text: str) -> None:
    """Print a line of the answer."""
    print(text, flush=True)  # noqa: T201


def report(action: str, name: str, uuid: str, text: str, output: Format) -> None:
    """Say what was done to a deployment: a sentence for a person, or one object."""
    if output is Format.JSON:
        print_json({"action": action, "name": name, "deployment_uuid": uuid})
    else:
        say(f"{name} {uuid}: {text}")


def age(moment: datetime.datetime | None) -> str:
    """Return how long ago something was, roughly."""
    if moment is None:
        return ""
    return _roughly(datetime.datetime.now(datetime.UTC) - moment)


def until(moment: datetime.datetime | None) -> str:
    """Return in how long something will be, roughly."""
    if moment is None:
        return ""
    return _roughly(moment - datetime.datetime.now(datetime.UTC))


def _roughly(span: datetime.timedelta) -> str:
    seconds = max(0, int(span.total_seconds()))
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def yuan(milliyuan: int) -> str:
    """Return a price in yuan."""
    return f"{milliyuan / 1000:.2f}"


def gigabytes(count: int) -> str:
    """Return memory in GB of 2**30 bytes."""
    return f"{count / GIB:g}" if count % GIB == 0 else f"{count / GIB:.1f}"


def cuda(version: int) -> str:
    """Return a CUDA version with its dot."""
    return f"{version // 10}.{version % 10}" if version else "-"


def status_style(status: str) -> str:
    """Return the colour of a status."""
    if status == "running":
        return "green"
    return "dim" if status in {"shutdown", "stopped"} else "yellow"


def _style(column: Column[Row], cell: str) -> str:
    return column.style(cell) if column.style else ""


def _text(cell: object) -> str:
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return "" if cell is None else str(cell)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
