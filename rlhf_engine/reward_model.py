"""The reward model: an ensemble of score heads that says how much people would like an answer.

It is a LoRA adapter over the first layers of the base policy and k linear heads that read the
mean state of the answer's tokens; or k adapters with one head each. PPO against the mean over an
answer in a middle layer wins more than against the last layer's state at its end
(docs/experiments.md). Each head's scores are shifted and scaled to mean 0 and deviation 1 over the
training answers, so that PPO's settings mean the same in every run. Heads are trained in
reward_training.py; whoever uses the scores combines the heads.

    FOLDER/adapter/...          LoRA weights and `score` [k, h], a PEFT sequence classifier over
                                the first layers; what it classifies is the mean state
    FOLDER/adapter_2/... etc.   with separate adapters, those of the other heads
    FOLDER/scale.json           each head's mean and deviation, the temperature, and the layers
    FOLDER/critic.safetensors   the critic that PPO starts with (critic.py)
    FOLDER/novelty.safetensors  what voted answers look like (novelty.py)

Legend: k heads, n prompts, g answers a prompt, b = n g answers, t answer tokens, h width.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from rlhf_engine.backbone import SCORE_KEY, AnswerGroups, Backbone, layer_count, read_adapter
from rlhf_engine.errors import PolicyVersionError
from rlhf_engine.files import write_json
from rlhf_engine.novelty import Novelty
from rlhf_engine.plan import RewardPlan, RunPlan
from rlhf_engine.records import Prompt
from rlhf_engine.written import AT_ONCE, written_answers

SCALE = "scale.json"
CRITIC = "critic.safetensors"
NOVELTY = "novelty.safetensors"


class Judgement(NamedTuple):
    """What a judge says of answers.

    scores [k, b] of each head, about 0 and 1 in mean and deviation over the SFT policy's
    answers; novelty [b], above 1 beyond the usual; hidden states [b, t, h] before each answer
    token, for the critic.
    """

    scores: Tensor
    novelty: Tensor
    states: Tensor


@dataclass(frozen=True, slots=True)
class Scale:
    """Mean and deviation of each head's raw scores over the training answers.

    A difference of scores, times the heads' mean deviation, over `temperature`, is the
    logarithm of the odds that people prefer the one answer. `layers` is how many of the base
    policy's layers an answer goes through, and `base` the base policy's hash.
    """

    means: tuple[float, ...]
    deviations: tuple[float, ...]
    layers: int
    temperature: float = 1.0
    adapters: int = 1
    base: str = ""

    @classmethod
    def read(cls, folder: Path) -> Scale:
        """The scale of a stored reward model; PolicyVersionError where it is of another kind."""
        data = json.loads((folder / SCALE).read_text(encoding="utf-8"))
        if "layers" not in data:
            raise PolicyVersionError(
                f"the reward model in {folder} reads answers in a way that is no longer known; "
                "start a new run, which trains another"
            )
        return cls(tuple(data.pop("means")), tuple(data.pop("deviations")), **data)

    def write(self, folder: Path) -> None:
        """Keep it in a reward model's folder."""
        write_json(folder / SCALE, asdict(self))


def read_layers(backbone: Backbone, plan: RewardPlan) -> int:
    """How many of the base policy's layers an answer goes through by the plan's `depth`."""
    return max(1, round(plan.depth * layer_count(backbone.model)))


def adapter_name(number: int) -> str:
    """What the adapter of head `number` (from 0) is called on a backbone."""
    return f"{RewardModel.ADAPTER}_{number + 1}" if number else RewardModel.ADAPTER


def adapter_folder(folder: Path, number: int) -> Path:
    """Where the adapter of head `number` (from 0) lies in a reward model's folder."""
    return folder / (f"adapter_{number + 1}" if number else "adapter")


class RewardModel:
    """Scores answers with the reward adapters of a backbone; installs those it lacks."""

    ADAPTER = "reward"

    def __init__(self, backbone: Backbone, folder: Path) -> None:
        self.backbone = backbone
        self.folder, self.scale = folder, Scale.read(folder)
        self._members = [
            (adapter_name(number), self._install(adapter_name(number), folder, number))
            for number in range(self.scale.adapters)
        ]
        self.mean = torch.tensor(self.scale.means, device=backbone.device).unsqueeze(1)
        self.deviation = torch.tensor(self.scale.deviations, device=backbone.device).unsqueeze(1)

    @torch.inference_mode()
    def read(self, groups: AnswerGroups) -> tuple[Tensor, Tensor]:
        """Scores [k, b], normalised, and hidden states [b, t + 1, h] of the first adapter.

        The state at position i has read the prompt and the answer's first i tokens: what
        a critic may know when token i is drawn.
        """
        raw, states = [], None
        for name, head in self._members:
            with self.backbone.using(name):
                hidden = self.backbone.states(groups, self.scale.layers).float()
            raw.append(read_heads(hidden, groups.lengths, head))
            states = hidden if states is None else states
        assert states is not None
        return (torch.cat(raw) - self.mean) / self.deviation, states

    @cached_property
    def novelty(self) -> Novelty:
        """What tells new answers from voted ones."""
        return Novelty.load(self.folder / NOVELTY).to(self.backbone.device)

    @torch.inference_mode()
    def judge(self, groups: AnswerGroups) -> Judgement:
        """Scores, novelty and what the critic reads."""
        scores, states = self.read(groups)
        novelty = self.novelty.of(answer_states(states, groups.lengths))
        return Judgement(scores, novelty, states[:, :-1])

    def scores(self, groups: AnswerGroups) -> Tensor:
        """Scores [k, b], normalised."""
        return self.read(groups)[0]

    def text_scores(
        self,
        prompts: Sequence[Prompt],
        answers: Sequence[str],
        plan: RunPlan,
        at_once: int = AT_ONCE,
        on_done: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Scores [k, b] of n g written answers to n prompts, rendered as everywhere.

        `at_once` is how many answers go through the model together; `on_done` hears how many of
        how many are scored.
        """
        g = len(answers) // max(1, len(prompts))
        asked = [prompt for prompt in prompts for _ in range(g)]
        found = torch.zeros(len(self.mean), len(answers))
        done = 0
        for groups, places in written_answers(self.backbone, asked, answers, plan, at_once):
            for score, own in zip(self.scores(groups).cpu().T, places, strict=True):
                found[:, own] = score.unsqueeze(1)
            done += sum(map(len, places))
            if on_done is not None:
                on_done(done, len(answers))
        return found

    def score_texts(
        self,
        prompts: Sequence[Prompt],
        answers: Sequence[str],
        plan: RunPlan,
        on_done: Callable[[int, int], None] | None = None,
    ) -> list[float]:
        """Mean over the heads of `text_scores`, one number an answer."""
        scores = self.text_scores(prompts, answers, plan, on_done=on_done)
        return [float(score) for score in scores.mean(dim=0)]

    def log_odds(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        """Log-odds [b] that people prefer one answer, from both answers' scores [k, b]; before
        the temperature is applied."""
        return (chosen - rejected).mean(dim=0) * self.deviation.mean().to(chosen.device)

    def _install(self, name: str, folder: Path, number: int) -> Tensor:
        config, weights = read_adapter(adapter_folder(folder, number))
        if not self.backbone.has_adapter(name):
            self.backbone.install_adapter(name, config, weights)
        return weights[SCORE_KEY].float().to(self.backbone.device)


def read_heads(hidden: Tensor, lengths: Tensor, heads: Tensor) -> Tensor:
    """Raw scores [k, b] of heads [k, h], read in hidden states [b, t + 1, h]; lengths [b]."""
    return heads @ answer_states(hidden, lengths).T


def answer_states(hidden: Tensor, lengths: Tensor) -> Tensor:
    """The state [b, h] in which each answer is read, in float32: the mean of those after its
    tokens, the end of its turn included, of hidden states [b, t + 1, h]; of an empty answer the
    state at the end of its prompt."""
    places = torch.arange(hidden.shape[1], device=hidden.device)
    ends = lengths.unsqueeze(1)
    read = ((places > 0) | (ends == 0)) & (places <= ends)
    return (hidden.float() * read.unsqueeze(2)).sum(dim=1) / read.sum(dim=1, keepdim=True)
