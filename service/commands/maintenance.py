"""heed sync, fetch-base, export, check: everything around data and upkeep."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

import rlhf_engine
from service.commands.terminal import (
    FAILED,
    NOTHING_TO_DO,
    OnStep,
    say,
    settings_for_command,
    steps,
    table,
    user,
    warn,
)
from service.errors import SettingsError
from service.settings import Settings, SourceSettings

if TYPE_CHECKING:
    from sqlalchemy import Engine

_MARKS = {"fine": "ok", "note": "note", "wrong": "WRONG"}


def sync(
    source: Annotated[
        str | None, typer.Argument(metavar="[SOURCE]", help="Only this source.")
    ] = None,
) -> None:
    """Bring documents and gold answers up to date from the data sources."""
    settings = settings_for_command()
    from service.database import migrate, open_database, session
    from service.plugin_settings import sources_in_use

    engine = open_database(settings.database)
    migrate(engine)
    with session(engine) as opened:
        known = [entry.settings for entry in sources_in_use(opened, settings)]
    chosen = [entry for entry in known if source in (None, entry.name)]
    if source is not None and not chosen:
        names = ", ".join(entry.name for entry in known) or "none"
        raise SettingsError(f"no source is named {source!r}; known: {names}")
    if not chosen:
        warn("no data source is set; add [[sources]] to heed.toml, or one on the page Sources")
        raise typer.Exit(NOTHING_TO_DO)
    failed = _sync_each(engine, settings, chosen)
    _embed(engine, settings)
    if failed:
        raise typer.Exit(FAILED)


def _embed(engine: Engine, settings: Settings) -> None:
    """Make the vectors that the passages lack, where an embedding model is set."""
    if settings.retrieval.embeddings is None:
        return
    from service.embedding import embedding
    from service.passage_vectors import embed_pending

    with steps() as step:
        step("embedding passages", 0, 0, None)
        model = embedding(settings.retrieval.embeddings)
        embed_pending(
            engine, model, on_done=lambda done, of: step("embedding passages", done, of, None)
        )


def _sync_each(engine: Engine, settings: Settings, chosen: list[SourceSettings]) -> bool:
    """Sync, show the reports, and tell whether any failed."""
    from service.plugin_state import open_host
    from service.sync import sync_source

    host = open_host(settings, engine)
    failed = False
    rows = []
    with steps() as step:
        for entry in chosen:
            step(f"syncing {entry.name}", 0, 0, None)
            report = sync_source(engine, host, entry)
            failed = failed or report.error is not None
            rows.append((entry, report))
    table(
        "Sync",
        ("source", "added", "changed", "removed", "unchanged", "rejected", "error"),
        [
            (e.name, r.added, r.changed, r.removed, r.unchanged, r.rejected_count, r.error)
            for e, r in rows
        ],
    )
    for entry, report in rows:
        for rejected in report.rejected:
            warn(f"{entry.name}: {rejected['where']}: {rejected['reason']}")
    engine.dispose()
    return failed


def fetch_base(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Hub name or folder.")
    ] = None,
) -> None:
    """Get the base policy and cache it; a second call returns at once."""
    settings = settings_for_command(base_policy=name)
    with steps() as step:
        folder = fetch_with_progress(settings, step)
    say(f"the base policy is ready: {folder}")


def fetch_with_progress(settings: Settings, step: OnStep) -> Path:
    """Fetch the settings' base policy and say how far it is."""
    began: dict[str, float] = {}

    def told(what: str, done: int, total: int) -> None:
        since = time.monotonic() - began.setdefault(what, time.monotonic())
        left = since / done * (total - done) if done and total else None
        step(what, done, total, left)

    folder: Path = rlhf_engine.fetch_base(
        settings.base_policy, settings.base_cache, settings.base_revision, on_progress=told
    )
    return folder


def export(
    kind: Annotated[
        Literal["preference", "unpaired", "prompt-completion"],
        typer.Argument(metavar="KIND", help="Which of TRL's conversational forms."),
    ],
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="File to write: .jsonl or .parquet.")
    ],
    simulated: Annotated[
        bool, typer.Option("--simulated", help="With simulated people's rows, marked as such.")
    ] = False,
) -> None:
    """Write the feedback in TRL's forms, as JSON lines or Parquet."""
    settings = settings_for_command()
    from service import audit
    from service.database import check_schema, open_database, session
    from service.export import export_feedback
    from service.passage_finder import PassageFinder
    from service.redaction import open_redaction

    engine = open_database(settings.database)
    check_schema(engine)
    finder = PassageFinder(settings, engine, patient=True)
    with closing(open_redaction(settings, engine)) as redact, closing(finder):
        count = export_feedback(
            engine,
            kind,
            path,
            simulated=simulated,
            undo_s=settings.voting.undo_s,
            answers=settings.answers,
            redact=redact,
            finder=finder,
        )
    with session(engine) as opened:
        audit.record(opened, user(), "export.made", f"export:{kind}", rows=count)
    engine.dispose()
    say(f"{count} rows written to {path}")
    if count == 0:
        raise typer.Exit(NOTHING_TO_DO)


def check() -> None:
    """Look at the settings, database, base policy and plugins, and say what to mend."""
    from service.check import check as look

    findings = look(settings_for_command())
    for finding in findings:
        say(f"{_MARKS[finding.state]:>5}  {finding.area}: {finding.text}")
    wrong = sum(finding.state == "wrong" for finding in findings)
    if wrong:
        warn(f"{wrong} to mend")
        raise typer.Exit(FAILED)
