"""Answers that are not what was asked for, as RFC 9457 problem responses.

Problem
├── NotAuthenticated      401   send the right credentials
├── NotFound              404
├── Invalid               422   mend the request; `errors` says where
├── DatabaseUnavailable   503   repeat the request
└── …                           the refusals of one room, declared there
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, ClassVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from sqlalchemy import exc
from starlette.exceptions import HTTPException

from sqlalchemy_outbox.database.read_only import is_read_only
from sqlalchemy_outbox.enqueueing.marks import NotForgotten

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"


class FieldError(BaseModel):
    field: str = Field(description="Where it is, with dots.", examples=["body.amount"])
    message: str = Field(examples=["Input should be greater than or equal to 1"])


class ProblemBody(BaseModel):
    """A problem as RFC 9457 has it."""

    type: str = Field(description="Names the kind of problem, for programs.")
    title: str = Field(description="Names the kind of problem, for people.")
    status: int
    detail: str = Field(description="What happened this time, and what to do.")
    errors: list[FieldError] | None = Field(default=None, description="What is wrong in the request.")


class ProblemResponse(JSONResponse):
    media_type = MEDIA_TYPE

    def __init__(self, body: ProblemBody, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(
            body.model_dump(exclude_none=True), body.status, {**(headers or {}), "Cache-Control": "no-store"}
        )


class Problem(Exception):
    """Raised anywhere within a request, it becomes the answer; the transaction it leaves is rolled back."""

    status: ClassVar[HTTPStatus]
    kind: ClassVar[str]
    title: ClassVar[str]

    def __init__(self, detail: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers = headers

    @classmethod
    def body(cls, detail: str, errors: list[FieldError] | None = None) -> ProblemBody:
        kind = f"urn:nerava:problem:{cls.kind}"
        return ProblemBody(type=kind, title=cls.title, status=cls.status, detail=detail, errors=errors)


class NotAuthenticated(Problem):
    """The credentials of this route are missing, unknown or expired; `WWW-Authenticate` says which it takes."""

    status = HTTPStatus.UNAUTHORIZED
    kind = "not-authenticated"
    title = "Not authenticated"

    def __init__(self, detail: str, *, scheme: str = "Bearer") -> None:
        super().__init__(detail, headers={"WWW-Authenticate": scheme})


class NotFound(Problem):
    """What the request names does not exist."""

    status = HTTPStatus.NOT_FOUND
    kind = "not-found"
    title = "Not found"


class Invalid(Problem):
    """The request is not as described; `errors` says where and why."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    kind = "invalid-request"
    title = "Invalid request"


class DatabaseUnavailable(Problem):
    """The database could not be used, and whether anything was stored is unknown. Repeat the same request, with the
    same key where it has one: nothing happens twice.
    """

    status = HTTPStatus.SERVICE_UNAVAILABLE
    kind = "database-unavailable"
    title = "Database unavailable"

    def __init__(self) -> None:
        super().__init__(_docstring(type(self)), headers={"Retry-After": "1"})


class Unexpected(Problem):
    """A bug in Nerava; its log has the details."""

    status = HTTPStatus.INTERNAL_SERVER_ERROR
    kind = "unexpected"
    title = "Unexpected error"


def describe(*problems: type[Problem]) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that can answer with these problems, for OpenAPI."""
    examples: defaultdict[HTTPStatus, dict[str, Any]] = defaultdict(dict)
    for problem in problems:
        value = problem.body(_docstring(problem)).model_dump(exclude_none=True)
        examples[problem.status][problem.kind] = {"summary": problem.title, "value": value}
    schema = {"$ref": "#/components/schemas/ProblemBody"}
    return {
        int(status): {
            "description": " or ".join(str(value["summary"]) for value in named.values()),
            "content": {MEDIA_TYPE: {"schema": schema, "examples": named}},
        }
        for status, named in examples.items()
    }


def answer_with_problems(app: FastAPI) -> None:
    """Every answer of `app` outside 2xx is a problem response."""
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_exception)
    # Connection lost or refused, a lock not had in time, SQLite's file busy or full; the last: no connection to be had.
    for error in (exc.OperationalError, exc.InterfaceError, exc.TimeoutError):
        app.add_exception_handler(error, _on_database_error)
    app.add_exception_handler(NotForgotten, _on_database_error)
    app.add_exception_handler(exc.InternalError, _on_internal_error)
    app.add_exception_handler(Exception, _on_bug)


async def _on_problem(_request: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, Problem)
    return ProblemResponse(error.body(error.detail), error.headers)


async def _on_invalid_request(_request: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, RequestValidationError)
    errors = [
        FieldError(field=".".join(map(str, detail["loc"])), message=_in_words(detail)) for detail in error.errors()
    ]
    detail = "; ".join(f"{detail.field}: {detail.message}" for detail in errors)
    return ProblemResponse(Invalid.body(detail, errors))


async def _on_http_exception(request: Request, error: Exception) -> ProblemResponse:
    """What the framework refuses by itself: no such path, no such method."""
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    detail = f"{request.method} {request.url.path}: {error.detail}"
    body = ProblemBody(type="about:blank", title=status.phrase, status=status, detail=detail)
    return ProblemResponse(body, error.headers)


async def _on_database_error(request: Request, error: Exception) -> ProblemResponse:
    log.error("Database unavailable in %s %s: %s", request.method, request.url.path, _first_line(error))
    return await _on_problem(request, DatabaseUnavailable())


async def _on_internal_error(request: Request, error: Exception) -> ProblemResponse:
    """A server that is read-only for a while, say because its disk is full, serves again by itself."""
    if is_read_only(error):
        return await _on_database_error(request, error)
    raise error


async def _on_bug(_request: Request, _error: Exception) -> ProblemResponse:
    # The server logs the traceback.
    return ProblemResponse(Unexpected.body(_docstring(Unexpected)))


def _docstring(problem: type[Problem]) -> str:
    return " ".join((problem.__doc__ or problem.title).split())


def _in_words(error: Mapping[str, Any]) -> str:
    if error["type"] == "model_attributes_type":
        # What pydantic says of a body that FastAPI left as bytes, as for curl's -d without a header.
        return "Send a JSON object with Content-Type: application/json"
    return str(error["msg"]).removeprefix("Value error, ")


def _first_line(error: Exception) -> str:
    # Further lines may quote a row, and so a person's address.
    return str(error).partition("\n")[0]
