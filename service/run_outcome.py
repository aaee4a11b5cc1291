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
    """Store what the run made and do what its gate said."""
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
    if plan.gate.approval_required:
        _name_candidate(engine, candidate)
        return Outcome("awaiting_approval", candidate.id)
    try:
        error = promote(engine, settings, candidate.id, "the gate", gate.sentence, run.id)
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
) -> str | None:
    """Make a version live, by the running server where there is one; None when it is live,
    else why it is not (the version that was live stays)."""
    with session(engine) as opened:
        alias = opened.get(Alias, "live")
        if alias is not None and alias.version_id == version_id:
            return None
        promotion = policies.request_promotion(
            opened, version_id, by, evidence, run_id=run_id, kind=kind
        )
        # The server picks the row up as soon as it is committed.
        promotion_id = promotion.id
    return _see_through(engine, settings, promotion_id)


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
