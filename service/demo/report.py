"""Before and after: what the base, the SFT and the PPO policy answer to questions no training saw.

The figures come from the second cycle's run folder; only the scores of the base policy's
answers are computed for the table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rlhf_engine
from rlhf_engine.files import read_lines, write_json
from service.demo import engine_job

if TYPE_CHECKING:
    from rlhf_engine.statistics import Interval

SHEETS = (("base", "base"), ("SFT", "sft"), ("PPO", "candidate"))
"""Name in the table, and file among the run's answers."""

SAMPLES = 3


@dataclass(frozen=True, slots=True)
class Answers:
    """One policy's answers with their readings; `rewards` is empty without a reward model."""

    name: str
    rows: list[dict[str, Any]]
    rewards: list[float]

    def interval(self, key: str) -> Interval:
        """Mean of a figure with its interval."""
        return _mean_interval(self.values(key))

    def values(self, key: str) -> list[float]:
        """A figure of every answer, in the order of the questions."""
        if key == "reward":
            return self.rewards
        if key == "words":
            return [float(len(row["answer"].split())) for row in self.rows]
        return [float(row[key]) for row in self.rows]


def gather(
    folder: Path, run: rlhf_engine.RunFolder, on_done: engine_job.OnDone | None = None
) -> list[Answers]:
    """What the run's policies answered, scored by its reward model where it trained one.

    `on_done` hears how many answers of how many are scored.
    """
    plan = run.plan()
    sheets = [
        (name, read_lines(run.path / "answers" / f"{file}.jsonl"))
        for name, file in SHEETS
        if (run.path / "answers" / f"{file}.jsonl").exists()
    ]
    if not plan.has_ppo:
        return [Answers(name, rows, []) for name, rows in sheets]
    snapshot = rlhf_engine.Snapshot.open(run.stage_path("snapshot"))
    by_id = {item.prompt.id: item.prompt for item in snapshot.evaluation_demonstrations()}
    prompts = [by_id[row["prompt_id"]] for _, rows in sheets for row in rows]
    texts = [row["answer"] for _, rows in sheets for row in rows]
    scores = engine_job.score(
        folder, "scores", plan, run.stage_path("reward_model"), prompts, texts, on_done
    )
    answers, first = [], 0
    for name, rows in sheets:
        answers.append(Answers(name, rows, scores[first : first + len(rows)]))
        first += len(rows)
    return answers


def before_and_after(answers: Sequence[Answers]) -> list[tuple[str, ...]]:
    """Rows of the table: policy, chrF, ROUGE-L, mean reward, words; with 95% intervals."""
    return [
        (
            entry.name,
            _shown(entry.interval("chrf"), 1),
            _shown(entry.interval("rouge_l"), 3),
            _shown(entry.interval("reward"), 2) if entry.rewards else "–",
            _shown(entry.interval("words"), 1),
        )
        for entry in answers
    ]


def gains(answers: Sequence[Answers]) -> list[tuple[str, ...]]:
    """Paired differences, question by question, with 95% intervals."""
    by_name = {entry.name: entry for entry in answers}
    rows: list[tuple[str, ...]] = []
    for after, before, key, digits in (
        ("SFT", "base", "chrf", 1),
        ("SFT", "base", "reward", 2),
        ("PPO", "SFT", "reward", 2),
        ("PPO", "SFT", "chrf", 1),
    ):
        if after in by_name and before in by_name and by_name[after].values(key):
            pairs = zip(by_name[before].values(key), by_name[after].values(key), strict=True)
            gain = _mean_interval([late - early for early, late in pairs])
            rows.append((f"{after} over {before}", key, _shown(gain, digits)))
    return rows


def samples(answers: Sequence[Answers]) -> list[tuple[str, str]]:
    """Three questions spread over the exam, with the gold answer and every policy's."""
    count = len(answers[0].rows)
    shown: list[tuple[str, str]] = []
    for at in sorted({count // 6, count // 2, count - 1 - count // 6}):
        row = answers[0].rows[at]
        shown += [("Question", row["question"]), ("Gold answer", row["gold"])]
        shown += [(f"{entry.name} policy", entry.rows[at]["answer"]) for entry in answers]
    return shown


def write_report(path: Path, answers: Sequence[Answers], extra: dict[str, Any]) -> None:
    """Keep the figures as JSON, for whoever wants to quote them."""
    keys: tuple[tuple[str, Callable[[Answers], bool]], ...] = (
        ("chrf", lambda _: True),
        ("rouge_l", lambda _: True),
        ("reward", lambda entry: bool(entry.rewards)),
        ("words", lambda _: True),
    )
    policies = {
        entry.name: {
            key: [found.value, found.lower, found.upper]
            for key, has in keys
            if has(entry)
            for found in [entry.interval(key)]
        }
        for entry in answers
    }
    write_json(
        path,
        {
            "feedback": "simulated",
            "questions": len(answers[0].rows),
            "policies": policies,
            "gains": [list(row) for row in gains(answers)],
            **extra,
        },
    )


def _mean_interval(values: Sequence[float]) -> Interval:
    # Imported here: scipy takes memory, of which there is more once training has ended.
    from rlhf_engine.statistics import mean_interval

    return mean_interval(values)


def _shown(interval: Interval, digits: int) -> str:
    low, high = f"{interval.lower:.{digits}f}", f"{interval.upper:.{digits}f}"
    return f"{interval.value:.{digits}f} [{low}, {high}]"
