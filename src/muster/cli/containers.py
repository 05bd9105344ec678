"""``containers`` and ``logs``: what runs, where it answers, and what it writes."""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from muster.cli.connection import connected
from muster.cli.names import find_deployment, find_writer
from muster.cli.view import Column, Format, Output, age, note, print_json, show, status_style
from muster.model.container import Reason

if TYPE_CHECKING:
    from muster.client import Client, Container, Deployment

_INTENDED = frozenset(reason.value for reason in Reason if reason.is_intended)


def _reason(container: "Container") -> str:
    code = f"exit {container.exit_code}" if container.exit_code else ""
    reason = f"{container.reason} ({code})" if container.reason and code else container.reason or code
    return ": ".join(part for part in (reason, container.message) if part)


COLUMNS: "tuple[Column[Container], ...]" = (
    Column("UUID", lambda row: row.uuid),
    Column("VERSION", lambda row: row.version),
    Column("STATUS", lambda row: row.status, style=status_style),
    Column("READY", lambda row: row.is_ready),
    Column("MACHINE", lambda row: f"{row.data_center}/{row.machine_id}"),
    Column("GPU", lambda row: f"{row.gpu_num} x {row.gpu_name}"),
    Column("URL", lambda row: row.url_6006),
    Column("AGE", lambda row: age(row.created_at), is_number=True),
    Column("REASON", _reason),
)


@connected
def containers(
    client: "Client",
    deployment: Annotated[
        str | None, typer.Argument(help="Only of this deployment (name or uuid).", metavar="DEPLOYMENT")
    ] = None,
    is_all: Annotated[bool, typer.Option("--all", "-a", help="Finished ones too.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """List containers, oldest first, and why some are missing."""
    if deployment is None:
        rows = [*client.containers(), *(client.containers(is_released=True) if is_all else ())]
        rows.reverse()  # the API lists newest first
        rows.sort(key=lambda row: row.created_at)
        lacking = [each for each in client.deployments(status="running") if is_lacking(each)]
    else:
        found = find_deployment(client, deployment)
        rows = client.containers_of(found.uuid)
        lacking = [found] if is_lacking(found) else []
    shown = [row for row in rows if is_all or row.status != "shutdown"]
    hint = "no containers" if is_all else "no live containers (finished ones: -a)"
    show(shown, COLUMNS, output, empty=hint)
    for each in lacking if output is Format.TABLE else ():
        _explain(client, each)


def is_lacking(deployment: "Deployment") -> bool:
    """Tell whether a deployment has fewer live containers than it wants at once."""
    if deployment.type == "Job":
        wanted = min(deployment.parallelism_num, deployment.replica_num - deployment.completed_num)
    else:
        wanted = deployment.replica_num
    return deployment.status == "running" and deployment.starting_num + deployment.running_num < wanted


def _explain(client: "Client", deployment: "Deployment") -> None:
    """Say why containers of a deployment are missing: no machine fits, or they end."""
    waiting = Counter(each.explanation for each in client.deployment(deployment.uuid).unplaced)
    for explanation, count in waiting.items():
        note(f"{deployment.name}: {count} more {'wait' if count > 1 else 'waits'} for a machine: {explanation}")
    ended = [each for each in client.containers_of(deployment.uuid) if each.status == "shutdown"]
    if ended and deployment.type == "ReplicaSet" and ended[-1].reason not in _INTENDED:
        last = ended[-1]
        note(f"{deployment.name}: the last one ended by itself ({_reason(last)}); its output: muster logs {last.uuid}")


@connected
def logs(
    client: "Client",
    container: Annotated[
        str, typer.Argument(help="Uuid, its beginning or last part; or a deployment.", metavar="CONTAINER")
    ],
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the container has ended.")] = False,
    tail: Annotated[int | None, typer.Option("--tail", "-n", min=0, help="Only the last N lines.")] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="Only from then on: 10m, 2h30m, or a time like 2026-03-02T10:00:00.")
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Print what a container wrote; as JSON, one object a line."""
    uuid = find_writer(client, container).uuid
    chunks = client.logs(uuid, tail=tail, since=since, follow=follow)
    if output is Format.JSON:
        for line in _lines(chunks):
            print_json({"container_uuid": uuid, "line": line.decode(errors="replace")}, is_line=True)
        return
    for chunk in chunks:
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield whole lines without their ends, each as soon as it is complete; the last one may lack its end."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
    if rest:
        yield rest
