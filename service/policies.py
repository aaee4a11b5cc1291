"""Policy versions as rows: registering them, asking for a promotion, moving the live alias.

A version goes live by one row, `live`, that comes to name it; `previous` then names the
one before, for a rollback. Loading and trying the version first is swap.py's work.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import structlog
from sqlalchemy import update
from sqlmodel import Session, col, func, select

import rlhf_engine
from service.database import changed_rows, insert_unless_there
from service.errors import ConflictError, NotFoundError, PromotionError
from service.settings import Settings
from service.tables import Alias, PolicyVersion, Promotion, TrainingRun, now

AliasName = Literal["live", "previous"]

log = structlog.get_logger(__name__)


def register_base(session: Session, settings: Settings, base: Path) -> PolicyVersion:
    """The row of version 0, the base policy untouched; made, and made live, where missing.

    Stores its manifest among the policies. ConflictError where this database began with
    another base policy: its versions are adapters to that one's weights.
    """
    folder = rlhf_engine.PolicyVersionFolder.store(None, base, settings.policies, {"kind": "base"})
    insert_unless_there(session, PolicyVersion(id=folder.id, number=0, kind="base", state="live"))
    row = session.exec(select(PolicyVersion).where(PolicyVersion.number == 0)).one()
    if row.id != folder.id:
        raise ConflictError(
            f"this database began with another base policy (version 0 is {row.id}, "
            f"{base} is {folder.id}); set base_policy back, or begin with another home"
        )
    insert_unless_there(session, Alias(name="live", version_id=row.id))
    return row


def register_candidate(
    session: Session,
    folder: rlhf_engine.PolicyVersionFolder,
    kind: str,
    run_id: str | None,
    snapshot_hash: str | None,
    parent: str | None,
    figures: dict[str, Any],
) -> PolicyVersion:
    """A row for a stored version, with the next number; the known row if it is registered.

    `parent` is the id of the version it was trained from.
    """
    for _ in range(10):
        known = session.get(PolicyVersion, folder.id)
        if known is not None:
            return known
        highest = session.exec(select(func.max(PolicyVersion.number))).one()
        row = PolicyVersion(
            id=folder.id,
            number=0 if highest is None else highest + 1,
            kind=kind,
            parent_id=parent,
            run_id=run_id,
            snapshot_hash=snapshot_hash,
            figures=figures,
        )
        # False where another process took the number, or the version, in between.
        if insert_unless_there(session, row):
            log.info("version_registered", version=row.id, number=row.number, kind=kind)
    raise ConflictError("other processes keep registering versions; try again")


def find_version(session: Session, name: str) -> PolicyVersion:
    """The version a person means: its number ("7", "v7"), id, or the only id that begins so."""
    number = name.removeprefix("v")
    if number.isascii() and number.isdigit() and len(number) < 10:
        by_number = select(PolicyVersion).where(PolicyVersion.number == int(number))
        row = session.exec(by_number).first()
        if row is not None:
            return row
    begins = col(PolicyVersion.id).startswith(name, autoescape=True)
    matches = session.exec(select(PolicyVersion).where(begins).limit(2)).all()
    if len(matches) != 1:
        found = "several policy versions begin" if matches else "no policy version begins"
        raise NotFoundError(f"{found} with {name!r}; `heed policies` lists them")
    return matches[0]


def aliased(session: Session, name: AliasName) -> PolicyVersion | None:
    """The version an alias names, or None before it names any."""
    statement = select(PolicyVersion).join(Alias).where(Alias.name == name)
    return session.exec(statement.execution_options(populate_existing=True)).first()


def live_version(session: Session) -> PolicyVersion:
    """The version now in service; NotFoundError before the base policy is registered."""
    version = aliased(session, "live")
    if version is None:
        raise NotFoundError("no policy is live yet; `heed serve` or `heed fetch-base` brings one")
    return version


def request_promotion(
    session: Session,
    version_id: str,
    by: str,
    evidence: str,
    run_id: str | None = None,
    kind: str = "promote",
) -> Promotion:
    """Ask that a version goes live; whoever serves loads it, tries it and moves the alias.

    A request for the same version that waits already is returned again. NotFoundError for
    an unknown version, ConflictError where it is live, PromotionError where its gate
    rejected it.
    """
    version = session.get(PolicyVersion, version_id)
    if version is None:
        raise NotFoundError(f"there is no policy version {version_id}; `heed policies` lists them")
    live = aliased(session, "live")
    if live is not None and live.id == version_id:
        raise ConflictError(f"version {version.number} is live already")
    if version.state == "rejected":
        raise PromotionError(
            f"version {version.number} was rejected by its gate (run {version.run_id}); "
            "train again with more evidence, or change the gate in training.plan"
        )
    waiting = select(Promotion).where(
        Promotion.version_id == version_id, Promotion.state == "requested"
    )
    known = session.exec(waiting).first()
    if known is not None:
        return known
    promotion = Promotion(
        kind=kind,
        version_id=version_id,
        replaced_id=live.id if live else None,
        by=by,
        evidence=evidence,
        run_id=run_id,
    )
    session.add(promotion)
    session.flush()
    log.info("promotion_requested", promotion=promotion.id, version=version_id, by=by)
    return promotion


def rollback(session: Session, by: str) -> Promotion:
    """Ask that the version before the live one goes live again; ConflictError without one."""
    previous = aliased(session, "previous")
    if previous is None:
        raise ConflictError("there is no earlier version to go back to")
    return request_promotion(
        session, previous.id, by, f"rollback to version {previous.number}", kind="rollback"
    )


def move_alias(session: Session, promotion: Promotion) -> PolicyVersion:
    """Make the requested version live, in one step with its Promotion; returns the version.

    ConflictError, and nothing changed once the session is left, where another process
    decided this promotion, or moved the alias since it was asked for: the evidence then
    speaks of another live version.
    """
    _decide(session, promotion.id, state="done")
    moved = update(Alias).where(col(Alias.name) == "live")
    if promotion.replaced_id is None:
        insert_unless_there(session, Alias(name="live", version_id=promotion.version_id))
    else:
        moved = moved.where(col(Alias.version_id) == promotion.replaced_id)
    done = session.execute(
        moved.values(
            version_id=promotion.version_id, generation=Alias.generation + 1, moved_at=now()
        )
    )
    if not changed_rows(done):
        raise ConflictError(
            f"another version went live since promotion {promotion.id} was asked for; "
            "compare the candidate with that one and ask again"
        )
    if promotion.replaced_id is not None:
        _keep_previous(session, promotion.replaced_id)
    _set_states(session, promotion)
    session.expire_all()
    log.info("alias_moved", version=promotion.version_id, replaced=promotion.replaced_id)
    return session.get_one(PolicyVersion, promotion.version_id)


def refuse(session: Session, promotion_id: str, error: str) -> None:
    """Close a requested promotion with what went wrong; the live version stays."""
    _decide(session, promotion_id, state="refused", error=error)
    log.warning("promotion_refused", promotion=promotion_id, error=error, next="live stays")


def _decide(session: Session, promotion_id: str, **values: Any) -> None:
    waiting = (col(Promotion.id) == promotion_id, col(Promotion.state) == "requested")
    done = session.execute(update(Promotion).where(*waiting).values(finished_at=now(), **values))
    if not changed_rows(done):
        raise ConflictError(f"promotion {promotion_id} was decided by another process")


def _keep_previous(session: Session, version_id: str) -> None:
    row = Alias(name="previous", version_id=version_id)
    if insert_unless_there(session, row):
        return
    session.execute(
        update(Alias)
        .where(col(Alias.name) == "previous")
        .values(version_id=version_id, generation=Alias.generation + 1, moved_at=now())
    )


def _set_states(session: Session, promotion: Promotion) -> None:
    versions = update(PolicyVersion)
    session.execute(
        versions.where(col(PolicyVersion.id) == promotion.replaced_id).values(state="retired")
    )
    session.execute(
        versions.where(col(PolicyVersion.id) == promotion.version_id).values(state="live")
    )
    # A run that waited for a person's approval has it now.
    approved = (
        col(TrainingRun.candidate_id) == promotion.version_id,
        col(TrainingRun.state) == "awaiting_approval",
    )
    session.execute(
        update(TrainingRun).where(*approved).values(state="promoted", finished_at=now())
    )
