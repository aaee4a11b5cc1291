"""From settings and evidence to the RunPlan of one training run."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlmodel import Session, col, select

import rlhf_engine
from rlhf_engine.files import replaced, sha256_of_json
from rlhf_engine.gold_answers import added, withdrawn
from rlhf_engine.plan import STAGES, SignalPlan
from rlhf_engine.records import from_json, to_json
from service.errors import SettingsError
from service.settings import Settings
from service.tables import Alias, PolicyVersion, TrainingRun

SFT_ONLY = ("snapshot", "sft", "evaluation")


def plan_from(
    settings: Settings, overrides: Mapping[str, Any], base: str, live: str | None = None
) -> rlhf_engine.RunPlan:
    """The engine's defaults, then the settings, then this run's overrides.

    Raises SettingsError where a value is unknown or outside its range.
    """
    defaults = to_json(rlhf_engine.RunPlan(base=base, live=live))
    defaults |= {
        "dtype": settings.dtype,
        "threads": settings.training.threads,
        "max_prompt_tokens": settings.answers.max_prompt_tokens,
        "max_answer_tokens": settings.answers.max_new_tokens,
        "signals": [to_json(SignalPlan(s.name, s.weight)) for s in settings.signals],
    }
    defaults["gate"]["approval_required"] = settings.training.approval_required
    merged = _merged(_merged(defaults, settings.training.plan), overrides)
    try:
        return from_json(rlhf_engine.RunPlan, merged)
    except (rlhf_engine.PlanError, TypeError, KeyError) as error:
        raise SettingsError(f"training.plan cannot be used: {error}") from error


def choose_stages(plan: rlhf_engine.RunPlan, snapshot: rlhf_engine.Snapshot) -> tuple[str, ...]:
    """All stages, or only SFT and its evaluation where the votes are too few for the rest."""
    decisive = sum(c.decisive and c.prompt.split == "train" for c in snapshot.comparisons)
    return STAGES if decisive >= plan.reward_model.min_comparisons else SFT_ONLY


def sft_key(plan: rlhf_engine.RunPlan, snapshot: rlhf_engine.Snapshot) -> str:
    """A hash over what an SFT policy learns from and how: with equal keys there is nothing to
    train again."""
    return sha256_of_json(
        {
            "base": rlhf_engine.base_hash(Path(plan.base)),
            "demonstrations": snapshot.demonstrations_hash,
            **_sft_settings(plan),
        }
    )


def with_earlier_sft(
    session: Session,
    settings: Settings,
    plan: rlhf_engine.RunPlan,
    snapshot: rlhf_engine.Snapshot,
) -> rlhf_engine.RunPlan:
    """The plan with the SFT policy it can build on, if any; a plan that names one stays.

    The same gold answers: the policy is taken over (where PPO follows; alone there would be
    nothing to do). Gold answers were only added, and fewer than were known: SFT goes on from it
    and replays a share of the known ones. Otherwise SFT begins with the base policy, above all
    where a gold answer was withdrawn or changed, since that cannot be unlearnt.
    """
    if plan.sft.reuse or plan.sft.start_from:
        return plan
    if plan.has_ppo:
        reuse = reusable_sft(session, settings, sft_key(plan, snapshot))
        if reuse is not None:
            return replace(plan, sft=replace(plan.sft, reuse=str(reuse.resolve())))
    earlier = extendable_sft(session, settings, plan, snapshot)
    if earlier is None:
        return plan
    policy, seen = (str(path.resolve()) for path in earlier)
    return replace(plan, sft=replace(plan.sft, start_from=policy, seen=seen))


def with_earlier_reward_model(
    session: Session, plan: rlhf_engine.RunPlan, snapshot: rlhf_engine.Snapshot
) -> rlhf_engine.RunPlan:
    """The plan with the newest finished reward model to go on from, if any; a plan that names
    one stays. Where a vote it learnt was withdrawn or changed since, or its question is held out
    now, training begins anew, because that cannot be unlearnt."""
    if plan.reward_model.warm_start or "reward_model" not in plan.stages:
        return plan
    for run in session.exec(select(TrainingRun).order_by(col(TrainingRun.created_at).desc())):
        folder = rlhf_engine.RunFolder(Path(run.folder))
        try:
            if folder.report("reward_model") is None:
                continue
            learnt = rlhf_engine.Snapshot.open(folder.stage_path("snapshot"))
        except rlhf_engine.EngineError:
            continue  # cleaned up, or written by another version of the program
        if not _votes(learnt) <= _votes(snapshot):
            return plan
        source = str(folder.stage_path("reward_model").resolve())
        return replace(plan, reward_model=replace(plan.reward_model, warm_start=source))
    return plan


def _votes(snapshot: rlhf_engine.Snapshot) -> set[tuple[str, ...]]:
    """What names each comparison and thumb that a reward model learns of a snapshot."""
    thumbs = {
        (item.rater, item.prompt.id, item.answer, item.rated_at, str(item.up))
        for item in snapshot.thumbs
        if item.prompt.split == "train"
    }
    return thumbs | {(item.id,) for item in snapshot.comparisons if item.prompt.split == "train"}


def reusable_sft(session: Session, settings: Settings, key: str) -> Path | None:
    """The folder of an SFT PolicyVersion that was trained just so before, or None."""
    for version, folder in _sft_versions(session, settings):
        if version.figures.get("sft_key") == key:
            return folder
    return None


def extendable_sft(
    session: Session,
    settings: Settings,
    plan: rlhf_engine.RunPlan,
    snapshot: rlhf_engine.Snapshot,
) -> tuple[Path, Path] | None:
    """The newest SFT PolicyVersion to go on from, with the folder of the snapshot it learnt.

    It was trained by the same settings, its gate did not reject it, every gold answer it learnt
    is still there, and those that came since are no more than those.
    """
    for version, folder in _sft_versions(session, settings):
        run = session.get(TrainingRun, version.run_id) if version.run_id else None
        if run is None or version.state == "rejected":
            continue
        earlier = rlhf_engine.RunFolder(Path(run.folder))
        try:
            same = _sft_settings(earlier.plan()) == _sft_settings(plan)
            learnt = rlhf_engine.Snapshot.open(earlier.stage_path("snapshot"))
        except rlhf_engine.EngineError:
            continue  # cleaned up, or written by another version of the program
        known = len(learnt.training_demonstrations())
        if same and not withdrawn(learnt, snapshot) and 0 < added(learnt, snapshot) <= known:
            return folder, learnt.path
    return None


def _sft_versions(session: Session, settings: Settings) -> Iterator[tuple[PolicyVersion, Path]]:
    """SFT versions that are on disk, the newest first."""
    statement = select(PolicyVersion).where(PolicyVersion.kind == "sft")
    for version in session.exec(statement.order_by(col(PolicyVersion.number).desc())):
        folder = settings.policies / version.id
        if folder.is_dir():
            yield version, folder


def _sft_settings(plan: rlhf_engine.RunPlan) -> dict[str, Any]:
    """The settings that shape an SFT policy, without those that say what it builds on."""
    sft = to_json(plan.sft)
    for name in ("reuse", "start_from", "seen", "replay_share"):
        del sft[name]
    return {
        "lora": to_json(plan.lora),
        "sft": sft,
        "seed": plan.seed,
        "dtype": plan.dtype,
        "lengths": [plan.max_prompt_tokens, plan.max_answer_tokens],
    }


def take_over_answers(
    session: Session, plan: rlhf_engine.RunPlan, folder: rlhf_engine.RunFolder
) -> None:
    """Copy the answers of the base and the reused SFT policy from the run that drew them.

    Equal SFT keys mean the same questions, lengths and weights, so the answers would be
    the same; drawing them is a good part of a short run.
    """
    version = session.get(PolicyVersion, Path(plan.sft.reuse).name) if plan.sft.reuse else None
    run = session.get(TrainingRun, version.run_id) if version and version.run_id else None
    if run is None:
        return
    earlier = rlhf_engine.RunFolder(Path(run.folder))
    try:
        same = earlier.plan().evaluation == plan.evaluation
    except rlhf_engine.EngineError:
        return  # cleaned up, or written by another version of the program
    if not same:
        return
    for name in ("base.jsonl", "sft.jsonl"):
        source = earlier.path / "answers" / name
        if source.exists():
            with replaced(folder.path / "answers" / name) as temporary:
                shutil.copyfile(source, temporary)


def live_folder(session: Session, settings: Settings) -> Path | None:
    """The folder of the PolicyVersion now in service; None is the base policy untouched."""
    alias = session.get(Alias, "live")
    version = session.get(PolicyVersion, alias.version_id) if alias else None
    if version is None or version.kind == "base":
        return None
    return settings.policies / version.id


def _merged(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for name, value in over.items():
        inner = result.get(name)
        if isinstance(inner, dict) and isinstance(value, dict):
            result[name] = _merged(inner, value)
        else:
            result[name] = value
    return result
