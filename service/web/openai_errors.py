"""Errors of the OpenAI-compatible API, in the form its clients read.

They say what the same error says elsewhere (problems.py); only the form differs.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import MethodNotAllowedException, NotFoundException

from service.errors import InvalidInputError, NotFoundError
from service.web.problems import to_problem

PREFIX = "/v1"

_CODES = {
    400: "invalid_value",
    401: "invalid_api_key",
    403: "permission_denied",
    404: "not_found",
    409: "conflict",
    413: "request_too_large",
    415: "unsupported_media_type",
    421: "unknown_host",
    429: "rate_limit_exceeded",
    503: "service_unavailable",
}
_MORE_HEADERS = {
    401: {"WWW-Authenticate": "Bearer"},
    # OpenAI's clients ask again by themselves after a conflict, which would ask the same anew.
    409: {"x-should-retry": "false"},
}
_UNKNOWN_FIELD = re.compile("unknown field `(.+)`", re.DOTALL)
_MISSING_FIELD = re.compile("missing required field `(.+)`", re.DOTALL)


class ErrorBody(msgspec.Struct):
    """What happened, what kind of error it is, and which parameter was wrong where one was."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ParameterError(InvalidInputError):
    """A parameter's value cannot be used; `param` names it."""

    def __init__(self, message: str, param: str | None, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.param, self.code = param, code


class ModelNotFoundError(NotFoundError):
    """No loaded policy version has the name that was asked for."""

    param, code = "model", "model_not_found"


def to_response(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    """The response for any error: OpenAI's form below /v1, a problem document elsewhere."""
    problem = to_problem(request, error)
    path = request.scope["path"]
    if path != PREFIX and not path.startswith(f"{PREFIX}/"):
        return problem
    # Clients of this API know wrong input by 400.
    status = problem.status_code or 500
    status = 400 if status == 422 else status
    headers = {**problem.headers, **_MORE_HEADERS.get(status, {})}
    body = _body(status, problem.content, error)
    if isinstance(error, NotFoundException | MethodNotAllowedException):
        body.code, body.message = "unknown_url", f"nothing answers to {request.method} {path}"
    return Response(
        {"error": msgspec.to_builtins(body)},
        status_code=status,
        headers=headers,
        media_type="application/json",
    )


def failure(message: str) -> ErrorBody:
    """An error that comes in the middle of a stream."""
    return ErrorBody(message, "server_error")


def _body(status: int, problem: dict[str, Any], error: Exception) -> ErrorBody:
    body = ErrorBody(problem["detail"], _type(status), code=_CODES.get(status))
    wrong = problem.get("errors")
    if wrong:
        _explain(body, wrong[0])
    elif isinstance(error, ParameterError | ModelNotFoundError):
        body.param, body.code = error.param, error.code
    return body


def _explain(body: ErrorBody, wrong: dict[str, Any]) -> None:
    """Name the field that the framework found wrong."""
    message, place = wrong["message"], wrong.get("key", "data").removeprefix("data")
    unknown, missing = _UNKNOWN_FIELD.search(message), _MISSING_FIELD.search(message)
    field = (unknown or missing or [None, ""])[1]
    body.param = ".".join(part for part in (place, field) if part) or None
    if unknown:
        body.code, message = "unknown_parameter", "unknown parameter; leave it out"
    elif missing:
        body.code, message = "missing_required_parameter", "required, but missing"
    elif message == "'data'":
        message = "the body is empty; send a JSON object"
    body.message = f"{body.param}: {message}" if body.param else message


def _type(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    return "server_error" if status >= 500 else "invalid_request_error"
