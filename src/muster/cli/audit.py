"""``audit``: who changed what, and when."""

from typing import TYPE_CHECKING, Annotated

import typer

from muster.cli.connection import connected
from muster.cli.view import Column, Format, Output, show

if TYPE_CHECKING:
    from muster.client import AuditEntry, Client

COLUMNS: "tuple[Column[AuditEntry], ...]" = (
    Column("TIME", lambda row: row.created_at.isoformat(timespec="seconds")),
    Column("ACCOUNT", lambda row: row.account),
    Column("WHO", lambda row: row.actor),
    Column("TOKEN", lambda row: row.token_id),
    Column("ACTION", lambda row: row.action),
    Column("TARGET", lambda row: row.target),
    Column("DETAIL", lambda row: row.detail),
)


@connected
def audit(
    client: "Client",
    account: Annotated[
        str | None, typer.Option("--account", help="Only what is this account's (admins may name any).")
    ] = None,
    target: Annotated[
        str | None, typer.Option("--target", help="Only this: a deployment, a uuid, a name, a path.")
    ] = None,
    number: Annotated[int, typer.Option("-n", "--number", min=1, help="How many of the newest.")] = 50,
    output: Output = Format.TABLE,
) -> None:
    """List changes, newest first: one's own, or with an admin's token everybody's."""
    if target is not None:
        target = next((each.uuid for each in client.deployments(name=target)), target)
    show(client.audit(account_name=account, target=target, limit=number), COLUMNS, output, empty="no changes")
