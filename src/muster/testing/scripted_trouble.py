"""How a scripted API fails when it is told to: what is said instead of an answer, and what becomes of its pages.

A trouble is ordered for the next so many calls (``Troubles.order``) or drawn by chance for each (``Troubles.chance``).
"""

import dataclasses
import json
import random
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

KINDS = (
    "error",  # HTTP 500
    "html",  # a gateway's page
    "business",  # InternalError
    "stall",  # accepted, and nothing is said for ``seconds``
    "drop",  # the connection breaks
    "slow",  # answered as it is asked, told ``seconds`` later
    "duplicated",  # the first page is answered whatever page was asked for
    "swapped",  # pages come in another order
    "shifted",  # rows move between the calls for pages, so that some come twice and others never
    "repeated",  # rows come twice within a page
)
"""Those that are over by themselves. ``auth`` (AuthorizeFailed), ``not_entitled``, ``wrong_parameter`` and ``unknown``
(RecordNotFoundError) can be ordered, too, and ``well`` lets a call before the next trouble pass."""
_TWO = 2


@dataclass(frozen=True, slots=True)
class Reply:
    """What goes back. ``is_broken``: the connection ends instead; ``stalls``: so many seconds pass first."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    stalls: float = 0.0
    is_broken: bool = False

    @classmethod
    def broken(cls) -> Self:
        """End the connection without an answer."""
        return cls(is_broken=True)

    @classmethod
    def success(cls, data: object) -> Self:
        """Wrap ``data`` in AutoDL's envelope."""
        wire = {"code": "Success", "data": data, "msg": "", "request_id": uuid.uuid4().hex}
        return cls(200, json.dumps(wire, ensure_ascii=False).encode(), {"content-type": "application/json"})


def refusal(code: str, msg: str) -> Reply:
    """Refuse as AutoDL does: HTTP 200 with a code."""
    wire = {"code": code, "data": None, "msg": msg, "request_id": uuid.uuid4().hex}
    return Reply(200, json.dumps(wire, ensure_ascii=False).encode(), {"content-type": "application/json"})


@dataclass(frozen=True, slots=True)
class Trouble:
    """One call's misfortune."""

    kind: str
    seconds: float
    random: random.Random

    def instead(self) -> Reply | None:
        """Return what is said instead of an answer, ``None`` if it is only the pages that suffer."""
        match self.kind:
            case "error":
                return Reply(500, b"Internal Server Error")
            case "html":
                return Reply(503, b"<html><body>busy</body></html>", {"content-type": "text/html"})
            case "business":
                return refusal("InternalError", "系统繁忙")
            case "stall":
                return Reply(stalls=self.seconds, is_broken=True)
            case "drop":
                return Reply.broken()
            case "auth":
                return refusal("AuthorizeFailed", "登录超时，请重新登录")
            case "not_entitled":
                return refusal("BadRequest", "无当前资源访问权限")
            case "unknown":
                return refusal("RecordNotFoundError", "未查询到相关部署")
            case "wrong_parameter":
                return refusal("RequestParameterIsWrong", "请求参数错误")
        return None

    def delayed(self, reply: Reply) -> Reply:
        """Return an answer as late as it comes."""
        return dataclasses.replace(reply, stalls=self.seconds) if self.kind == "slow" else reply

    def disturb(self, rows: list[dict[str, Any]], index: int, pages: int) -> tuple[list[dict[str, Any]], int]:
        """Return the rows in the order in which they are paged, and the page that is given."""
        match self.kind:
            case "duplicated":
                return rows, 1
            case "swapped":
                return rows, 1 + (index - 1 + self.random.randrange(pages)) % pages
            case "shifted" if rows:
                turn = self.random.randrange(len(rows))
                return rows[turn:] + rows[:turn], index
            case "repeated" if len(rows) >= _TWO:
                return [rows[0], *rows[:-1]], index
        return rows, index


class Troubles:
    """What is to go wrong, in the order in which it was ordered."""

    def __init__(self, chance: random.Random) -> None:
        self._random = chance
        self._lock = threading.Lock()
        self._ordered: list[tuple[str, str, float]] = []
        self._share = 0.0
        self._kinds: tuple[str, ...] = ()
        self._seconds = 0.0

    def order(self, kind: str, times: int = 1, *, path: str = "", seconds: float = 60.0) -> None:
        """Let ``times`` calls go wrong, of ``path`` or of any; ``seconds`` is how long one is stalled or slow."""
        with self._lock:
            self._ordered += [(kind, path, seconds)] * times

    def chance(self, share: float, kinds: tuple[str, ...] = KINDS, *, seconds: float = 60.0) -> None:
        """Let each call that is not ordered to go wrong do so with probability ``share``; 0 ends that."""
        with self._lock:
            self._share, self._kinds, self._seconds = share, kinds, seconds

    def clear(self) -> None:
        """Let everything go well from now on."""
        with self._lock:
            self._ordered, self._share = [], 0.0

    def next(self, path: str) -> Trouble | None:
        """Return what befalls a call of ``path``."""
        with self._lock:
            return self._next(path)

    def _next(self, path: str) -> Trouble | None:
        for place, (kind, of_path, seconds) in enumerate(self._ordered):
            if of_path in ("", path):
                del self._ordered[place]
                return Trouble(kind, seconds, self._random)
        if self._share and self._random.random() < self._share:
            return Trouble(self._random.choice(self._kinds), self._seconds, self._random)
        return None
