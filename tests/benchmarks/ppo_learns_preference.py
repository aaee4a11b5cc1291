"""A simulated preference, learnt: SFT, votes, reward model, then PPO and best-of-n from as many
generated tokens; judged by the hidden preference on questions that no training saw.

SFT and reward model are made once; PPO, best-of-n and the judged answers once a seed. What a folder
holds already is not done again.
"""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import StatisticsError, correlation, fmean
from typing import Any

from rlhf_engine import (
    Demonstration,
    RunFolder,
    SampledAnswer,
    SamplingSettings,
    freeze,
    sample_answers,
    score_answers,
    train,
)
from rlhf_engine.plan import EvaluationPlan, LoraPlan, PpoPlan, RewardPlan, RunPlan, SftPlan
from rlhf_engine.similarity import answer_chrf
from rlhf_engine.snapshot import MANIFEST
from service.commands.terminal import steps
from tests.benchmarks.ppo_learns_company import cast_votes, company_questions, preferred
from tests.benchmarks.ppo_learns_control import Match
from tests.benchmarks.progress import training_progress

N = 4
VOTE_TEMPERATURE, JUDGED_TEMPERATURE = 1.0, 0.7
STAGES = ("snapshot", "sft", "reward_model", "ppo")


@dataclass(frozen=True)
class Scale:
    """How much is done. `pairs` are voted on, alike many of each question, as many questions as
    there are or fewer; `each` answers a held-out question are judged; `at_once` rows go through
    the policy together in training."""

    train: int
    exam: int
    pairs: int
    batches: int
    batch: int
    each: int
    answer_tokens: int
    prompt_tokens: int
    sft: SftPlan
    reward: RewardPlan
    lora: LoraPlan = field(default_factory=LoraPlan)
    learning_rate: float = PpoPlan().learning_rate
    minibatch: int = PpoPlan().minibatch_size
    at_once: int = 2


SCALES = {
    "full": Scale(170, 40, 1360, 24, 48, 4, 48, 256, SftPlan(epochs=2), RewardPlan(), at_once=8),
    # Sizes with which two slow cores are through in two hours.
    "medium": Scale(
        train=170,
        exam=40,
        pairs=1360,
        batches=16,
        batch=32,
        each=4,
        answer_tokens=40,
        prompt_tokens=192,
        sft=SftPlan(epochs=1, learning_rate=1e-3, watched_questions=0),
        reward=RewardPlan(epochs=1, learning_rate=3e-4),
        learning_rate=3e-4,
        minibatch=8,
        at_once=8,
    ),
    "small": Scale(
        train=96,
        exam=40,
        pairs=64,
        batches=6,
        batch=16,
        each=1,
        answer_tokens=32,
        prompt_tokens=160,
        sft=SftPlan(epochs=1, learning_rate=1e-3, watched_questions=0),
        reward=RewardPlan(epochs=1, learning_rate=1e-3),
        lora=LoraPlan(top_layers=10),
    ),
    "tiny": Scale(
        train=12,
        exam=4,
        pairs=16,
        batches=1,
        batch=8,
        each=1,
        answer_tokens=8,
        prompt_tokens=64,
        sft=SftPlan(epochs=1, watched_questions=0),
        reward=RewardPlan(epochs=1),
    ),
}


@dataclass(frozen=True, slots=True)
class Arms:
    """Each policy's answers to the held-out questions with their scores by the reward model, and
    the tokens it generated to learn."""

    seed: int
    questions: Sequence[Demonstration]
    answers: dict[str, list[str]]
    scores: dict[str, list[float]]
    tokens: dict[str, int]
    figures: dict[str, dict[str, Any]]

    def matches(self, one: str, other: str) -> list[Match]:
        """The hidden preference between two policies, question by question."""
        each = len(self.answers[one]) // len(self.questions)
        found = []
        for at, pair in enumerate(zip(self.answers[one], self.answers[other], strict=True)):
            item = self.questions[at // each]
            won = {"a": 1.0, "b": 0.0}.get(preferred(pair, item.answer), 0.5)
            longer = float(len(pair[0].split()) - len(pair[1].split()))
            found.append(Match(self.seed, item.prompt.id, won, longer))
        return found

    def agreement(self, name: str) -> float:
        """How the reward model's scores of a policy's answers go with what the hidden preference
        goes by, within questions: a correlation, 0 where either never differs."""
        each = len(self.answers[name]) // len(self.questions)
        golds = [item.answer for item in self.questions for _ in range(each)]
        likeness = answer_chrf(self.answers[name], golds)
        try:
            return correlation(_apart(self.scores[name], each), _apart(likeness, each))
        except StatisticsError:
            return 0.0


def _apart(values: Sequence[float], each: int) -> list[float]:
    """Each value less the mean of its question's; `each` neighbours share a question."""
    means = [fmean(values[at : at + each]) for at in range(0, len(values), each)]
    return [value - means[at // each] for at, value in enumerate(values)]


class Preference:
    """The whole of it on one base policy, in one folder."""

    def __init__(self, folder: Path, base: Path, scale: Scale, dtype: str, threads: int) -> None:
        self.folder, self.base, self.scale = folder, base, scale
        self.questions = company_questions(scale.exam, scale.train)
        self.threads = threads
        self.plan = RunPlan(
            base=str(base),
            stages=STAGES,
            dtype=dtype,  # type: ignore[arg-type]
            threads=threads,
            max_prompt_tokens=scale.prompt_tokens,
            max_answer_tokens=scale.answer_tokens,
            micro_batch_size=scale.at_once,
            lora=scale.lora,
            sft=scale.sft,
            reward_model=scale.reward,
            ppo=PpoPlan(
                rollout_batches=scale.batches,
                rollout_size=scale.batch,
                answers_per_prompt=N,
                minibatch_size=scale.minibatch,
                learning_rate=scale.learning_rate,
            ),
            evaluation=EvaluationPlan(max_questions=2),
        )

    def learn_rewards(self) -> dict[str, Any]:
        """SFT on the gold answers, then a reward model on votes on the SFT policy's answers; the
        reward model's figures."""
        gold = _opened(self.folder / "sft", replace(self.plan, stages=STAGES[:2]))
        if not _frozen(gold):
            freeze(gold.stage_path("snapshot"), self.questions, [], [])
        _trained(gold)
        self.dtype = self._dtype(gold)
        self.sft = gold.stage_path("sft") / "adapter"
        self.before = _opened(self.folder / "before", self.plan)
        if not _frozen(self.before):
            self._vote()
        _copied(gold.stage_path("sft"), self.before.stage_path("sft"))
        _trained(self.before, until="reward_model")
        report = self.before.report("reward_model")
        assert report is not None
        return report.figures

    def _vote(self) -> None:
        """Freeze simulated votes on pairs of the SFT policy's answers."""
        asked = [item for item in self.questions if item.prompt.split != "exam"]
        order = random.Random(self.plan.seed).sample(asked, len(asked))
        order = order[: self.scale.pairs]
        each = self.scale.pairs // len(order)
        answers = self._sample(self.sft, order, 2 * each, VOTE_TEMPERATURE, seed=0)
        voted = [item for item in order for _ in range(each)]
        freeze(
            self.before.stage_path("snapshot"),
            self.questions,
            cast_votes(voted, [answer.text for answer in answers], self.plan.seed),
            [item.prompt for item in asked if item.prompt.split == "train"],
        )

    def tune(self, seed: int) -> Arms:
        """PPO, then best-of-n from at least as many generated tokens; the judged answers."""
        ppo = self._tuned("ppo", seed, self.scale.batches)
        tokens = _tokens(ppo)
        first = next(row for row in ppo.metrics() if "batch" in row)["length/mean"]
        batches = max(1, math.ceil(tokens / (first * self.scale.batch)))
        best = self._tuned("best_of_n", seed, batches)
        judged = [item for item in self.questions if item.prompt.split == "exam"]
        policies = {
            "sft": self.sft,
            "ppo": ppo.candidate_path,
            "best_of_n": best.candidate_path,
        }
        reports = {run.plan().ppo.algorithm: run.report("ppo") for run in (ppo, best)}
        answers = self._judged(seed, judged, policies)
        return Arms(
            seed,
            judged,
            answers,
            self._scored(seed, judged, answers),
            {"ppo": tokens, "best_of_n": _tokens(best)},
            {name: report.figures for name, report in reports.items() if report is not None},
        )

    def _judged(
        self, seed: int, questions: Sequence[Demonstration], policies: dict[str, Path]
    ) -> dict[str, list[str]]:
        """Each policy's answers to the held-out questions, drawn from the same seeds."""

        def drawn() -> dict[str, list[str]]:
            found = {
                name: self._sample(
                    adapter, questions, self.scale.each, JUDGED_TEMPERATURE, 10**6 + seed
                )
                for name, adapter in policies.items()
            }
            return {name: [answer.text for answer in every] for name, every in found.items()}

        return self._once(f"judged-{seed}.json", drawn)

    def _scored(
        self, seed: int, questions: Sequence[Demonstration], answers: dict[str, list[str]]
    ) -> dict[str, list[float]]:
        """What the reward model, which PPO climbs, says of the judged answers."""
        prompts = [item.prompt for item in questions for _ in range(self.scale.each)]
        folder = self.before.stage_path("reward_model")

        def scores() -> dict[str, list[float]]:
            with steps() as step:
                return {
                    name: score_answers(
                        self.plan,
                        folder,
                        self.dtype,
                        prompts,
                        texts,
                        lambda done: step("scoring answers", done, len(prompts), None),
                    )
                    for name, texts in answers.items()
                }

        return self._once(f"scores-{seed}.json", scores)

    def _once(self, name: str, found: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What `found` finds, or found before: the file keeps it."""
        kept = self.folder / name
        if not kept.exists():
            kept.write_text(json.dumps(found()), encoding="utf-8")
        read: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        return read

    def _tuned(self, algorithm: str, seed: int, batches: int) -> RunFolder:
        ppo = replace(
            self.plan.ppo,
            algorithm=algorithm,  # type: ignore[arg-type]
            rollout_batches=batches,
        )
        run = _opened(self.folder / f"{algorithm}-{seed}", replace(self.plan, seed=seed, ppo=ppo))
        for stage in STAGES[:3]:
            _copied(self.before.stage_path(stage), run.stage_path(stage))
        _trained(run)
        return run

    def _sample(
        self,
        adapter: Path,
        questions: Sequence[Demonstration],
        each: int,
        temperature: float,
        seed: int,
    ) -> list[SampledAnswer]:
        count = each * len(questions)
        with steps() as step:
            return sample_answers(
                self.base,
                adapter,
                [item.prompt for item in questions],
                SamplingSettings(temperature=temperature, max_new_tokens=self.scale.answer_tokens),
                [seed * 1000 + at for at in range(count)],
                dtype=self.dtype,
                threads=self.threads,
                max_prompt_tokens=self.scale.prompt_tokens,
                on_answers=lambda done: step("drawing answers", done, count, None),
            )

    def _dtype(self, run: RunFolder) -> str:
        """The number format that the first run measured as the faster one, for all that follows."""
        kept = run.path / "dtype"
        dtype = kept.read_text(encoding="utf-8") if kept.exists() else self.plan.dtype
        self.plan = replace(self.plan, dtype=dtype)  # type: ignore[arg-type]
        return dtype


def _opened(folder: Path, plan: RunPlan) -> RunFolder:
    """The run in a folder, or a new one of this plan."""
    return RunFolder(folder) if (folder / "plan.json").exists() else RunFolder.create(folder, plan)


def _trained(run: RunFolder, until: str | None = None) -> None:
    """Train what the folder's run still lacks, showing how far it is."""
    with training_progress(run.path.name) as told:
        train(run.path, on_progress=told, until=until)


def _frozen(run: RunFolder) -> bool:
    return (run.stage_path("snapshot") / MANIFEST).exists()


def _copied(source: Path, target: Path) -> None:
    """A finished stage of one run as that of another; one that is there stays."""
    if not (target / "done.json").exists():
        shutil.copytree(source, target, dirs_exist_ok=True)


def _tokens(run: RunFolder) -> int:
    """Answer tokens that a run generated to learn from."""
    rows = [row for row in run.metrics() if "batch" in row]
    return round(sum(row["length/mean"] for row in rows) * run.plan().ppo.rollout_size)
