"""``machines`` and ``stock``: what there is to deploy on, what is wrong with it, and what is wanted of it.

``muster machines`` alone lists. Below the table, on standard error, it names each host on which more fails than chance
explains, with the command that keeps the account's deployments off it.
"""

import shlex
import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from muster.cli.connection import connected
from muster.cli.names import find_container
from muster.cli.prompt import Yes, agreed
from muster.cli.view import Column, Format, Output, age, cuda, gigabytes, note, print_json, say, show, until, yuan
from muster.errors import InvalidSpec, NotFound

if TYPE_CHECKING:
    from muster.client import Blacklisted, Client, Machine, Stock

POLL_SECONDS = 0.5


def _state(row: "Machine") -> str:
    if row.state in {"lost", "unreachable"}:
        word = f"{row.state} {age(row.unreachable_since or row.lost_at)}"
        return f"{word}, {row.containers_left} left" if row.containers_left else word
    if row.state == "draining":
        return f"draining, {row.containers_left} left"
    return f"{row.state}, blacklisted" if row.blacklisted_until else row.state


def _colour(state: str) -> str:
    if state == "usable":
        return "green"
    return "red" if state.startswith(("lost", "unreachable", "unavailable")) else "yellow"


MACHINES: "tuple[Column[Machine], ...]" = (
    Column("MACHINE", lambda row: row.id),
    Column("DATA CENTER", lambda row: row.data_center),
    Column("GPU", lambda row: row.gpu_name),
    Column("IDLE", lambda row: row.idle_gpu_num, is_number=True),
    Column("TOTAL", lambda row: row.gpu_num, is_number=True),
    Column("CPU", lambda row: row.cpu_num, is_number=True),
    Column("MEMORY GB", lambda row: gigabytes(row.memory_bytes), is_number=True),
    Column("CUDA", lambda row: cuda(row.cuda), is_number=True),
    Column("YUAN/GPU/H", lambda row: yuan(row.price_milliyuan), is_number=True),
    Column("STATE", _state, style=_colour),
    Column("FAILED 24H", lambda row: sum(row.failures.values()), is_number=True),
    Column("PROBLEM", lambda row: row.problem, style=lambda _: "red"),
)


def _fits(size: int, row: "Stock") -> int | None:
    return row.fits.get(size)


STOCK: "tuple[Column[Stock], ...]" = (
    Column("GPU", lambda row: row.gpu_name),
    Column("IDLE", lambda row: row.idle_gpu_num, is_number=True),
    Column("TOTAL", lambda row: row.total_gpu_num, is_number=True),
    *(Column(f"FITS x{size}", partial(_fits, size), is_number=True) for size in (1, 2, 4, 8)),
)
BLACKLISTED: "tuple[Column[Blacklisted], ...]" = (
    Column("MACHINE", lambda row: row.machine_id),
    Column("DATA CENTER", lambda row: row.data_center),
    Column("SINCE", lambda row: age(row.created_at), is_number=True),
    Column("EXPIRES IN", lambda row: until(row.expires_at), is_number=True),
    Column("COMMENT", lambda row: row.comment),
)


class _ListsByDefault(TyperGroup):
    """Takes ``muster machines`` and its options for ``muster machines ls``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Name the command where none is named."""
        is_bare = not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names)
        return super().parse_args(ctx, ["ls", *args] if is_bare else args)


machines = typer.Typer(
    name="machines", cls=_ListsByDefault, help="List machines (as ls does); keep them free, empty them, keep off them."
)

Id = Annotated[str, typer.Argument(help="Id of the machine, or its beginning.", metavar="MACHINE")]
Host = Annotated[
    str, typer.Argument(help="Id of the machine, or uuid of a container there; or its beginning.", metavar="MACHINE")
]


@machines.command(name="ls")
@connected
def list_machines(client: "Client", output: Output = Format.TABLE) -> None:
    """List the machines on offer, their idle GPUs, why some cannot be used, and which of them fail."""
    found = client.machines()
    show(found, MACHINES, output, empty="no machines are offered")
    if output is Format.TABLE:
        for row in found:
            if row.suspect is not None and row.blacklisted_until is None:
                note(f"{row.id} fails regularly: {row.suspect.sentence}; to keep your deployments off it for a day:")
                note(f"  {_blacklist_command(row)}")


@machines.command()
@connected
def cordon(client: "Client", machine: Id, output: Output = Format.TABLE) -> None:
    """Place nothing new on a machine; what runs there stays (admins only)."""
    _report("cordon", client.upkeep.cordon(_found(client, machine)), "gets nothing new", output)


@machines.command()
@connected
def uncordon(client: "Client", machine: Id, output: Output = Format.TABLE) -> None:
    """Let a machine be used again; takes a drain back, too (admins only)."""
    _report("uncordon", client.upkeep.uncordon(_found(client, machine)), "may be used again", output)


@machines.command()
@connected
def drain(
    client: "Client",
    machine: Id,
    now: Annotated[bool, typer.Option("--now", help="Move Jobs and Containers too; they start anew.")] = False,
    is_waiting: Annotated[bool, typer.Option("--wait/--no-wait", help="Go on until it is empty.")] = True,
    output: Output = Format.TABLE,
) -> None:
    """Empty a machine: replicas are replaced elsewhere, Jobs and Containers come to their end (admins only)."""
    row = client.upkeep.drain(_found(client, machine), now=now)
    told = None
    while is_waiting and row.containers_left:
        if row.containers_left != told:
            told = row.containers_left
            note(f"{row.id}: {told} {'container is' if told == 1 else 'containers are'} still there")
        time.sleep(POLL_SECONDS)
        row = next((each for each in client.machines() if each.id == row.id), row)
        if row.drain == "none":
            raise InvalidSpec(row.id, "the drain was taken back meanwhile")
    left = row.containers_left
    _report("drain", row, f"{left} still to go" if left else "is empty and gets nothing new", output)


@machines.command(name="declare-lost")
@connected
def declare_lost(client: "Client", machine: Id, yes: Yes = False, output: Output = Format.TABLE) -> None:
    """Replace at once what ran on a machine that does not answer (admins only)."""
    found = _found(client, machine)
    question = f"Replace everything on {found}? What still runs there unseen is ended when it returns."
    if agreed(question, yes=yes):
        _report("declare-lost", client.upkeep.declare_lost(found), "counts as lost", output)


@machines.command()
@connected
def blacklist(
    client: "Client",
    machine: Host,
    hours: Annotated[float, typer.Option("--hours", min=1 / 60, max=720, help="For how long.", show_default=True)] = 24,
    comment: Annotated[str, typer.Option("--comment", help="Why, for whoever reads the list.")] = "",
    output: Output = Format.TABLE,
) -> None:
    """Keep the account's deployments off a machine for a time; what runs there stays."""
    host = find_container(client, machine).machine_id if "-" in machine else _found(client, machine)
    entry = client.upkeep.blacklist(host, minutes=max(1, round(hours * 60)), comment=comment)
    if output is Format.JSON:
        print_json(entry)
    else:
        say(f"{entry.machine_id}: nothing new of yours is placed there for {until(entry.expires_at)}")


@machines.command()
@connected
def unblacklist(client: "Client", machine: Id, output: Output = Format.TABLE) -> None:
    """Allow a machine again."""
    banned = [each.machine_id for each in client.upkeep.blacklisted()]
    if not any(each.startswith(machine) for each in banned):
        raise InvalidSpec(machine, f"is not blacklisted; these are: {', '.join(banned) or 'none'}")
    entry = client.upkeep.unblacklist(_matching(machine, banned))
    if output is Format.JSON:
        print_json(entry)
    else:
        say(f"{entry.machine_id}: may be used again")


@machines.command()
@connected
def blacklisted(client: "Client", output: Output = Format.TABLE) -> None:
    """List the machines that the account keeps off."""
    show(client.upkeep.blacklisted(), BLACKLISTED, output, empty="no machine is blacklisted")


@connected
def stock(
    client: "Client",
    data_centers: Annotated[
        list[str] | None, typer.Option("--data-center", "-d", help="Only of this data center (repeatable).")
    ] = None,
    gpus: Annotated[list[str] | None, typer.Option("--gpu", "-g", help="Only of this model (repeatable).")] = None,
    output: Output = Format.TABLE,
) -> None:
    """List idle GPUs by model, and how many containers of 1, 2, 4 and 8 of them fit now."""
    rows = client.stock(data_centers=data_centers or (), gpu_names=gpus or ())
    show(rows, STOCK, output, empty="no such GPUs")


def _blacklist_command(row: "Machine") -> str:
    assert row.suspect is not None
    comment = shlex.quote(f"fails: {row.suspect.reason}")
    return f"muster machines blacklist {row.id} --hours 24 --comment {comment}"


def _report(action: str, row: "Machine", text: str, output: Format) -> None:
    if output is Format.JSON:
        answer: dict[str, Any] = {"action": action, "machine_id": row.id, "state": row.state}
        print_json({**answer, "containers_left": row.containers_left})
    else:
        say(f"{row.id}: {text}")


def _found(client: "Client", name: str) -> str:
    return _matching(name, [each.id for each in client.machines()])


def _matching(name: str, ids: Sequence[str]) -> str:
    matches = [each for each in ids if name and each.startswith(name)]
    if name in matches:
        return name
    if not matches:
        raise NotFound("machine", name)
    if len(matches) > 1:
        raise InvalidSpec(name, f"may mean {len(matches)} machines, name one by its id: {', '.join(matches)}")
    return matches[0]
