"""Policy versions: which there are, which is live, and for operators promoting and going back."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from litestar import get, post
from litestar.params import FromPath, JSONBody
from sqlmodel import Session, col, select

from service import policies
from service.database import session
from service.tables import PolicyVersion, Promotion, TrainingRun
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


class Approval(msgspec.Struct, forbid_unknown_fields=True):
    """On what grounds a version is promoted."""

    evidence: str = "decided on the page"


@get("/api/policies", security=needs("employee", "read"), tags=["Policies"], sync_to_thread=True)
def list_policies(person: GivenPerson, parts: GivenParts) -> Policies:  # noqa: ARG001 - a session is required
    """All versions and the latest promotions."""
    with session(parts.database) as opened:
        rows = opened.exec(
            select(PolicyVersion).order_by(col(PolicyVersion.number).desc()).limit(MOST_ROWS)
        ).all()
        promotions = opened.exec(
            select(Promotion).order_by(col(Promotion.created_at).desc()).limit(MOST_ROWS)
        ).all()
        aliases, canaries = _aliases(opened), policies.canary_counts(opened)
        return Policies(
            versions=[_version(opened, parts, row, aliases, canaries) for row in rows],
            promotions=[_promotion(opened, row) for row in promotions],
        )


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
        asked = _promotion(opened, row)
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
        asked = _promotion(opened, policies.rollback(opened, operator.name))
    parts.swapper.wake()
    return asked


def _aliases(opened: Session) -> dict[str, str]:
    """Alias names by the version they name; of several the first of `policies.ALIASES`."""
    found = {name: policies.aliased(opened, name) for name in reversed(policies.ALIASES)}
    return {version.id: name for name, version in found.items() if version is not None}


def _version(
    opened: Session,
    parts: Parts,
    row: PolicyVersion,
    aliases: dict[str, str],
    canaries: dict[str, int],
) -> Version:
    shown = {"id", "number", "kind", "state", "run_id", "created_at", "figures"}
    return Version(
        **row.model_dump(include=shown),
        parent=_number(opened, row.parent_id),
        alias=aliases.get(row.id),
        loaded=row.id in parts.serving.loaded(),
        leases=parts.serving.leases().get(row.id, 0),
        canary_answers=canaries.get(row.id, 0),
    )


def _promotion(opened: Session, row: Promotion) -> PromotionEntry:
    hidden = {"version_id", "replaced_id"}
    return PromotionEntry(
        **row.model_dump(exclude=hidden),
        version=opened.get_one(PolicyVersion, row.version_id).number,
        replaced=_number(opened, row.replaced_id),
    )


def _number(opened: Session, version_id: str | None) -> int | None:
    return opened.get_one(PolicyVersion, version_id).number if version_id else None
