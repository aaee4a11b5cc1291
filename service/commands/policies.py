"""heed policies, promote, candidate, rollback: which policy answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from service.commands.terminal import (
    FAILED,
    NOTHING_TO_DO,
    REFUSED,
    WRONG_USE,
    say,
    settings_for_command,
    table,
    user,
    warn,
)
from service.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from service.tables import PolicyVersion


def list_policies() -> None:
    """List every PolicyVersion: where it came from and whether it is live."""
    from sqlmodel import col, select

    from service.database import session
    from service.policies import canary_counts
    from service.tables import Alias, PolicyVersion

    settings = settings_for_command()
    with opened_database(settings) as engine, session(engine) as opened:
        names: dict[str, list[str]] = {}
        for alias in opened.exec(select(Alias).order_by(col(Alias.name).desc())):
            names.setdefault(alias.version_id, []).append(alias.name)
        canaries = canary_counts(opened)
        versions = opened.exec(select(PolicyVersion).order_by(col(PolicyVersion.number))).all()
    if not versions:
        warn("there is no PolicyVersion yet; heed serve registers the base policy as version 0")
        raise typer.Exit(NOTHING_TO_DO)
    table(
        "Policies",
        ("version", "id", "kind", "state", "alias", "canary answers", "made", "run"),
        [
            (
                f"v{v.number}",
                v.id,
                v.kind,
                v.state,
                ", ".join(names.get(v.id, [])) or None,
                canaries.get(v.id),
                _moment(v),
                v.run_id,
            )
            for v in versions
        ],
    )


def promote(
    version: Annotated[
        str, typer.Argument(metavar="VERSION", help='Number ("7", "v7") or beginning of the id.')
    ],
) -> None:
    """Make a version live: the running server swaps it in without dropping an answer."""
    from service import audit
    from service.database import session
    from service.policies import find_version
    from service.run_outcome import promote as promote_version

    settings = settings_for_command()
    with opened_database(settings) as engine:
        with session(engine) as opened:
            found = find_version(opened, version)
        if found.state == "rejected":
            warn(f"v{found.number} was refused by the gate of run {found.run_id}")
            raise typer.Exit(REFUSED)
        _see(promote_version(engine, settings, found.id, user(), "promoted by hand", found.run_id))
        with session(engine) as opened:
            audit.record(opened, user(), "policy.promoted", f"policy:{found.id}")
    say(f"v{found.number} ({found.id}) is live")


def candidate(
    version: Annotated[
        str | None,
        typer.Argument(metavar="VERSION", help='Number ("7", "v7") or beginning of the id.'),
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Let there be no candidate.")] = False,
) -> None:
    """Set the candidate, which canary answers come from: the server loads it beside the live
    version."""
    from service import audit
    from service.database import session
    from service.policies import aliased, clear_candidate, find_version, set_candidate

    if clear == (version is not None):
        warn("give either a VERSION or --clear")
        raise typer.Exit(WRONG_USE)
    settings = settings_for_command()
    with opened_database(settings) as engine, session(engine) as opened:
        if version is not None:
            found = set_candidate(opened, find_version(opened, version).id, user())
            audit.record(opened, user(), "policy.candidate_set", f"policy:{found.id}")
            say(f"v{found.number} ({found.id}) is the candidate")
            return
        known = aliased(opened, "candidate")
        if known is None or not clear_candidate(opened, known.id, f"cleared by {user()}"):
            warn("there is no candidate")
            raise typer.Exit(NOTHING_TO_DO)
        audit.record(opened, user(), "policy.candidate_cleared", f"policy:{known.id}")
        say(f"v{known.number} ({known.id}) is no longer the candidate")


def rollback() -> None:
    """Go back to the version that was live before."""
    from service import audit
    from service.database import session
    from service.policies import aliased
    from service.run_outcome import promote as promote_version

    settings = settings_for_command()
    with opened_database(settings) as engine:
        with session(engine) as opened:
            previous = aliased(opened, "previous")
        if previous is None:
            warn("there is no previous version to go back to")
            raise typer.Exit(NOTHING_TO_DO)
        _see(promote_version(engine, settings, previous.id, user(), "rollback", kind="rollback"))
        with session(engine) as opened:
            audit.record(opened, user(), "policy.rolled_back", f"policy:{previous.id}")
    say(f"v{previous.number} ({previous.id}) is live again")


@contextmanager
def opened_database(settings: Settings) -> Iterator[Engine]:
    """The migrated database; DatabaseError says what to do where it is not."""
    from service.database import check_schema, open_database

    engine = open_database(settings.database)
    try:
        check_schema(engine)
        yield engine
    finally:
        engine.dispose()


def _see(error: str | None) -> None:
    if error is not None:
        warn(f"not promoted: {error}")
        raise typer.Exit(FAILED)


def _moment(version: PolicyVersion) -> str:
    return version.created_at.strftime("%Y-%m-%d %H:%M UTC")
