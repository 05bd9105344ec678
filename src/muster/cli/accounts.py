"""``accounts list|create|quota`` (admins only) and ``tokens list|create|revoke``: who may use the server, and how much.

``account create|token|ls`` are the older words for the first things that an admin does.
"""

from typing import TYPE_CHECKING, Annotated

import typer

from muster.cli.connection import connected
from muster.cli.spec.values import duration
from muster.cli.view import Column, Format, Output, age, note, print_json, say, show, until
from muster.errors import InvalidSpec, NotFound
from muster.model.account import Role

if TYPE_CHECKING:
    from muster.client import Account, Client, Token


def _bound(option: str, said: str | None, before: int | None) -> int | None:
    """Read a bound; one that is not given stays."""
    if said is None:
        return before
    if said.strip().lower() == "none":
        return None
    if not said.strip().isdigit():
        raise InvalidSpec(option, f"must be a number, or none for no bound; got {said!r}")
    return int(said)


def _of(used: int, quota: int | None) -> str:
    return f"{used}/{'-' if quota is None else quota}"


ACCOUNTS: "tuple[Column[Account], ...]" = (
    Column("ID", lambda row: row.id, is_number=True),
    Column("NAME", lambda row: row.name),
    Column("ROLE", lambda row: row.role),
    Column("GPUS", lambda row: _of(row.used_gpu_num, row.quota_gpu_num), is_number=True),
    Column("CONTAINERS", lambda row: _of(row.used_container_num, row.quota_container_num), is_number=True),
    Column("AGE", lambda row: age(row.created_at), is_number=True),
)
TOKENS: "tuple[Column[Token], ...]" = (
    Column("ID", lambda row: row.id),
    Column("PREFIX", lambda row: row.prefix),
    Column("NAME", lambda row: row.name),
    Column("AGE", lambda row: age(row.created_at), is_number=True),
    Column("LAST USED", lambda row: age(row.last_used_at) or "never", is_number=True),
    Column("EXPIRES IN", lambda row: "expired" if row.is_expired else until(row.expires_at) or "never", is_number=True),
)

account = typer.Typer(name="account", help="Manage accounts and their tokens (admins only).", no_args_is_help=True)
accounts = typer.Typer(name="accounts", help="Manage accounts and their quotas (admins only).", no_args_is_help=True)
tokens = typer.Typer(name="tokens", help="See, make and revoke tokens of an account.", no_args_is_help=True)

AccountName = Annotated[str, typer.Argument(help="Name of the account.", metavar="NAME")]
WhoseToken = Annotated[str | None, typer.Option("--account", help="Of another account than one's own (admins only).")]


@accounts.command()
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


@accounts.command(name="list")
@account.command(name="ls")
@connected
def list_accounts(client: "Client", output: Output = Format.TABLE) -> None:
    """List accounts, with what their running deployments want and may want together."""
    show(client.accounts(), ACCOUNTS, output, empty="no accounts")


@accounts.command()
@connected
def quota(
    client: "Client",
    name: AccountName,
    gpus: Annotated[str | None, typer.Option("--gpus", help="Most GPUs, or none for no bound.")] = None,
    containers: Annotated[
        str | None, typer.Option("--containers", help="Most containers, or none for no bound.")
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Show or change how much the running deployments of an account may want together; what they want stays."""
    changed = next((each for each in client.accounts() if each.name == name), None)
    if changed is None:
        raise NotFound("account", name)
    if gpus is not None or containers is not None:
        changed = client.set_quota(
            name,
            gpu_num=_bound("--gpus", gpus, changed.quota_gpu_num),
            container_num=_bound("--containers", containers, changed.quota_container_num),
        )
    if output is Format.JSON:
        print_json(changed)
    else:
        gpu_text = _of(changed.used_gpu_num, changed.quota_gpu_num)
        say(f"{name}: GPUs {gpu_text}, containers {_of(changed.used_container_num, changed.quota_container_num)}")


@tokens.command(name="list")
@connected
def list_tokens(client: "Client", account_name: WhoseToken = None, output: Output = Format.TABLE) -> None:
    """List tokens with when they were last used, which is up to a minute behind."""
    show(client.tokens(account_name or client.me().name), TOKENS, output, empty="no tokens")


@tokens.command(name="create")
@connected
def create_token(
    client: "Client",
    name: Annotated[str, typer.Argument(help="What it is for, to recognise it in a list.", metavar="[NAME]")] = "",
    account_name: WhoseToken = None,
    expires: Annotated[str | None, typer.Option("--expires", help="After how long, like 90d or 12h.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Make a token and print it; it cannot be shown again."""
    whose = account_name or client.me().name
    seconds = None if expires is None else _seconds(expires)
    _print_token(whose, client.create_token(whose, name=name, expires_in_seconds=seconds), output)


@tokens.command()
@connected
def revoke(
    client: "Client",
    token_id: Annotated[str, typer.Argument(help="Id of the token, as the list shows it.", metavar="ID")],
    account_name: WhoseToken = None,
    output: Output = Format.TABLE,
) -> None:
    """End a token: from now on it is unknown."""
    whose = account_name or client.me().name
    revoked = client.revoke_token(whose, token_id)
    if output is Format.JSON:
        print_json({"action": "revoke", "account": whose, "token_id": revoked.id})
    else:
        say(f"token {revoked.id} ({revoked.prefix}…) of account {whose} is revoked")


def _seconds(text: str) -> int:
    days = text.removesuffix("d")
    if days != text and days.isdecimal():
        return int(days) * 86400
    try:
        seconds = duration(text)
    except ValueError as error:
        raise InvalidSpec("--expires", f"{error}, or 90d") from error
    if seconds < 1:
        raise InvalidSpec("--expires", f"must be at least a second, got {text!r}")
    return int(seconds)


def _print_token(name: str, made: str, output: Format) -> None:
    if output is Format.JSON:
        print_json({"account": name, "token": made})
        return
    note(f"token of account {name}, shown this once:")
    say(made)
