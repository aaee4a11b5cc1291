"""Every error as a problem document (RFC 9457): what happened, in the reader's words, and one
next step. No stack trace leaves the server; an unexpected error has a reference number."""

from __future__ import annotations

import secrets
from typing import Any

import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.plugins.problem_details import ProblemDetailsException

import rlhf_engine
from service.errors import (
    ConflictError,
    DatabaseError,
    HeedError,
    InvalidInputError,
    NotFoundError,
    NotSignedInError,
    OverloadedError,
    PromotionError,
    TooManyAttemptsError,
    TooManyTurnsError,
    TrainingRunError,
    TryLaterError,
)
from service.serving import NotReadyError

RETRY_AFTER_S = 5

TITLES = {
    400: "The request cannot be read",
    401: "Not signed in",
    403: "Not allowed",
    404: "Not found",
    405: "Not possible here",
    409: "Not possible now",
    413: "Too long",
    415: "Wrong content type",
    421: "Unknown host",
    422: "The input cannot be used",
    429: "Too many at once",
    503: "Not available now",
}

_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (NotSignedInError, 401),
    (NotFoundError, 404),
    (ConflictError, 409),
    (PromotionError, 409),
    (TrainingRunError, 409),
    (InvalidInputError, 422),
    (TooManyTurnsError, 429),
    (TooManyAttemptsError, 429),
    (OverloadedError, 503),
    (NotReadyError, 503),
    (rlhf_engine.GenerationError, 503),
    (DatabaseError, 503),
)

log = structlog.get_logger(__name__)


def to_problem(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    """The response for any error a handler raised."""
    if isinstance(error, HTTPException):
        return _answer(request, error.status_code, error.detail, _fields(error.extra))
    if isinstance(error, RecursionError | UnicodeDecodeError):
        return _answer(request, 400, "the body is nested too deeply, or is not UTF-8")
    status = status_of(error)
    if isinstance(error, TryLaterError):
        return _answer(request, status, str(error), retry_after_s=error.retry_after_s)
    if status == 503:
        log.warning("not_available", path=request.url.path, error=str(error), next="clients retry")
    if status != 500:
        return _answer(request, status, str(error))
    reference = secrets.token_hex(4)
    known = isinstance(error, HeedError | rlhf_engine.EngineError)
    log.error(
        "request_failed",
        reference=reference,
        path=request.url.path,
        exc_info=None if known else error,
    )
    detail = str(error) if known else "Something went wrong here. Please try again"
    return _answer(request, 500, f"{detail} (reference {reference}).", {"reference": reference})


def status_of(error: Exception) -> int:
    """The HTTP status of one of our errors, 500 for any other."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def _fields(extra: Any) -> dict[str, Any]:
    """Which fields were wrong, where the framework knows."""
    return {"errors": extra} if isinstance(extra, list) and extra else {}


def _answer(
    request: Request[Any, Any, Any],
    status: int,
    detail: str,
    extra: dict[str, Any] | None = None,
    retry_after_s: int = RETRY_AFTER_S,
) -> Response[Any]:
    headers = {"Retry-After": str(retry_after_s)} if status in (429, 503) else None
    problem = ProblemDetailsException(
        detail=detail,
        status_code=status,
        title=TITLES.get(status, "Something went wrong"),
        headers=headers,
        extra=extra or None,
    )
    return problem.to_response(request)
