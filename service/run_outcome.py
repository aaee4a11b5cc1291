"""What comes of a finished run: versions stored and registered, the gate's word followed.

Every step may be repeated: a version is named by its content, a row by its run.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import structlog
from sqlalchemy import Engine
from sqlmodel import Session, select

import rlhf_engine
from rlhf_engine.records import to_json
from service import policies, run_plan
from service.database import session
from service.errors import ConflictError, PromotionError
from service.leases import live_server
from service.settings import Settings
from service.tables import Alias, GateReport, PolicyVersion, Promotion, TrainingRun

SWAP_TIMEOUT_S = 180
"""How long a live server may take to load, try and swap in a promoted version."""

POLL_S = 0.2

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: its final state, its candidate, and what went wrong if anything did."""

    state: str
    candidate_id: str | None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class _Stored:
    folder: rlhf_engine.PolicyVersionFolder
    kind: str
    figures: dict[str, Any]


def settle(
    engine: Engine,
    settings: Settings,
    run: TrainingRun,
    folder: rlhf_engine.RunFolder,
    plan: rlhf_engine.RunPlan,
) -> Outcome:
    """Store what the run made and do what its gate said.

    A candidate that was judged against a version that is live no longer is not promoted; a
    person may still do it.
    """
    gate = folder.gate_report()
    if gate is None:
        return Outcome("refused", None, "the plan has no evaluation stage, so nothing was judged")
    versions = _store(settings, run, folder, plan)
    with session(engine) as opened:
        _keep_gate_report(opened, run.id, gate)
        base = policies.register_base(opened, settings, Path(plan.base))
        candidate = _register(opened, run, base.id, versions)
        if not gate.passed:
            if candidate.state == "candidate":
                candidate.state = "rejected"
                opened.add(candidate)
                policies.clear_candidate(opened, candidate.id, "its gate rejected it")
            return Outcome("refused", candidate.id)
        live = policies.live_version(opened)
        if live.id == candidate.id:
            return Outcome("promoted", candidate.id)
        judged_against = Path(plan.live).name if plan.live else base.id
        error = _why_overtaken(opened, candidate, judged_against, live)
    if plan.gate.approval_required:
        _name_candidate(engine, candidate)
        return Outcome("awaiting_approval", candidate.id, error)
    if error is not None:
        return Outcome("refused", candidate.id, error)
    try:
        error = promote(
            engine,
            settings,
            candidate.id,
            "the gate",
            gate.sentence,
            run.id,
            replaced_id=judged_against,
        )
    except PromotionError as refusal:
        error = str(refusal)
    return Outcome("refused" if error else "promoted", candidate.id, error)


def promote(
    engine: Engine,
    settings: Settings,
    version_id: str,
    by: str,
    evidence: str,
    run_id: str | None = None,
    kind: str = "promote",
    replaced_id: str | None = None,
) -> str | None:
    """Make a version live, by the running server where there is one; None when it is live,
    else why it is not (the version that was live stays). It replaces `replaced_id` and no other
    version, by default the one that is live now."""
    with session(engine) as opened:
        alias = opened.get(Alias, "live")
        if alias is not None and alias.version_id == version_id:
            return None
        promotion = policies.request_promotion(
            opened, version_id, by, evidence, run_id=run_id, kind=kind, replaced_id=replaced_id
        )
        # The server picks the row up as soon as it is committed.
        promotion_id = promotion.id
    return _see_through(engine, settings, promotion_id)


def _why_overtaken(
    session: Session, candidate: PolicyVersion, judged_against: str, live: PolicyVersion
) -> str | None:
    """Why the gate's word no longer holds, or None where the version it speaks of is live."""
    if live.id == judged_against:
        return None
    judged = session.get(PolicyVersion, judged_against)
    against = f"version {judged.number}" if judged else judged_against
    return (
        f"it was judged against {against}, and version {live.number} went live since; train "
        f"again, or promote it by hand (heed promote {candidate.number})"
    )


def _name_candidate(engine: Engine, candidate: PolicyVersion) -> None:
    """Let canary answers come from it; whether they do or not, it can be approved."""
    try:
        with session(engine) as opened:
            policies.set_candidate(opened, candidate.id, "the gate")
    except ConflictError as error:
        log.warning("candidate_not_set", error=str(error), next="heed candidate sets it")


def _see_through(engine: Engine, settings: Settings, promotion_id: str) -> str | None:
    waited = threading.Event()
    began = monotonic()
    while monotonic() - began < SWAP_TIMEOUT_S:
        with session(engine) as opened:
            promotion = opened.get_one(Promotion, promotion_id)
            served = live_server(opened) is not None
        if promotion.state == "done":
            return None
        if promotion.state == "refused":
            return promotion.error or "the server refused the version"
        if not served:
            _promote_here(engine, settings, promotion_id)
            continue
        waited.wait(POLL_S)
    return (
        f"the server did not swap within {SWAP_TIMEOUT_S} s; promotion {promotion_id} stays "
        "requested, and the server takes it up when it can (its log says what it waits for)"
    )


def _promote_here(engine: Engine, settings: Settings, promotion_id: str) -> None:
    from service import swap

    swap.promote_directly(engine, settings, promotion_id)


def _store(
    settings: Settings,
    run: TrainingRun,
    folder: rlhf_engine.RunFolder,
    plan: rlhf_engine.RunPlan,
) -> list[_Stored]:
    """Copy what the run made into the folder of policies: the SFT version, then the PPO one."""
    snapshot = rlhf_engine.Snapshot.open(folder.stage_path("snapshot"))
    figures = {"sft_key": run_plan.sft_key(plan, snapshot)}
    lineage = {"run": run.id, "snapshot": snapshot.hash, "plan": to_json(plan)}

    def stored(kind: str, adapter: Path, figures: dict[str, Any]) -> _Stored:
        probes = rlhf_engine.probes_of(folder, plan, snapshot, kind)
        told = {**lineage, "kind": kind, "probes": [to_json(probe) for probe in probes]}
        version = rlhf_engine.PolicyVersionFolder.store(
            adapter, Path(plan.base), settings.policies, told
        )
        return _Stored(version, kind, figures)

    if not plan.has_ppo:
        return [stored("sft", folder.candidate_path, figures)]
    return [
        stored("sft", folder.stage_path("sft") / "adapter", figures),
        stored("ppo", folder.candidate_path, {}),
    ]


def _register(
    session: Session, run: TrainingRun, base_id: str, versions: list[_Stored]
) -> PolicyVersion:
    """Rows for the stored versions, each the parent of the next; the last is the candidate."""
    parent = base_id
    for stored in versions:
        row = policies.register_candidate(
            session,
            stored.folder,
            stored.kind,
            run.id,
            run.snapshot_hash,
            parent,
            stored.figures,
        )
        parent = row.id
    return row


def _keep_gate_report(session: Session, run_id: str, gate: rlhf_engine.GateReport) -> None:
    known = session.exec(select(GateReport).where(GateReport.run_id == run_id)).first()
    if known is None:
        session.add(GateReport(run_id=run_id, **to_json(gate)))
