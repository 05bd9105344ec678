"""``account create``, ``account token`` and ``account ls``: who may use the server. Admins only."""

from typing import TYPE_CHECKING, Annotated

import typer

from muster.cli.connection import connected
from muster.cli.view import Column, Format, Output, age, note, print_json, say, show
from muster.model.account import Role

if TYPE_CHECKING:
    from muster.client import Account, Client

COLUMNS: "tuple[Column[Account], ...]" = (
    Column("ID", lambda row: row.id, is_number=True),
    Column("NAME", lambda row: row.name),
    Column("ROLE", lambda row: row.role),
    Column("AGE", lambda row: age(row.created_at), is_number=True),
)

account = typer.Typer(name="account", help="Manage accounts and their tokens (admins only).", no_args_is_help=True)

AccountName = Annotated[str, typer.Argument(help="Name of the account.", metavar="NAME")]


@account.command()
@connected
def create(
    client: "Client",
    name: AccountName,
    role: Annotated[Role, typer.Option("--role", help="Admins may manage accounts.")] = Role.MEMBER,
    output: Output = Format.TABLE,
) -> None:
    """Create an account and print its first token, which cannot be shown again."""
    made = client.create_account(name, role.value)
    _print_token(made.name, client.create_token(made.name), output)


@account.command()
@connected
def token(client: "Client", name: AccountName, output: Output = Format.TABLE) -> None:
    """Make another token for an account and print it; it cannot be shown again."""
    _print_token(name, client.create_token(name), output)


@account.command(name="ls")
@connected
def list_accounts(client: "Client", output: Output = Format.TABLE) -> None:
    """List accounts."""
    show(client.accounts(), COLUMNS, output, empty="no accounts")


def _print_token(name: str, made: str, output: Format) -> None:
    if output is Format.JSON:
        print_json({"account": name, "token": made})
        return
    note(f"token of account {name}, shown this once:")
    say(made)
