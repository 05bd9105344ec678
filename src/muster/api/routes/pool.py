"""The reuse pool: what waits in it, how to take something out, and what it was good for."""

import datetime
from collections.abc import Sequence

from fastapi import APIRouter, Query

from muster.api import convert, schemas, wanted
from muster.api.audit import note
from muster.api.auth import Caller
from muster.api.context import Ctx
from muster.errors import Forbidden
from muster.model.account import Account
from muster.model.container import Container
from muster.model.ids import AccountId
from muster.store.port import Transaction

extension = APIRouter(prefix="/api/v1/muster", tags=["Muster"])

_ALL = Query(default=False, alias="all", description="of all accounts; admins only")


@extension.get("/pool")
async def list_pool(caller: Caller, context: Ctx, *, is_of_all: bool = _ALL) -> schemas.Pool:
    """List the ended containers whose files the next start that matches takes over."""
    account_id = _whose(caller, is_of_all=is_of_all)

    def work(tx: Transaction) -> schemas.Pool:
        return schemas.Pool(containers=_rows(tx, tx.containers.pooled(account_id), context.zone))

    return await context.store.read(work)


@extension.delete("/pool/{uuid}")
async def leave_pool(uuid: str, caller: Caller, context: Ctx) -> schemas.PooledRow:
    """Destroy what is left of an ended container; returns at once, with what it was."""

    def work(tx: Transaction) -> schemas.PooledRow:
        now = context.clock.now()
        left = wanted.leave_pool(tx, caller, uuid, now)
        note(tx, caller, "pool.remove", uuid, "its files are destroyed", now)
        return _rows(tx, [left], context.zone)[0]

    return await wanted.write(context.store, work)


@extension.get("/stats")
async def get_stats(caller: Caller, context: Ctx, *, is_of_all: bool = _ALL) -> schemas.Stats:
    """Tell how often a start reused a container, and what that saved."""
    account_id = _whose(caller, is_of_all=is_of_all)
    figures, pooled = await context.store.read(
        lambda tx: (tx.containers.reuse_figures(account_id), tx.containers.pooled(account_id))
    )
    return convert.stats(figures, len(pooled))


def _rows(tx: Transaction, containers: Sequence[Container], zone: datetime.tzinfo) -> list[schemas.PooledRow]:
    deployments = {each: tx.deployments.get(each) for each in {container.deployment_id for container in containers}}
    names = {each: "" if deployment is None else deployment.spec.name for each, deployment in deployments.items()}
    accounts = {account.id: account.name for account in tx.accounts.all()}
    return [convert.pooled_row(each, names[each.deployment_id], accounts[each.account_id], zone) for each in containers]


def _whose(caller: Account, *, is_of_all: bool) -> AccountId | None:
    if not is_of_all:
        return caller.id
    if not caller.is_admin:
        raise Forbidden("only admins may ask about all accounts")
    return None
