"""Sums over what ever ran, for people and for monitoring: what the reuse pool was good for.

The baseline is the average start without reuse of the same account and image, so one tenant's figures say nothing
about another's, and a large image that is pulled once does not make reuses of small ones look good. It is asked of all
kept starts each time: that is a scan of them, which is why no loop asks it.

Pruning changes none of these figures: what a start was good for is then added to its deployment, by the average of
that moment, and how long it took to ``fresh_starts``, which the average goes on to count.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from muster.model.ids import AccountId
from muster.store.port import ReuseFigures
from muster.store.sql.session import Session
from muster.store.sql.tables import containers, deployments, fresh_starts


class _Seconds(FunctionElement[float]):
    """Seconds from one column to a later one; databases agree on no function for it."""

    name = "seconds"
    type = sa.Float()
    inherit_cache = True


@compiles(_Seconds)
def _by_standard(element: _Seconds, compiler: SQLCompiler, **options: Any) -> str:
    start, end = (compiler.process(each, **options) for each in element.clauses)
    return f"EXTRACT(EPOCH FROM ({end} - {start}))"


@compiles(_Seconds, "sqlite")
def _by_julian_day(element: _Seconds, compiler: SQLCompiler, **options: Any) -> str:
    start, end = (compiler.process(each, **options) for each in element.clauses)
    return f"((julianday({end}) - julianday({start})) * 86400.0)"


_TOOK = _Seconds(containers.c.placed_at, containers.c.started_at)
_IS_REUSE = containers.c.reused_from.is_not(None)


_LIKE = (containers.c.account_id, containers.c.image_uuid, containers.c.image_reference)
_IS_FRESH = sa.and_(containers.c.started_at.is_not(None), containers.c.image_uuid.is_not(None), sa.not_(_IS_REUSE))


def _figures(
    of_whom: Callable[[sa.Table], sa.ColumnElement[bool]], which: sa.ColumnElement[bool] | None = None
) -> sa.Select[*tuple[Any, ...]]:
    """Sum over the starts ``which`` of those meant; the averages are of all of theirs, pruned ones included."""
    kept = sa.select(*_LIKE, sa.literal(1).label("starts"), _TOOK.label("seconds")).where(
        _IS_FRESH, of_whom(containers)
    )
    every = sa.union_all(kept, sa.select(fresh_starts).where(of_whom(fresh_starts))).subquery()
    like = [every.c[each.name] for each in _LIKE]
    took = sa.func.sum(every.c.seconds) / sa.func.sum(every.c.starts)
    fresh = sa.select(*like, took.label("took")).group_by(*like).cte("fresh")
    is_sooner = sa.and_(_IS_REUSE, fresh.c.took > _TOOK)
    return (
        sa.select(
            sa.func.count().label("starts"),
            sa.func.count(containers.c.reused_from).label("reuses"),
            sa.func.sum(sa.case((is_sooner, fresh.c.took - _TOOK), else_=0.0)).label("seconds_saved"),
        )
        .join_from(containers, deployments, containers.c.deployment_id == deployments.c.id)
        .outerjoin(fresh, sa.and_(_IS_REUSE, *(fresh.c[each.name] == each for each in _LIKE)))
        .where(
            containers.c.started_at.is_not(None),
            sa.or_(_IS_REUSE, deployments.c.spec["reuse_container"].as_boolean()),
            of_whom(containers),
            *(() if which is None else (which,)),
        )
    )


_PRUNED = sa.select(
    sa.func.sum(deployments.c.pruned_starts).label("starts"),
    sa.func.sum(deployments.c.pruned_reuses).label("reuses"),
    sa.func.sum(deployments.c.pruned_seconds_saved).label("seconds_saved"),
)
_PRUNED_OF_ONE = _PRUNED.where(deployments.c.account_id == sa.bindparam("account"))
_OF_ALL = _figures(lambda _: sa.true())
_OF_ONE = _figures(lambda table: table.c.account_id == sa.bindparam("account"))
_NUMBERS: sa.BindParameter[Any] = sa.bindparam("numbers", expanding=True)
_OF_SOME = (
    _figures(
        lambda table: table.c.account_id.in_(sa.bindparam("accounts", expanding=True)),
        which=containers.c.number.in_(_NUMBERS),
    )
    .add_columns(containers.c.deployment_id)
    .group_by(containers.c.deployment_id)
)

_FRESH = (
    sa.select(*_LIKE, sa.func.count().label("more"), sa.func.sum(_TOOK).label("longer"))
    .where(_IS_FRESH, containers.c.number.in_(_NUMBERS))
    .group_by(*_LIKE)
)
_ADD_FRESH = (
    sa.update(fresh_starts)
    .where(
        fresh_starts.c.account_id == sa.bindparam("account"),
        fresh_starts.c.image_uuid == sa.bindparam("image"),
        fresh_starts.c.image_reference == sa.bindparam("reference"),
    )
    .values(
        starts=fresh_starts.c.starts + sa.bindparam("more"), seconds=fresh_starts.c.seconds + sa.bindparam("longer")
    )
)
_BEGIN_FRESH = sa.insert(fresh_starts)
_ADD_PRUNED = (
    sa.update(deployments)
    .where(deployments.c.id == sa.bindparam("key"))
    .values(
        pruned_starts=deployments.c.pruned_starts + sa.bindparam("starts"),
        pruned_reuses=deployments.c.pruned_reuses + sa.bindparam("reuses"),
        pruned_seconds_saved=deployments.c.pruned_seconds_saved + sa.bindparam("seconds_saved"),
    )
)


def reuse_figures(session: Session, account_id: AccountId | None) -> ReuseFigures:
    """Return the figures of an account, or of all."""
    if account_id is None:
        rows = (session.row(_OF_ALL), session.row(_PRUNED))
    else:
        values = {"account": account_id}
        rows = (session.row(_OF_ONE, values), session.row(_PRUNED_OF_ONE, values))
    kept, pruned = rows
    assert kept is not None and pruned is not None  # noqa: PT018 sums of nothing are rows too
    return ReuseFigures(
        kept.starts + (pruned.starts or 0),
        kept.reuses + (pruned.reuses or 0),
        (kept.seconds_saved or 0.0) + (pruned.seconds_saved or 0.0),
    )


def keep_figures(session: Session, accounts: Iterable[AccountId], numbers: Sequence[int]) -> None:
    """Write down what these containers of these accounts tell, before they are pruned."""
    for row in session.rows(_OF_SOME, {"accounts": sorted(accounts), "numbers": numbers}):
        values = {"starts": row.starts, "reuses": row.reuses, "seconds_saved": row.seconds_saved or 0.0}
        session.change(_ADD_PRUNED, {"key": row.deployment_id, **values})
    for row in session.rows(_FRESH, {"numbers": numbers}):
        which = {"account": row.account_id, "image": row.image_uuid, "reference": row.image_reference}
        if session.change(_ADD_FRESH, {**which, "more": row.more, "longer": row.longer}).rowcount == 0:
            key = {each.name: getattr(row, each.name) for each in _LIKE}
            session.change(_BEGIN_FRESH, {**key, "starts": row.more, "seconds": row.longer})
