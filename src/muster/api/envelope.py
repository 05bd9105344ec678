"""What an answer looks like, and which error becomes which answer: the only place where errors meet the wire.

AutoDL's paths answer ``{"code", "data", "msg", "request_id"}``, with HTTP 200 also for refusals: several of its clients
lose the text of anything from 400 up, and one sleeps for minutes after any 5xx. Only an unknown path is a 404, as
there. ``message`` repeats ``msg`` on refusals for a client that reads that name. Muster's own paths are plain REST:
the bare value, or a status code and ``{"error": {"code", "message", "field", "request_id"}}``.

In: an exception. Out: a response. A refusal's text names the field and the reason; an unexpected error's text names
only the request id, which the log repeats.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, Generic, Literal, TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from fastapi.requests import HTTPConnection
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from muster.errors import (
    Conflict,
    CursorExpired,
    Forbidden,
    InvalidSpec,
    MusterError,
    NotFound,
    StaleWrite,
    TooManyRequests,
    Unauthenticated,
)
from muster.model.ids import random_hex

EXTENSION = "/api/v1/muster"
_LOG = logging.getLogger(__name__)
_KINDS = {"deployment": "未查询到相关部署", "container": "未查询到相关容器"}

T = TypeVar("T")


_RequestId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class Envelope(BaseModel, Generic[T]):
    """A success on AutoDL's paths."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)
    code: Literal["Success"] = "Success"
    data: T
    msg: Literal[""] = ""
    request_id: _RequestId = Field(default_factory=lambda: random_hex(32))


class Refused(BaseModel):
    """A refusal on AutoDL's paths. ``message`` repeats ``msg``."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)
    code: Annotated[str, Field(pattern=r"^[A-Za-z]+$")]
    data: None = None
    msg: Annotated[str, Field(min_length=1)]
    request_id: _RequestId
    message: Annotated[str, Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class Refusal:
    """What is told to the caller: AutoDL's code and text, and for our own paths a status code and a plain text."""

    code: str
    msg: str
    status: HTTPStatus
    text: str
    field: str = ""


def refusal_of(error: MusterError) -> Refusal:
    """Choose the answer to an error."""
    text = str(error)
    match error:
        case InvalidSpec():
            msg = f"请求参数错误: {error.field}: {error.reason}"
            return Refusal("RequestParameterIsWrong", msg, HTTPStatus.UNPROCESSABLE_ENTITY, text, error.field)
        case NotFound(kind="image"):
            return Refusal("BadRequest", "镜像不存在", HTTPStatus.UNPROCESSABLE_ENTITY, text)
        case NotFound():
            msg = _KINDS.get(error.kind, f"未查询到相关记录: {error.kind}")
            return Refusal("RecordNotFoundError", msg, HTTPStatus.NOT_FOUND, text)
        case Conflict():
            return Refusal("BadRequest", text, HTTPStatus.CONFLICT, text)
        case Forbidden():
            return Refusal("BadRequest", "无当前资源访问权限", HTTPStatus.FORBIDDEN, text)
        case Unauthenticated():
            return Refusal("AuthorizeFailed", "登录超时，请重新登录", HTTPStatus.UNAUTHORIZED, text)
        case TooManyRequests():
            msg = f"请求过于频繁: 每秒最多 {error.per_second:g} 次 ({text})"
            return Refusal("TooManyRequests", msg, HTTPStatus.TOO_MANY_REQUESTS, text)
        case CursorExpired():
            return Refusal("CursorExpired", text, HTTPStatus.GONE, text)
        case StaleWrite():
            return Refusal("InternalError", "服务繁忙，请稍后再试", HTTPStatus.SERVICE_UNAVAILABLE, text)
        case _:
            return Refusal("InternalError", text, HTTPStatus.SERVICE_UNAVAILABLE, text)


def install(app: FastAPI) -> None:
    """Let every error of the app leave through this module."""
    app.add_exception_handler(MusterError, _on_refusal)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(WebSocketRequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(ClientDisconnect, _on_gone)
    app.add_exception_handler(Exception, _on_surprise)


def error_body(refusal: Refusal, request_id: str) -> Mapping[str, Any]:
    """Return the body of a refusal on our own paths."""
    return {"error": {"code": refusal.code, "message": refusal.text, "field": refusal.field, "request_id": request_id}}


def _respond(request: HTTPConnection, refusal: Refusal, request_id: str, *, envelope_status: int = 200) -> JSONResponse:
    if request.url.path.startswith(EXTENSION):
        return JSONResponse(error_body(refusal, request_id), refusal.status)
    body = {"code": refusal.code, "data": None, "msg": refusal.msg, "request_id": request_id, "message": refusal.msg}
    return JSONResponse(body, envelope_status)


async def _on_refusal(request: HTTPConnection, error: Exception) -> JSONResponse:
    """Answer for a refusal; a WebSocket is refused like a request, before it opens."""
    assert isinstance(error, MusterError)
    response = _respond(request, refusal_of(error), random_hex(32))
    if isinstance(error, TooManyRequests):  # the standard's header knows whole seconds only; the other is Azure's
        response.headers["Retry-After"] = str(math.ceil(error.retry_after_seconds))
        response.headers["Retry-After-Ms"] = str(math.ceil(error.retry_after_seconds * 1000))
    return response


async def _on_invalid(request: HTTPConnection, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError | WebSocketRequestValidationError)
    return await _on_refusal(request, _first_problem(error))


async def _on_http(request: Request, error: Exception) -> JSONResponse:
    """Answer for the router: a path that is not there, or not with this method."""
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    words = f"{request.method} {request.url.path}"
    refusal = Refusal(status.name.title().replace("_", ""), f"{status.phrase}: {words}", status, f"{words}: no such")
    return _respond(request, refusal, random_hex(32), envelope_status=error.status_code)


async def _on_gone(_request: Request, _error: Exception) -> Response:
    """End a request whose sender went away before its body was complete: nobody reads this, and nothing is amiss."""
    return Response(status_code=HTTPStatus.BAD_REQUEST)


async def _on_surprise(request: Request, error: Exception) -> JSONResponse:
    """Answer for a defect of ours; the server logs the traceback, this adds the request id to look for."""
    request_id = random_hex(32)
    _LOG.error("%s %s failed: %r (request_id %s)", request.method, request.url.path, error, request_id)
    text = f"internal error, see the server's log for {request_id}"
    refusal = Refusal("InternalError", text, HTTPStatus.INTERNAL_SERVER_ERROR, text)
    return _respond(request, refusal, request_id)


def _first_problem(error: RequestValidationError | WebSocketRequestValidationError) -> InvalidSpec:
    problem = error.errors()[0]
    where, *path = problem["loc"]
    field = ".".join(str(part) for part in path) or str(where)
    return InvalidSpec(field, _reason(problem["type"], problem["msg"], problem.get("ctx", {})))


def _reason(kind: str, text: str, context: Mapping[str, Any]) -> str:
    """Say in our words what pydantic found."""
    match kind:
        case "missing":
            return "is required"
        case "literal_error":
            return f"must be {context['expected']}"
        case "greater_than_equal":
            return f"must be at least {context['ge']}"
        case "less_than_equal":
            return f"must be at most {context['le']}"
        case "string_too_long":
            return f"must be at most {context['max_length']} characters long"
        case "string_pattern_mismatch":
            return f"must match {context['pattern']}"
        case _:
            return _EXPECTED.get(kind, text)


_EXPECTED = {
    "int_type": "must be an integer",
    "int_from_float": "must be an integer",
    "int_parsing": "must be an integer",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be a string",
    "string_too_short": "must not be empty",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
}
