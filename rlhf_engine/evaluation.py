"""Stage evaluation: the candidate against the live policy on questions no training saw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rlhf_engine import ppo_math
from rlhf_engine.answer_sheet import SheetRow, fill_sheet
from rlhf_engine.backbone import Backbone
from rlhf_engine.errors import SnapshotError
from rlhf_engine.files import sha256_of, write_lines
from rlhf_engine.gate import MORE_NEEDED, Measured, decide, figures
from rlhf_engine.plan import RunPlan
from rlhf_engine.records import (
    Demonstration,
    GateReport,
    Prompt,
    SignalInput,
    StageReport,
    to_json,
)
from rlhf_engine.render import answer_ids, prompt_ids
from rlhf_engine.reward_model import RewardModel
from rlhf_engine.signals import RewardSignal, summary
from rlhf_engine.snapshot import Snapshot
from rlhf_engine.stage import Stage
from rlhf_engine.statistics import Interval, mean_interval, win_interval

KL_ROWS = 8
"""Answers compared with the SFT policy at once."""


@dataclass(frozen=True, slots=True)
class Player:
    """One policy in the comparison: its name, and its adapter folder (None: the base policy)."""

    name: str
    folder: Path | None


def run_evaluation(
    stage: Stage, snapshot: Snapshot, signals: Sequence[RewardSignal] = ()
) -> tuple[StageReport, GateReport]:
    """Answer, compare, decide. Writes STAGE/answers.jsonl, one question a line.

    What the reward signals read of both policies' answers is reported, and decides nothing.
    """
    demonstrations = snapshot.evaluation_demonstrations()[: stage.plan.evaluation.max_questions]
    if not demonstrations:
        raise SnapshotError(f"no question is held out of training, and {MORE_NEEDED}")
    backbone = Backbone.load(Path(stage.plan.base), stage.dtype)
    live, candidate = _players(stage)
    sheets = {
        player.name: _sheet(stage, backbone, player, demonstrations) for player in (live, candidate)
    }
    rewards = _rewards(stage, backbone, demonstrations, sheets)
    measured = _measure(stage, sheets, rewards)
    _write_answers(stage, sheets, rewards)
    extra: dict[str, Any] = {
        "kl": _kl_to_sft(stage, backbone, candidate, demonstrations, sheets["candidate"])
    }
    for name, values in rewards.items():
        extra[f"reward_{name}"] = sum(values) / len(values)
    if signals:
        extra["signals"] = _signal_summaries(signals, demonstrations, sheets)
    report = decide(measured, stage.plan.gate)
    return StageReport(stage.name, stage.seconds(), figures(measured) | extra), report


def score_answers(
    plan: RunPlan,
    reward_model: Path,
    dtype: str,
    prompts: Sequence[Prompt],
    answers: Sequence[str],
    on_done: Callable[[int], None] | None = None,
) -> list[float]:
    """Scores of written answers by a stored reward model (the folder of its stage).

    `on_done` hears how many are scored.
    """
    model = RewardModel(Backbone.load(Path(plan.base), dtype), reward_model)
    return model.score_texts(
        prompts, answers, plan, lambda done, _: on_done(done) if on_done else None
    )


def _players(stage: Stage) -> tuple[Player, Player]:
    plan = stage.plan
    last = "ppo" if plan.has_ppo else "sft"
    return (
        Player("live", Path(plan.live) if plan.live else None),
        Player("candidate", stage.run.stage_path(last) / "adapter"),
    )


def _sheet(
    stage: Stage, backbone: Backbone, player: Player, demonstrations: Sequence[Demonstration]
) -> list[SheetRow]:
    """The policy's answers; taken from an earlier stage of this run where it made them."""
    adapter = None
    if player.folder is not None:
        adapter = player.name
        backbone.add_adapter(adapter, player.folder)
    return fill_sheet(
        stage.run.path / "answers" / f"{_sheet_name(stage, player)}.jsonl",
        backbone,
        adapter,
        demonstrations,
        stage.plan,
        lambda done, of: stage.tell(done, of, f"answers of the {player.name} policy"),
    )


def _sheet_name(stage: Stage, player: Player) -> str:
    """ "base" or "sft" where the player is that very policy, else the player's own name."""
    if player.folder is None:
        return "base"
    name = "adapter_model.safetensors"
    sft = stage.run.stage_path("sft") / "adapter" / name
    return "sft" if sha256_of(sft) == sha256_of(player.folder / name) else player.name


def _rewards(
    stage: Stage,
    backbone: Backbone,
    demonstrations: Sequence[Demonstration],
    sheets: dict[str, list[SheetRow]],
) -> dict[str, list[float]]:
    """Each policy's rewards by the reward model of this run; empty where it trained none."""
    if not stage.plan.has_ppo:
        return {}
    model = RewardModel(backbone, stage.run.stage_path("reward_model"))
    prompts = [item.prompt for item in demonstrations]
    return {
        name: model.score_texts(
            prompts,
            [row.answer for row in rows],
            stage.plan,
            on_done=lambda done, of, name=name: stage.tell(
                done, of, f"scores of the {name} policy"
            ),  # type: ignore[misc]
        )
        for name, rows in sheets.items()
    }


def _signal_summaries(
    signals: Sequence[RewardSignal],
    demonstrations: Sequence[Demonstration],
    sheets: dict[str, list[SheetRow]],
) -> dict[str, dict[str, Any]]:
    """By signal and policy: mean reading, how many answers were read, how many were not."""
    inputs = {
        name: [
            SignalInput(item.prompt, row.answer, row.gold)
            for item, row in zip(demonstrations, rows, strict=True)
        ]
        for name, rows in sheets.items()
    }
    return {
        signal.name: {name: to_json(summary(signal, read)) for name, read in inputs.items()}
        for signal in signals
    }


def _measure(
    stage: Stage, sheets: dict[str, list[SheetRow]], rewards: dict[str, list[float]]
) -> Measured:
    live, candidate = sheets["live"], sheets["candidate"]
    evaluation = stage.plan.evaluation
    gains = [after.chrf - before.chrf for before, after in zip(live, candidate, strict=True)]
    return Measured(
        questions=len(live),
        win_rate=_win_rate(live, candidate, rewards, evaluation.confidence) if rewards else None,
        chrf_live=_mean([row.chrf for row in live]),
        chrf_candidate=_mean([row.chrf for row in candidate]),
        chrf_gain=mean_interval(
            gains,
            confidence=evaluation.confidence,
            rounds=evaluation.bootstrap_rounds,
            seed=stage.plan.seed,
        ),
        length_live=_mean([row.tokens for row in live]),
        length_candidate=_mean([row.tokens for row in candidate]),
    )


def _win_rate(
    live: Sequence[SheetRow],
    candidate: Sequence[SheetRow],
    rewards: dict[str, list[float]],
    confidence: float,
) -> Interval:
    """Share of questions where the candidate's answer scores higher; equal answers count half."""
    wins = ties = 0
    for at, (before, after) in enumerate(zip(live, candidate, strict=True)):
        difference = rewards["candidate"][at] - rewards["live"][at]
        even = before.answer == after.answer or difference == 0
        ties += even
        wins += difference > 0 and not even
    return win_interval(wins, ties, len(live) - wins - ties, confidence=confidence)


@torch.inference_mode()
def _kl_to_sft(
    stage: Stage,
    backbone: Backbone,
    candidate: Player,
    demonstrations: Sequence[Demonstration],
    sheet: Sequence[SheetRow],
) -> float:
    """Mean over answers of the candidate's KL to the SFT policy (k3, nats), on its own answers."""
    if not stage.plan.has_ppo:
        return 0.0
    backbone.add_adapter("sft", stage.run.stage_path("sft") / "adapter")
    total, tokenizer, plan = 0.0, backbone.tokenizer, stage.plan
    rows = list(zip(demonstrations, sheet, strict=True))
    for start in range(0, len(rows), KL_ROWS):
        stage.tell(start, len(rows), "comparing with the SFT policy")
        part = rows[start : start + KL_ROWS]
        groups = backbone.group(
            [prompt_ids(tokenizer, item.prompt, plan.max_prompt_tokens) for item, _ in part],
            [answer_ids(tokenizer, row.answer, plan.max_answer_tokens) for _, row in part],
        )
        logprobs = []
        for adapter in (candidate.name, "sft"):
            with backbone.using(adapter):
                logits = backbone.logits(groups)
            logprobs.append(ppo_math.gathered_logprobs(logits, groups.answers, 1.0))
        kl = ppo_math.sequence_kl(ppo_math.kl_k3(*logprobs), groups.answer_mask)
        total += float(kl) * len(part)
    return total / len(rows)


def _write_answers(
    stage: Stage, sheets: dict[str, list[SheetRow]], rewards: dict[str, list[float]]
) -> None:
    rows: list[dict[str, Any]] = []
    for at, (live, candidate) in enumerate(zip(*sheets.values(), strict=True)):
        row: dict[str, Any] = {
            "prompt_id": live.prompt_id,
            "question": live.question,
            "gold": live.gold,
            "live": live.answer,
            "candidate": candidate.answer,
            "chrf_live": live.chrf,
            "chrf_candidate": candidate.chrf,
            "facts_live": live.facts,
            "facts_candidate": candidate.facts,
        }
        for name, values in rewards.items():
            row[f"reward_{name}"] = values[at]
        rows.append(row)
    write_lines(stage.path / "answers.jsonl", rows)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
