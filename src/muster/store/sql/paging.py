"""A window of a filtered table, newest first, with the number of all rows that match."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import sqlalchemy as sa

from muster.store.port import Page, Window
from muster.store.sql.rows import AnyRow
from muster.store.sql.session import Session

Item = TypeVar("Item")


def page(
    session: Session,
    *,
    table: sa.Table,
    where: Sequence[sa.ColumnElement[bool]],
    order: sa.Column[int],
    window: Window,
    read: Callable[[AnyRow], Item],
    total: int | None = None,
) -> Page[Item]:
    """Ask twice in one transaction: the window and the total, unless it is known, are of the same state."""
    if total is None:
        total = session.number(sa.select(sa.func.count()).select_from(table).where(*where))
    rows = session.rows(sa.select(table).where(*where).order_by(order.desc()).offset(window.offset).limit(window.limit))
    return Page(items=[read(row) for row in rows], total=total)
