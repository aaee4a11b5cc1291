"""Policy versions: which there are, where they come from, and for operators promoting and going
back."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from litestar import get, post
from litestar.params import FromPath, JSONBody
from sqlmodel import Session, col, func, or_, select

from service import audit, lineage, policies
from service.database import session
from service.tables import Candidate, PolicyVersion, Promotion, TrainingRun
from service.web.parts import GivenParts, Parts
from service.web.rights import needs
from service.web.sessions import GivenPerson

MOST_ROWS = 100


class Version(msgspec.Struct):
    """A policy version. `alias` is "live", "candidate" or "previous" where it is one; `leases`
    counts the answers this server is giving with it now, `canary_answers` those it ever gave as
    a canary, on any server."""

    id: str
    number: int
    kind: str
    state: str
    parent: int | None
    run_id: str | None
    created_at: datetime
    figures: dict[str, Any]
    alias: str | None
    loaded: bool
    leases: int
    canary_answers: int


class PromotionEntry(msgspec.Struct):
    """What replaced what, by whom, on what evidence. `state` is requested, done or refused."""

    id: str
    kind: str
    version: int
    replaced: int | None
    by: str
    evidence: str
    run_id: str | None
    state: str
    error: str | None
    created_at: datetime
    finished_at: datetime | None


class Policies(msgspec.Struct):
    """All versions, the newest first, and the latest promotions."""

    versions: list[Version]
    promotions: list[PromotionEntry]


class Ancestor(msgspec.Struct):
    """A version of a line, with the run and the snapshot it was trained on; null for the base
    policy. `counts` says how many votes, gold answers and so on the snapshot holds."""

    id: str
    number: int
    kind: str
    run_id: str | None
    run_state: str | None
    trained_at: datetime | None
    snapshot_hash: str | None
    counts: dict[str, int] | None


class VersionDetail(Version):
    """A version with its line down to the base policy, the promotions that name it, and how many
    answers it gave."""

    line: list[Ancestor]
    promotions: list[PromotionEntry]
    answers: int


class AnswerLine(msgspec.Struct):
    """Where an answer comes from: its version and that one's ancestors, each with its run and
    snapshot."""

    candidate_id: str
    line: list[Ancestor]


class Approval(msgspec.Struct, forbid_unknown_fields=True):
    """On what grounds a version is promoted."""

    evidence: str = "decided on the page"


@get("/api/policies", security=needs("reviewer", "read"), tags=["Policies"], sync_to_thread=True)
def list_policies(reviewer: GivenPerson, parts: GivenParts) -> Policies:  # noqa: ARG001 - for reviewers
    """All versions and the latest promotions."""
    with session(parts.database) as opened:
        newest = select(PolicyVersion).order_by(col(PolicyVersion.number).desc())
        rows = opened.exec(newest.limit(MOST_ROWS)).all()
        numbers = policies.numbers(opened)
        aliases, canaries = _aliases(opened), policies.canary_counts(opened)
        return Policies(
            versions=[Version(**_fields(parts, row, numbers, aliases, canaries)) for row in rows],
            promotions=_promotions(opened, numbers),
        )


@get(
    "/api/policies/{version_id:str}",
    security=needs("reviewer", "read"),
    tags=["Policies"],
    sync_to_thread=True,
)
def show_policy(
    reviewer: GivenPerson,  # noqa: ARG001 - for reviewers
    parts: GivenParts,
    version_id: FromPath[str],
) -> VersionDetail:
    """One version, by its number ("7"), id or alias, with where it comes from."""
    with session(parts.database) as opened:
        row = policies.find_version(opened, version_id)
        numbers = policies.numbers(opened)
        given = select(func.count()).where(Candidate.version_id == row.id)
        aliases, canaries = _aliases(opened), policies.canary_counts(opened)
        return VersionDetail(
            **_fields(parts, row, numbers, aliases, canaries),
            line=[_ancestor(one) for one in lineage.line_of(opened, row)],
            promotions=_promotions(opened, numbers, row.id),
            answers=opened.exec(given).one(),
        )


@get(
    "/api/answers/{candidate_id:str}/lineage",
    security=needs("reviewer", "read"),
    tags=["Policies"],
    sync_to_thread=True,
)
def show_answer_line(
    reviewer: GivenPerson,  # noqa: ARG001 - for reviewers
    parts: GivenParts,
    candidate_id: FromPath[str],
) -> AnswerLine:
    """The version, runs and snapshots behind an answer that was given."""
    with session(parts.database) as opened:
        line = lineage.line_of_answer(opened, candidate_id)
    return AnswerLine(candidate_id, [_ancestor(one) for one in line])


@post(
    "/api/policies/{version_id:str}/promote",
    status_code=202,
    security=needs("operator", "operate"),
    tags=["Policies"],
    sync_to_thread=True,
)
def promote(
    operator: GivenPerson, parts: GivenParts, version_id: FromPath[str], data: JSONBody[Approval]
) -> PromotionEntry:
    """Ask that a version goes live, or approve the candidate of a run; operators only."""
    with session(parts.database) as opened:
        version = policies.find_version(opened, version_id)
        waiting = select(TrainingRun.id).where(
            TrainingRun.candidate_id == version.id, TrainingRun.state == "awaiting_approval"
        )
        run_id = opened.exec(waiting).first()
        row = policies.request_promotion(
            opened, version.id, operator.name, data.evidence, run_id=run_id
        )
        audit.record(opened, operator, "policy.promoted", f"policy:{version.id}", run=run_id)
        asked = _promotion(row, policies.numbers(opened))
    parts.swapper.wake()
    return asked


@post(
    "/api/policies/rollback",
    status_code=202,
    security=needs("operator", "operate"),
    tags=["Policies"],
    sync_to_thread=True,
)
def roll_back(operator: GivenPerson, parts: GivenParts) -> PromotionEntry:
    """Ask that the version before the live one goes live again; operators only."""
    with session(parts.database) as opened:
        row = policies.rollback(opened, operator.name)
        audit.record(
            opened,
            operator,
            "policy.rolled_back",
            f"policy:{row.version_id}",
            replaced=row.replaced_id,
        )
        asked = _promotion(row, policies.numbers(opened))
    parts.swapper.wake()
    return asked


def _aliases(opened: Session) -> dict[str, str]:
    """Alias names by the version they name; of several the first of `policies.ALIASES`."""
    found = {name: policies.aliased(opened, name) for name in reversed(policies.ALIASES)}
    return {version.id: name for name, version in found.items() if version is not None}


def _fields(
    parts: Parts,
    row: PolicyVersion,
    numbers: dict[str, int],
    aliases: dict[str, str],
    canaries: dict[str, int],
) -> dict[str, Any]:
    shown = {"id", "number", "kind", "state", "run_id", "created_at", "figures"}
    return {
        **row.model_dump(include=shown),
        "parent": numbers.get(row.parent_id or ""),
        "alias": aliases.get(row.id),
        "loaded": row.id in parts.serving.loaded(),
        "leases": parts.serving.leases().get(row.id, 0),
        "canary_answers": canaries.get(row.id, 0),
    }


def _ancestor(one: lineage.Ancestor) -> Ancestor:
    return Ancestor(
        id=one.version.id,
        number=one.version.number,
        kind=one.version.kind,
        run_id=one.run.id if one.run else None,
        run_state=one.run.state if one.run else None,
        trained_at=one.run.started_at if one.run else None,
        snapshot_hash=one.version.snapshot_hash,
        counts=one.snapshot.counts if one.snapshot else None,
    )


def _promotions(
    opened: Session, numbers: dict[str, int], version_id: str | None = None
) -> list[PromotionEntry]:
    query = select(Promotion).order_by(col(Promotion.created_at).desc()).limit(MOST_ROWS)
    if version_id is not None:
        query = query.where(
            or_(Promotion.version_id == version_id, Promotion.replaced_id == version_id)
        )
    return [_promotion(row, numbers) for row in opened.exec(query)]


def _promotion(row: Promotion, numbers: dict[str, int]) -> PromotionEntry:
    hidden = {"version_id", "replaced_id"}
    return PromotionEntry(
        **row.model_dump(exclude=hidden),
        version=numbers[row.version_id],
        replaced=numbers.get(row.replaced_id or ""),
    )
