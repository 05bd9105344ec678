"""Reads lists of AutoDL's API that span pages, although rows move while they are read.

A list of one page is a fact. Rows of a longer one shift between the calls for its pages when any row comes or goes:
some come twice, others never. So a list that does not add up to its ``result_total`` is read again, a few times; and
even one that adds up proves only what is in it. Whoever misses a row that it knew asks for that row by itself.
"""

import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from muster.client.async_api import AsyncApi
from muster.errors import FeedError, FeedRefused, NotFound

T = TypeVar("T")
PAGE_SIZE = 100
READINGS = 3
MOST_PAGES = 1000
ASK_AT_MOST = 10
"""So many missing rows are asked for one by one; for more it is cheaper to read the list again."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Page:
    """One page as the API gave it."""

    rows: list[Any]
    max_page: int | None
    total: int | None


@dataclass(frozen=True, slots=True)
class Found(Generic[T]):
    """A list as far as it was seen. ``adds_up``: nothing speaks against it; ``is_sure``: nothing can be missing."""

    rows: dict[str, T]
    pages: int
    adds_up: bool

    @property
    def is_sure(self) -> bool:
        """Whether a row that is not in it is not in the list."""
        return self.adds_up and self.pages == 1


class Pages:
    """The lists of one API; ``calls`` counts the requests."""

    def __init__(self, api: AsyncApi) -> None:
        self._api = api
        self.calls = 0
        self._garbage: set[str] = set()

    async def page(self, path: str, body: Mapping[str, Any], index: int = 1, size: int = PAGE_SIZE) -> Page:
        """Read one page. Raises ``FeedError``, and ``NotFound`` for a deployment that the API does not know."""
        self.calls += 1
        data = await self._api.post(path, {**body, "page_index": index, "page_size": size, "offset": 0})
        rows = data.get("list") if isinstance(data, dict) else None
        if not isinstance(rows, list):
            raise FeedError(f"{self._api.base_url}{path} answers with something that is no page of a list")
        max_page, total = data.get("max_page"), data.get("result_total")
        return Page(rows, max_page if isinstance(max_page, int) else None, total if isinstance(total, int) else None)

    async def all(self, path: str, body: Mapping[str, Any], parse: Callable[[Any], T | None]) -> Found[T]:
        """Read a whole list, its rows by uuid; those of which ``parse`` makes ``None`` or an error are not in it."""
        found = await self._once(path, body, parse)
        for _ in range(READINGS - 1):
            if found.adds_up:
                break
            again = await self._once(path, body, parse)
            found = again if again.adds_up else Found({**found.rows, **again.rows}, again.pages, adds_up=False)
        return found

    async def without_losing(
        self,
        known: Collection[str],
        path: str,
        body: Mapping[str, Any],
        parse: Callable[[Any], T | None],
        ask: Callable[[str], Awaitable[Page]],
    ) -> Found[T]:
        """Read a whole list in which no row of ``known`` is missing because it moved; ``ask`` asks for one row.

        Raises ``FeedError`` if rows move faster than they can be read.
        """
        found = await self.all(path, body, parse)
        missing = [each for each in known if each not in found.rows]
        if found.is_sure or not missing:
            return found
        if len(missing) > ASK_AT_MOST:
            again = await self.all(path, body, parse)
            found = Found({**found.rows, **again.rows}, again.pages, again.adds_up)
            missing = [each for each in known if each not in found.rows]
        if len(missing) > ASK_AT_MOST:
            if found.adds_up:
                return found  # two readings agree that they are gone
            raise FeedError(f"{self._api.base_url}{path}: the pages of the list do not fit together")
        for each in missing:
            try:
                page = await ask(each)
            except NotFound:
                continue
            found.rows.update(self._parsed(path, page.rows, partial(_only, each, parse)))
        return found

    async def _once(self, path: str, body: Mapping[str, Any], parse: Callable[[Any], T | None]) -> Found[T]:
        rows: dict[str, T] = {}
        seen: set[str] = set()
        totals: set[int | None] = set()
        may_repeat = False
        for index in range(1, MOST_PAGES + 1):
            try:
                page = await self.page(path, body, index)
            except FeedError as error:
                if not may_repeat or isinstance(error, FeedRefused):
                    raise
                page = await self.page(path, body, index)  # once: it answers, and many pages would be for nothing
                may_repeat = False
            else:
                may_repeat = may_repeat or index == 1
            before = len(seen)
            seen.update(_identity(row) for row in page.rows)
            totals.add(page.total)
            rows.update(self._parsed(path, page.rows, parse))
            is_last = len(seen) == before if page.max_page is None else index >= page.max_page
            if is_last or not page.rows:
                return Found(rows, index, adds_up=totals in ({len(seen)}, {None}))
        raise FeedError(f"{self._api.base_url}{path} has more than {MOST_PAGES} pages")

    def _parsed(self, path: str, wires: list[Any], parse: Callable[[Any], T | None]) -> dict[str, T]:
        rows: dict[str, T] = {}
        for wire in wires:
            try:
                row = parse(wire)
            except ValueError as error:
                self.warn(path, wire, str(error))
                continue
            if row is not None:
                rows[_identity(wire)] = row
        return rows

    def warn(self, path: str, wire: object, reason: str) -> None:
        """Say once that a row, or a part of it, is of no use."""
        uuid = wire.get("uuid") if isinstance(wire, dict) else None
        named = ascii(uuid)[:80] if isinstance(uuid, str) else "without uuid"  # never the row: it holds a password
        about = f"{path} {named}: {reason}"
        if about not in self._garbage and len(self._garbage) < PAGE_SIZE:
            self._garbage.add(about)
            _log.warning("a row of %s%s is passed over: %s (row %s)", self._api.base_url, path, reason, named)


def _identity(wire: object) -> str:
    uuid = wire.get("uuid") if isinstance(wire, dict) else None
    return uuid if isinstance(uuid, str) and uuid else repr(wire)


def _only(uuid: str, parse: Callable[[Any], T | None], wire: Any) -> T | None:
    return parse(wire) if _identity(wire) == uuid else None
