"""heed train start, status, resume, cancel."""

from __future__ import annotations

import json
import os
import socket
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.commands.policies import opened_database
from service.commands.terminal import (
    EXIT_CODES,
    FAILED,
    NOTHING_TO_DO,
    REFUSED,
    WRONG_USE,
    say,
    settings_for_command,
    steps,
    table,
    user,
    warn,
)
from service.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlmodel import Session

    from rlhf_engine import Progress
    from service.tables import TrainingRun

app = typer.Typer(
    help="Training runs: start, watch, resume, cancel.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode=None,
)

_EXIT_BY_STATE = {"promoted": 0, "awaiting_approval": 0, "refused": REFUSED}

Run = Annotated[str | None, typer.Argument(metavar="[RUN]", help="Beginning of the run's id.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Return while the server trains.")]


@app.command()
def start(
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "started by hand",
    if_enough: Annotated[
        bool, typer.Option("--if-enough", help="Only with enough new comparisons.")
    ] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="A value of the plan, as ppo.rollout_batches=4; repeatable."),
    ] = None,
    no_wait: NoWait = False,
) -> None:
    """Train on the evidence so far; the gate decides whether the result goes live."""
    from service import audit
    from service.database import session
    from service.scheduler import start_if_enough
    from service.training import start_run

    settings = settings_for_command()
    overrides = plan_values(set_ or [])
    with opened_database(settings) as engine:
        _require_gold_answers(engine)
        run_id: str | None
        if if_enough:
            run_id = start_if_enough(engine, settings)
        else:
            with session(engine) as opened:
                run_id = start_run(opened, settings, user(), reason, overrides).id
                audit.record(opened, user(), "run.started", f"run:{run_id}")
        if run_id is None:
            least = settings.training.min_new_comparisons
            warn(f"not enough evidence: fewer than {least} new comparisons since the last snapshot")
            raise typer.Exit(NOTHING_TO_DO)
        _see_to_its_end(engine, settings, run_id, no_wait)


@app.command()
def resume(run: Run = None, no_wait: NoWait = False) -> None:
    """Go on with a run that was killed, failed or was cancelled, from its last finished stage."""
    from service import audit
    from service.database import session
    from service.training import resume_run

    settings = settings_for_command()
    with opened_database(settings) as engine:
        with session(engine) as opened:
            run_id = resume_run(opened, run).id
            audit.record(opened, user(), "run.resumed", f"run:{run_id}")
        _see_to_its_end(engine, settings, run_id, no_wait)


@app.command()
def cancel(run: Run = None) -> None:
    """Stop a run at its next step; what it finished is kept and can be resumed."""
    from service import audit, observing
    from service.database import session
    from service.training import cancel_run

    settings = settings_for_command()
    with opened_database(settings) as engine:
        with session(engine) as opened:
            cancelled = cancel_run(opened, run)
            audit.record(opened, user(), "run.cancelled", f"run:{cancelled.id}")
        ended = cancelled.state == "cancelled"
        if ended:
            observing.tell_finished(settings, engine, cancelled)
    say(f"run {cancelled.id} {'is cancelled' if ended else 'was asked to stop'}")


@app.command()
def status(run: Run = None) -> None:
    """Show one run with its stages and figures, or the newest twenty runs."""
    from service.database import session
    from service.training import find_run

    settings = settings_for_command()
    with opened_database(settings) as engine, session(engine) as opened:
        if run is None:
            _show_runs(opened)
        else:
            _show_run(opened, find_run(opened, run))


def plan_values(assignments: list[str]) -> dict[str, Any]:
    """`ppo.rollout_batches=4` as nested values; typer.Exit(2) where one cannot be read."""
    values: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or not name:
            warn(f"--set {assignment!r}: write NAME=VALUE, as in ppo.rollout_batches=4")
            raise typer.Exit(WRONG_USE)
        *sections, last = name.split(".")
        place = values
        for section in sections:
            place = place.setdefault(section, {})
        try:
            place[last] = json.loads(text)
        except ValueError:
            place[last] = text
    return values


def _require_gold_answers(engine: Engine) -> None:
    from sqlmodel import select

    from service.database import session
    from service.tables import GoldAnswer

    wanted = (GoldAnswer.state == "accepted", GoldAnswer.purpose == "training")
    with session(engine) as opened:
        if opened.exec(select(GoldAnswer.id).where(*wanted).limit(1)).first() is None:
            warn("not enough evidence: there is no gold answer yet; heed sync brings them")
            raise typer.Exit(NOTHING_TO_DO)


def _see_to_its_end(engine: Engine, settings: Settings, run_id: str, no_wait: bool) -> None:
    from service.database import session
    from service.leases import live_server
    from service.training import follow

    if no_wait:
        with session(engine) as opened:
            served = live_server(opened) is not None
        server = "the server trains" if served else "no server runs; the next heed serve trains"
        say(f"run {run_id} is queued; {server} (heed train status {run_id})")
        return
    say(f"run {run_id}")
    with steps() as step:

        def told(progress: Progress) -> None:
            what = f"{progress.stage}: {progress.note or 'at work'}"
            step(what, progress.step, progress.total, progress.left_s)

        ended = follow(engine, settings, run_id, holder_name(), told)
    with session(engine) as opened:
        _show_run(opened, ended)
    code = _EXIT_BY_STATE.get(ended.state, FAILED)
    if code == FAILED:
        warn(f"run {ended.id} {ended.state}: {ended.error or 'heed train resume goes on'}")
    raise typer.Exit(code)


def holder_name() -> str:
    """Who conducts, unlike any other process."""
    return f"command line {socket.gethostname()} {os.getpid()}"


def _show_runs(opened: Session) -> None:
    from sqlmodel import col, select

    from service.tables import TrainingRun

    newest = select(TrainingRun).order_by(col(TrainingRun.created_at).desc()).limit(20)
    runs = opened.exec(newest).all()
    if not runs:
        say("there is no training run yet; heed train start begins one")
        return
    table(
        "Training runs",
        ("run", "state", "asked by", "why", "begun", "candidate"),
        [
            (
                run.id,
                run.state,
                run.requested_by,
                run.reason,
                run.started_at.strftime("%Y-%m-%d %H:%M UTC") if run.started_at else None,
                run.candidate_id,
            )
            for run in runs
        ],
    )


def _show_run(opened: Session, run: TrainingRun) -> None:
    from sqlmodel import col, select

    from service.tables import GateReport, StageReport

    reports = opened.exec(
        select(StageReport)
        .where(StageReport.run_id == run.id)
        .order_by(col(StageReport.created_at))
    ).all()
    gate = opened.exec(select(GateReport).where(GateReport.run_id == run.id)).first()
    rows = [(r.stage, f"{r.seconds:.0f} s", _figures(r.figures)) for r in reports]
    table(f"Run {run.id}: {run.state}", ("stage", "took", "figures"), rows)
    if gate is not None:
        say(gate.sentence)
    if run.error:
        say(f"error: {run.error}")


def _figures(figures: dict[str, Any]) -> str:
    shown = []
    for name, value in figures.items():
        text = f"{value:.3g}" if isinstance(value, float) else str(value)
        shown.append(f"{name} {text}")
    return ", ".join(shown)
