"""heed corrections: list what people say would have been right, accept it or not."""

from __future__ import annotations

from typing import Annotated

import typer

from service.commands.policies import opened_database
from service.commands.terminal import NOTHING_TO_DO, say, settings_for_command, table, user, warn

app = typer.Typer(help="List corrected answers that people proposed, accept or reject them.")

Id = Annotated[str, typer.Argument(metavar="ID", help="Beginning of the correction's id.")]


@app.command("list")
def list_corrections() -> None:
    """List the corrections that wait for a decision."""
    from service.corrections import proposed
    from service.database import session

    with opened_database(settings_for_command()) as engine, session(engine) as opened:
        rows = proposed(opened)
    if not rows:
        warn("no correction waits for a decision")
        raise typer.Exit(NOTHING_TO_DO)
    shown = [(row.id[:8], row.author, row.question, row.answer) for row in rows]
    table("Proposed corrections", ("id", "by", "question", "answer"), shown)


@app.command()
def accept(correction: Id) -> None:
    """Show a correction to whoever asks its question; the next training learns it."""
    from service import corrections
    from service.database import session

    with opened_database(settings_for_command()) as engine, session(engine) as opened:
        found = corrections.find_proposed(opened, correction)
        corrections.accept(opened, found.id, user())
    say(f"{found.id[:8]} is accepted: {found.question}")


@app.command()
def reject(
    correction: Id,
    reason: Annotated[str | None, typer.Option(help="Why; whoever proposed it is told.")] = None,
) -> None:
    """Leave a correction out for good."""
    from service import corrections
    from service.database import session

    with opened_database(settings_for_command()) as engine, session(engine) as opened:
        found = corrections.find_proposed(opened, correction)
        corrections.reject(opened, found.id, user(), reason)
    say(f"{found.id[:8]} is rejected: {found.question}")
