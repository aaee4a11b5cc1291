"""Stage reward_model: learn from votes what people would prefer, then measure it.

Votes become pairs (preferences.py), pairs train heads over one backbone
(reward_training.py), the scores get their scale and PPO its critic, and held-out votes say
what it is all worth (reward_report.py). One copy of the base policy serves all of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlhf_engine.backbone import Backbone
from rlhf_engine.base_policy import base_hash
from rlhf_engine.critic import Critic
from rlhf_engine.errors import SnapshotError, TrainingError
from rlhf_engine.novelty import Novelty
from rlhf_engine.preferences import Pair, gather_pairs
from rlhf_engine.records import StageReport
from rlhf_engine.reward_model import (
    CRITIC,
    NOVELTY,
    RewardModel,
    Scale,
    answer_states,
    read_layers,
)
from rlhf_engine.reward_report import measure
from rlhf_engine.reward_training import train_heads
from rlhf_engine.snapshot import Snapshot, normalised
from rlhf_engine.stage import Stage
from rlhf_engine.written import written_answers

MOST_SCALED_PAIRS = 500
"""Pairs whose answers set the scale of the scores: those from thumbs, then the newest votes."""

MOST_CRITIC_TOKENS = 30_000
"""Answer tokens of these whose states are kept to fit the critic."""


def run_reward_model(stage: Stage, snapshot: Snapshot) -> StageReport:
    """Train on the votes of the training side, then measure on the held-out ones."""
    plan = stage.plan.reward_model
    decisive = [item for item in snapshot.comparisons if item.decisive]
    train = sum(item.prompt.split == "train" for item in decisive)
    if train < plan.min_comparisons:
        raise SnapshotError(
            f"{train} comparisons with a clear choice are too few for a reward model; "
            f"at least {plan.min_comparisons} are needed"
        )
    evidence = gather_pairs(snapshot.comparisons, snapshot.thumbs, plan)
    figures: dict[str, Any] = {
        "comparisons": len(snapshot.comparisons),
        "decisive": len(decisive),
        "simulated": sum(item.simulated for item in snapshot.comparisons),
        "train": train,
        "pairs": len(evidence.pairs),
    }
    backbone = Backbone.load(Path(stage.plan.base), stage.dtype)
    figures |= evidence.figures | train_heads(stage, backbone, evidence.pairs)
    model = _scaled(stage, backbone, evidence.pairs)
    figures |= measure(model, snapshot, stage)
    replace(model.scale, temperature=figures["temperature"]).write(stage.path)
    return StageReport(stage.name, stage.seconds(), figures)


def _scaled(stage: Stage, backbone: Backbone, pairs: Sequence[Pair]) -> RewardModel:
    """Write the scale of the scores, and the critic that PPO starts with, from one pass over
    answers of the training side."""
    reward = stage.plan.reward_model
    scale = Scale(
        means=(0.0,) * reward.heads,
        deviations=(1.0,) * reward.heads,
        layers=read_layers(backbone, reward),
        adapters=reward.heads if reward.separate_adapters else 1,
        base=base_hash(Path(stage.plan.base)),
    )
    scale.write(stage.path)
    read = _read_answers(RewardModel(backbone, stage.path), pairs, stage)
    mean, deviation = read.raw.mean(dim=1), read.raw.std(dim=1).clamp(min=1e-3)
    if not math.isfinite(float((mean + deviation).sum())):
        raise TrainingError("the reward model's scores are not finite; lower its learning_rate")
    scores = ((read.raw - mean.unsqueeze(1)) / deviation.unsqueeze(1)).mean(dim=0)
    asked = read.questions[read.answers]
    Critic.fitted(read.states, scores[read.answers], asked).save(stage.path / CRITIC)
    Novelty.fitted(read.last, read.questions).save(stage.path / NOVELTY)
    replace(scale, means=tuple(mean.tolist()), deviations=tuple(deviation.tolist())).write(
        stage.path
    )
    return RewardModel(backbone, stage.path)


class _Read(NamedTuple):
    """Raw scores [k, a] of a different answers, the states [a, h] that they are read in, and the
    number of each one's question [a]; states [n, h] before their tokens, as many as are kept, and
    each token's answer's number [n]."""

    raw: Tensor
    last: Tensor
    questions: Tensor
    states: Tensor
    answers: Tensor


def _read_answers(model: RewardModel, pairs: Sequence[Pair], stage: Stage) -> _Read:
    """Read the answers of the last pairs: those from thumbs, then the newest votes."""
    newest = list(reversed(pairs))[:MOST_SCALED_PAIRS]
    numbers: dict[str, int] = {}
    asked = [pair.prompt for pair in newest for _ in range(2)]
    texts = [text for pair in newest for text in (pair.chosen, pair.rejected)]
    scores: list[Tensor] = []
    last: list[Tensor] = []
    questions: list[int] = []
    states: list[Tensor] = []
    answers: list[Tensor] = []
    done = 0
    for groups, places in written_answers(model.backbone, asked, texts, stage.plan):
        score, state = (each.cpu() for each in model.read(groups))
        lengths, mask = groups.lengths.cpu(), groups.answer_mask.bool().cpu()
        real = [row for row, own in enumerate(places) if own]
        first = len(questions)
        questions += [
            numbers.setdefault(normalised(asked[places[row][0]].question), len(numbers))
            for row in real
        ]
        scores.append(score[:, real])
        last.append(answer_states(state, lengths)[real])
        if sum(map(len, answers)) < MOST_CRITIC_TOKENS:
            states += [state[row, :-1][mask[row]] for row in real]
            answers += [torch.full((int(lengths[row]),), first + at) for at, row in enumerate(real)]
        done += sum(map(len, places))
        stage.tell(done, len(texts), "scaling the scores")
    return _Read(
        torch.cat(scores, dim=1),
        torch.cat(last),
        torch.tensor(questions),
        torch.cat(states),
        torch.cat(answers),
    )
