"""Who is calling: tokens, their hashes, and the account behind a request.

AutoDL sends the raw token as ``Authorization``; ``Bearer`` in front of it is accepted too. The database knows only
SHA-256 hashes: a token is 238 random bits, so there is nothing to guess that a slow hash would protect. Each request
asks the store, so that a revoked token is dead at once.
"""

import hashlib
import secrets
import string
from typing import Annotated

from fastapi import Depends
from fastapi.requests import HTTPConnection

from muster.api.context import Context, Ctx
from muster.clock import Clock
from muster.errors import Forbidden, TooManyRequests, Unauthenticated
from muster.model import account
from muster.model.account import Account, Role
from muster.store.port import Store, Transaction

ADMIN = "admin"
"""The account that exists from the first start on."""
TOKEN_PREFIX = "mst_"  # noqa: S105 what every token starts with
PREFIX_LENGTH = 8
"""How much of a token is kept readable, so that a person recognises it in a list."""
_ALPHABET = string.ascii_letters + string.digits


def new_token() -> str:
    """Draw a token: ``mst_`` and 40 letters and digits."""
    return TOKEN_PREFIX + "".join(secrets.choice(_ALPHABET) for _ in range(40))


def hash_token(token: str) -> str:
    """Return what the store keeps of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


async def ensure_admin(store: Store, clock: Clock, token: str) -> Account:
    """Let ``token`` act for the admin account, making the account if this is the first start."""

    def work(tx: Transaction) -> Account:
        now = clock.now()
        admin = tx.accounts.by_name(ADMIN) or tx.accounts.add(ADMIN, Role.ADMIN, now)
        tx.accounts.add_token(admin.id, hash_token(token), token[:PREFIX_LENGTH], now)
        return admin

    return await store.write(work)


async def authenticated(connection: HTTPConnection, context: Ctx) -> account.Caller:
    """Return the account whose token came with the request, plain or for a WebSocket; raises ``Unauthenticated``."""
    token = _token(connection.headers.get("authorization", ""))
    if not token:
        raise Unauthenticated("no token: send it as the Authorization header")
    token_hash, now = hash_token(token), context.clock.now()
    _check_rate(context, token_hash)
    found = await context.store.read(lambda tx: tx.accounts.by_token(token_hash, now))
    if found is None:
        raise Unauthenticated("the token is unknown, has expired or was revoked")
    context.uses.note(token_hash, now)
    return account.Caller.of(found, token_hash)


Caller = Annotated[account.Caller, Depends(authenticated)]


async def administrator(caller: Caller) -> account.Caller:
    """Return the caller if it is an admin; raises ``Forbidden``."""
    if not caller.is_admin:
        raise Forbidden("only admins may do this")
    return caller


Admin = Annotated[account.Caller, Depends(administrator)]


async def may_deploy(caller: Caller, context: Ctx) -> account.Caller:
    """Return the caller if it may run things here; raises ``Forbidden``, before anything else is looked at."""
    if not (context.isolates_tenants or caller.is_admin):
        raise Forbidden("this engine does not isolate tenants: only admins may deploy on it")
    return caller


Deployer = Annotated[account.Caller, Depends(may_deploy)]


def _check_rate(context: Context, token_hash: str) -> None:
    """Raise ``TooManyRequests``; known tokens and others alike, so that neither costs the store a look."""
    if context.limit is None:
        return
    wait_seconds = context.limit.take(token_hash, context.clock.monotonic())
    if wait_seconds:
        raise TooManyRequests(context.limit.per_second, wait_seconds)


def _token(header: str) -> str:
    scheme, _, rest = header.strip().partition(" ")
    return rest.strip() if scheme.lower() == "bearer" else header.strip()
