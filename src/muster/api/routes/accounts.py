"""Accounts, their tokens and quotas. Members see and manage their own tokens, admins everybody's."""

import datetime

from fastapi import APIRouter

from muster.api import account_schemas as bodies
from muster.api import quota, wanted
from muster.api.audit import note
from muster.api.auth import PREFIX_LENGTH, Admin, Caller, hash_token, new_token
from muster.api.body import ObjectBodyRoute
from muster.api.context import Ctx
from muster.api.convert import wire_time
from muster.errors import Conflict, NotFound
from muster.model import account as model
from muster.model.account import TOKEN_ID_DIGITS, Account, Quota, Role, Token
from muster.store.port import Transaction

extension = APIRouter(prefix="/api/v1/muster", tags=["Muster"], route_class=ObjectBodyRoute)


@extension.get("/me")
async def get_me(caller: Caller, context: Ctx) -> bodies.AccountRow:
    """Return the account that the token acts for."""
    return await context.store.read(lambda tx: _row(tx, caller, context.zone))


@extension.get("/accounts")
async def list_accounts(_: Admin, context: Ctx) -> bodies.AccountList:
    """List all accounts, oldest first."""

    def work(tx: Transaction) -> bodies.AccountList:
        return bodies.AccountList(accounts=[_row(tx, each, context.zone) for each in tx.accounts.all()])

    return await context.store.read(work)


@extension.post("/accounts", status_code=201)
async def create_account(body: bodies.NewAccount, caller: Admin, context: Ctx) -> bodies.AccountRow:
    """Create an account; it can do nothing until it has a token."""
    now = context.clock.now()

    def work(tx: Transaction) -> bodies.AccountRow:
        account = tx.accounts.add(body.name, Role(body.role), now)
        note(tx, caller, "account.create", account.name, account.role.value, now, owner=account.id)
        return _row(tx, account, context.zone)

    return await wanted.write(context.store, work)


@extension.put("/accounts/{name}/quota")
async def set_quota(name: str, body: bodies.SetQuota, caller: Admin, context: Ctx) -> bodies.AccountRow:
    """Say how much an account may want; what it wants already stays."""

    def work(tx: Transaction) -> bodies.AccountRow:
        account = _account(tx, caller, name)
        tx.accounts.set_quota(account.id, Quota(body.gpu_num, body.container_num))
        said = f"GPUs: {_limit(body.gpu_num)}, containers: {_limit(body.container_num)}"
        note(tx, caller, "account.quota", name, said, context.clock.now(), owner=account.id)
        return _row(tx, _account(tx, caller, name), context.zone)

    return await wanted.write(context.store, work)


@extension.get("/accounts/{name}/tokens")
async def list_tokens(name: str, caller: Caller, context: Ctx) -> bodies.TokenList:
    """List what is known of an account's tokens, oldest first; also of expired ones."""
    found = await context.store.read(lambda tx: tx.accounts.tokens(_account(tx, caller, name).id))
    now = context.clock.now()
    return bodies.TokenList(tokens=[_token_row(each, now, context.zone) for each in found])


@extension.post("/accounts/{name}/tokens", status_code=201)
async def create_token(name: str, body: bodies.WantToken, caller: Caller, context: Ctx) -> bodies.NewToken:
    """Make a token for an account; it is shown this once."""
    token, now = new_token(), context.clock.now()
    token_hash, expires_at = hash_token(token), bodies.expiry(body, now)
    token_id = token_hash[:TOKEN_ID_DIGITS]

    def work(tx: Transaction) -> None:
        owner = _account(tx, caller, name).id
        tx.accounts.add_token(owner, token_hash, token[:PREFIX_LENGTH], now, name=body.name, expires_at=expires_at)
        until = "never expires" if expires_at is None else f"expires {expires_at:%Y-%m-%d %H:%M:%S} UTC"
        note(tx, caller, "token.create", token_id, f"{body.name!r} of account {name}, {until}", now, owner=owner)

    await wanted.write(context.store, work)
    return bodies.NewToken(token=token, id=token_id, expires_at=_maybe_time(expires_at, context.zone))


@extension.delete("/accounts/{name}/tokens/{token_id}")
async def revoke_token(name: str, token_id: str, caller: Caller, context: Ctx) -> bodies.TokenRow:
    """End a token at once, and return what it was; 409 for the last one that lets an admin in."""
    now = context.clock.now()

    def work(tx: Transaction) -> Token:
        owner = _account(tx, caller, name)
        revoked = tx.accounts.revoke_token(owner.id, token_id)
        if revoked is None:
            raise NotFound("token", token_id)
        if owner.is_admin and not _is_expired(revoked, now) and not _admins_get_in(tx, now):
            raise Conflict("this is the last token of an admin: make another one first, or nobody could")
        note(tx, caller, "token.revoke", token_id, f"{revoked.name!r} of account {name}", now, owner=owner.id)
        return revoked

    return _token_row(await wanted.write(context.store, work), now, context.zone)


def _account(tx: Transaction, caller: model.Caller, name: str) -> Account:
    """Return an account that the caller may manage; to a member all others look unknown."""
    account = tx.accounts.by_name(name)
    if account is None or not (caller.is_admin or account.id == caller.id):
        raise NotFound("account", name)
    return account


def _admins_get_in(tx: Transaction, now: datetime.datetime) -> bool:
    admins = (each for each in tx.accounts.all() if each.is_admin)
    return any(not _is_expired(token, now) for admin in admins for token in tx.accounts.tokens(admin.id))


def _is_expired(token: Token, now: datetime.datetime) -> bool:
    return token.expires_at is not None and token.expires_at <= now


def _row(tx: Transaction, account: Account, zone: datetime.tzinfo) -> bodies.AccountRow:
    used = quota.used(tx, account.id)
    return bodies.AccountRow(
        id=account.id,
        name=account.name,
        role=account.role.value,
        created_at=wire_time(account.created_at, zone),
        quota=bodies.QuotaRow(
            gpu_num=account.quota.gpu_num,
            container_num=account.quota.container_num,
            used_gpu_num=used.gpu_num,
            used_container_num=used.container_num,
        ),
    )


def _token_row(token: Token, now: datetime.datetime, zone: datetime.tzinfo) -> bodies.TokenRow:
    return bodies.TokenRow(
        id=token.id,
        prefix=token.prefix,
        name=token.name,
        created_at=wire_time(token.created_at, zone),
        last_used_at=_maybe_time(token.last_used_at, zone),
        expires_at=_maybe_time(token.expires_at, zone),
        is_expired=_is_expired(token, now),
    )


def _maybe_time(moment: datetime.datetime | None, zone: datetime.tzinfo) -> str | None:
    return None if moment is None else wire_time(moment, zone)


def _limit(number: int | None) -> str:
    return "no bound" if number is None else str(number)
