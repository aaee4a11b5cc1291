"""Policy versions as rows: registering them, asking for a promotion, moving the aliases.

A version goes live by one row, `live`, that comes to name it; `previous` then names the
one before, for a rollback. `candidate` names the version that waits for approval, which
canary answers come from. Loading and trying a version first is swap.py's work.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import structlog
from sqlalchemy import and_, delete, or_, update
from sqlmodel import Session, col, func, select

import rlhf_engine
from service.database import changed_rows, insert_unless_there
from service.errors import ConflictError, NotFoundError, PromotionError
from service.settings import Settings
from service.tables import Alias, Candidate, PolicyVersion, Promotion, TrainingRun, now

AliasName = Literal["live", "candidate", "previous"]
ALIASES: tuple[AliasName, ...] = get_args(AliasName)

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
    """The version a person means: its number ("7", "v7"), id, the only id that begins so, or
    what an alias names."""
    for alias in ALIASES:
        if name == alias and (named := aliased(session, alias)):
            return named
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


def all_aliased(session: Session) -> dict[str, PolicyVersion]:
    """What each alias names, by one query."""
    statement = select(Alias.name, PolicyVersion).join(PolicyVersion)
    return dict(session.exec(statement.execution_options(populate_existing=True)).all())


def canary_counts(session: Session) -> dict[str, int]:
    """How many answers each version gave as a canary, of those that gave any."""
    counted = select(Candidate.version_id, func.count()).where(col(Candidate.canary))
    return dict(session.exec(counted.group_by(Candidate.version_id)).all())


def numbers(session: Session) -> dict[str, int]:
    """The number that people read, of each version by its id."""
    return dict(session.exec(select(PolicyVersion.id, PolicyVersion.number)).all())


def live_version(session: Session) -> PolicyVersion:
    """The version now in service; NotFoundError before the base policy is registered."""
    version = aliased(session, "live")
    if version is None:
        raise NotFoundError("no policy is live yet; `heed serve` or `heed fetch-base` brings one")
    return version


def set_candidate(session: Session, version_id: str, by: str) -> PolicyVersion:
    """Make a version the candidate; the server loads it beside the live one.

    NotFoundError for an unknown version, PromotionError where its gate rejected it,
    ConflictError where it is live or another process moved the alias meanwhile.
    """
    version = _promotable(session, version_id)
    known = session.get(Alias, "candidate", populate_existing=True)
    if known is None:
        done = insert_unless_there(session, Alias(name="candidate", version_id=version_id))
    else:
        done = known.version_id == version_id or _moved(
            session, version_id, Alias.name == "candidate", Alias.generation == known.generation
        )
    if not done:
        raise ConflictError("another process set a candidate meanwhile; look, and try again")
    session.expire_all()
    log.info("candidate_set", version=version_id, by=by)
    return version


def clear_candidate(session: Session, version_id: str, why: str) -> bool:
    """Let the alias name no version any more; False where it does not name this one."""
    named = (col(Alias.name) == "candidate", col(Alias.version_id) == version_id)
    cleared = changed_rows(session.execute(delete(Alias).where(*named))) == 1
    session.expire_all()
    if cleared:
        log.info("candidate_cleared", version=version_id, why=why)
    return cleared


def request_promotion(
    session: Session,
    version_id: str,
    by: str,
    evidence: str,
    run_id: str | None = None,
    kind: str = "promote",
    replaced_id: str | None = None,
) -> Promotion:
    """Ask that a version goes live; whoever serves loads it, tries it and moves the alias.

    `replaced_id` is the version that the evidence compares it with, the live one by default: it
    replaces no other. A request for the same version that waits already is returned again.
    NotFoundError for an unknown version, ConflictError where it is live, PromotionError where
    its gate rejected it.
    """
    _promotable(session, version_id)
    live = aliased(session, "live")
    waiting = select(Promotion).where(
        Promotion.version_id == version_id, Promotion.state == "requested"
    )
    known = session.exec(waiting).first()
    if known is not None:
        return known
    promotion = Promotion(
        kind=kind,
        version_id=version_id,
        replaced_id=replaced_id or (live.id if live else None),
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
    expected = [col(Alias.name) == "live"]
    if promotion.replaced_id is None:
        insert_unless_there(session, Alias(name="live", version_id=promotion.version_id))
    else:
        expected.append(col(Alias.version_id) == promotion.replaced_id)
    if not _moved(session, promotion.version_id, *expected):
        raise ConflictError(
            f"another version went live since promotion {promotion.id} was asked for; "
            "compare the candidate with that one and ask again"
        )
    if promotion.replaced_id is not None:
        _keep_previous(session, promotion.replaced_id)
    clear_candidate(session, promotion.version_id, "it is live")
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
    if not insert_unless_there(session, row):
        _moved(session, version_id, col(Alias.name) == "previous")


def _moved(session: Session, version_id: str, *expected: Any) -> bool:
    """Compare and swap: point the alias rows that are as expected to another version."""
    values = {"version_id": version_id, "generation": Alias.generation + 1, "moved_at": now()}
    return changed_rows(session.execute(update(Alias).where(*expected).values(**values))) == 1


def _promotable(session: Session, version_id: str) -> PolicyVersion:
    version = session.get(PolicyVersion, version_id)
    if version is None:
        raise NotFoundError(f"there is no policy version {version_id}; `heed policies` lists them")
    live = aliased(session, "live")
    if live is not None and live.id == version_id:
        raise ConflictError(f"version {version.number} is live already")
    if version.state == "rejected":
        raise PromotionError(
            f"version {version.number} was rejected by its gate, or by a person (run "
            f"{version.run_id}); train again with more evidence, or change the gate in "
            "training.plan"
        )
    return version


def _set_states(session: Session, promotion: Promotion) -> None:
    versions = update(PolicyVersion)
    session.execute(
        versions.where(col(PolicyVersion.id) == promotion.replaced_id).values(state="retired")
    )
    session.execute(
        versions.where(col(PolicyVersion.id) == promotion.version_id).values(state="live")
    )
    # A run that waited for a person's approval has it now; one that was refused because its
    # version was not live in time, or another was, is refused no longer.
    ended = (
        col(TrainingRun.candidate_id) == promotion.version_id,
        or_(
            col(TrainingRun.state) == "awaiting_approval",
            and_(col(TrainingRun.state) == "refused", col(TrainingRun.id) == promotion.run_id),
        ),
    )
    # The same moment tells which runs a promotion ended (observing.py).
    moment = select(Promotion.finished_at).where(Promotion.id == promotion.id).scalar_subquery()
    session.execute(
        update(TrainingRun)
        .where(*ended)
        .values(state="promoted", error=None, finished_at=moment)
        .execution_options(synchronize_session=False)
    )
