"""Accounts and their tokens; only ``/me`` is for everybody."""

from fastapi import APIRouter

from muster.api import convert, schemas, wanted
from muster.api.auth import PREFIX_LENGTH, Admin, Caller, hash_token, new_token
from muster.api.body import ObjectBodyRoute
from muster.api.context import Ctx
from muster.errors import NotFound
from muster.model.account import Role
from muster.store.port import Transaction

extension = APIRouter(prefix="/api/v1/muster", tags=["Muster"], route_class=ObjectBodyRoute)


@extension.get("/me")
async def get_me(caller: Caller, context: Ctx) -> schemas.AccountRow:
    """Return the account that the token acts for."""
    return convert.account_row(caller, context.zone)


@extension.get("/accounts")
async def list_accounts(_: Admin, context: Ctx) -> schemas.AccountList:
    """List all accounts, oldest first."""
    found = await context.store.read(lambda tx: tx.accounts.all())
    return schemas.AccountList(accounts=[convert.account_row(each, context.zone) for each in found])


@extension.post("/accounts", status_code=201)
async def create_account(body: schemas.NewAccount, _: Admin, context: Ctx) -> schemas.AccountRow:
    """Create an account; it can do nothing until it has a token."""
    now = context.clock.now()
    account = await wanted.write(context.store, lambda tx: tx.accounts.add(body.name, Role(body.role), now))
    return convert.account_row(account, context.zone)


@extension.post("/accounts/{name}/tokens", status_code=201)
async def create_token(name: str, _: Admin, context: Ctx) -> schemas.NewToken:
    """Make a token for an account; it is shown this once."""
    token, now = new_token(), context.clock.now()

    def work(tx: Transaction) -> None:
        account = tx.accounts.by_name(name)
        if account is None:
            raise NotFound("account", name)
        tx.accounts.add_token(account.id, hash_token(token), token[:PREFIX_LENGTH], now)

    await wanted.write(context.store, work)
    return schemas.NewToken(token=token)
