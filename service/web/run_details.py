"""What a run left in its folder: log, curves, picture, and samples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec
from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, QueryParameter
from litestar.response import File

from service import line_pages, run_curves, samples
from service.database import session
from service.errors import NotFoundError
from service.tables import TrainingRun
from service.web.parts import GivenParts, Parts
from service.web.rights import needs
from service.web.runs import PLOT, find_run
from service.web.sessions import GivenPerson
from service.worker_process import LOG_FILE

From = Annotated[int, QueryParameter(ge=0, le=2**53)]
"""The `next` of the page before; 0 begins."""


class Log(msgspec.Struct):
    """Whole lines of the worker's log; `ends_at` asks for those that come after."""

    text: str
    begins_at: int
    ends_at: int


class Series(msgspec.Struct):
    """One line of a curve, as long as its `x`; `low` and `high` where it has a band."""

    label: str
    values: list[float | None]
    low: list[float | None] | None
    high: list[float | None] | None


class Curve(msgspec.Struct):
    """What a run measured over its steps. `step` names what `x` counts."""

    id: str
    title: str
    step: str
    note: str
    x: list[float]
    series: list[Series]


class SamplePage(msgspec.Struct):
    """Held-out questions with the answers of both policies."""

    rows: list[samples.Sample]
    next: int | None


def run_route(rest: str) -> Callable[[Callable[..., Any]], HTTPRouteHandler]:
    """A route to a part of a run, for reviewers."""
    return get(
        f"/api/runs/{{run_id:str}}/{rest}",
        security=needs("reviewer", "read"),
        tags=["Training"],
        sync_to_thread=True,
    )


@run_route("plot.png")
def show_plot(reviewer: GivenPerson, parts: GivenParts, run_id: FromPath[str]) -> File:  # noqa: ARG001 - for reviewers
    """The run's curves as a picture; 404 before there are any."""
    path = Path(_run(parts, run_id).folder) / PLOT
    if not path.is_file():
        raise NotFoundError(f"run {run_id} has no picture yet")
    return File(path, media_type="image/png", content_disposition_type="inline")


@run_route("log")
def show_log(
    reviewer: GivenPerson,  # noqa: ARG001 - for reviewers
    parts: GivenParts,
    run_id: FromPath[str],
    after: Annotated[int | None, QueryParameter(ge=0, le=2**53)] = None,
) -> Log:
    """The last lines of the worker's log, or those after a byte; it holds no texts of people."""
    part = line_pages.read_log(Path(_run(parts, run_id).folder) / LOG_FILE, after)
    return Log(part.text, part.begins_at, part.ends_at)


@run_route("curves")
def show_curves(reviewer: GivenPerson, parts: GivenParts, run_id: FromPath[str]) -> list[Curve]:  # noqa: ARG001 - for reviewers
    """What the run measured so far, at most 200 points a curve."""
    found = run_curves.read_curves(Path(_run(parts, run_id).folder))
    return [
        Curve(
            curve.panel.id,
            curve.panel.title,
            curve.panel.step,
            curve.panel.note,
            curve.x,
            [Series(one.label, one.values, one.low, one.high) for one in curve.series],
        )
        for curve in found
    ]


@run_route("samples")
def show_samples(
    reviewer: GivenPerson,  # noqa: ARG001 - for reviewers
    parts: GivenParts,
    run_id: FromPath[str],
    after: From = 0,
) -> SamplePage:
    """Held-out questions, each with the right answer, the live policy's and the candidate's."""
    page = samples.read_samples(Path(_run(parts, run_id).folder), after)
    return SamplePage(page.rows, page.next)


def _run(parts: Parts, run_id: str) -> TrainingRun:
    with session(parts.database) as opened:
        return find_run(opened, run_id)
