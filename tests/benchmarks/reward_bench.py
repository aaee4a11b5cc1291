"""What the benchmarks of the reward model share: votes from a file, and one measured training.

A file of votes (`pairs.jsonl`, and `ties.jsonl` if there) has one JSON object a line: id,
group, prompt (messages), and chosen and rejected, or a and b for a tie. Groups, never rows,
are held out. Where people had passages before them, `questions.jsonl` has them by group (id,
passages of title and text), and the reward model reads them too. Where `meta.votes` has what each
of several people said (0 a tie, else the number of an answer), each of them is a vote; held-out
pairs keep the one that most agreed on.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from rlhf_engine import Comparison, Prompt, RunFolder, RunPlan, Snapshot, fetch_base
from rlhf_engine.backbone import Backbone
from rlhf_engine.generation import limited_threads
from rlhf_engine.plan import LoraPlan, RewardPlan
from rlhf_engine.records import Outcome, PromptPassage
from rlhf_engine.reward_stage import run_reward_model
from rlhf_engine.snapshot import is_held_out
from rlhf_engine.stage import Stage
from rlhf_engine.statistics import Interval, share_interval
from tests.benchmarks.progress import training_progress
from tests.benchmarks.seed_interval import seed_interval

DATA = Path(__file__).parents[3] / "shared" / "data" / "pref-qa-feedback"
SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
BASE_CACHE = Path.home() / ".cache" / "heed" / "base"
HELD_OUT_PERCENT = 30


@dataclass(frozen=True)
class Votes:
    """Votes on the training side, and held-out ones of other groups."""

    train: tuple[Comparison, ...]
    held_out: tuple[Comparison, ...]


def arguments(description: str) -> argparse.ArgumentParser:
    """The options that both benchmarks have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, default=DATA, help="folder with pairs.jsonl")
    parser.add_argument("--base", help="folder or hub name of the base policy; default SmolLM2")
    parser.add_argument("--size", type=int, default=0, help="training votes; 0 takes all")
    parser.add_argument("--held-out", type=int, default=0, help="held-out votes; 0 takes all")
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--top-layers", type=int, help="adapt the last layers only")
    parser.add_argument("--prompt-tokens", type=int, default=448, help="at most; passages are cut")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--micro-batch", type=int, default=4, help="answers at once")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seeds", type=int, default=1, help="each holds out other questions")
    return parser


def read_sides(options: argparse.Namespace, count: int) -> list[Votes]:
    """The file's votes, so many times, each with other groups held out; tells how many."""
    sides = [read_votes(options, split=seed) for seed in range(count)]
    train = _least_to_most([len(votes.train) for votes in sides])
    held_out = _least_to_most([len(votes.held_out) for votes in sides])
    print(f"{train} votes to learn from, {held_out} on other questions")
    return sides


def _least_to_most(counts: Sequence[int]) -> str:
    least, most = min(counts), max(counts)
    return str(least) if least == most else f"{least} to {most}"


def foretold(shares: Sequence[float], sides: Sequence[Votes]) -> Interval:
    """Mean of the shares of held-out votes that were foretold: with Wilson's interval over the
    votes of one side, with Student's over several sides."""
    if len(sides) > 1:
        return seed_interval(shares)
    count = len(sides[0].held_out)
    return share_interval(round(shares[0] * count), count)


def read_votes(options: argparse.Namespace, split: int = 0) -> Votes:
    """The file's votes, split by group; `size` of the one side and `held_out` of the other. Each
    number `split` holds out other groups."""
    rows = [
        json.loads(line)
        for name in ("pairs.jsonl", "ties.jsonl")
        if (options.data / name).exists()
        for line in (options.data / name).read_text("utf-8").splitlines()
    ]
    random.Random(17).shuffle(rows)
    passages = _passages(options.data / "questions.jsonl")
    votes = [
        vote for row in rows for vote in _comparisons(row, passages.get(row["group"], ()), split)
    ]
    train = [vote for vote in votes if vote.prompt.split == "train"]
    held_out = [vote for vote in votes if vote.prompt.split == "held_out" and vote.decisive]
    return Votes(tuple(train[: options.size or None]), tuple(held_out[: options.held_out or None]))


def _passages(path: Path) -> dict[str, tuple[PromptPassage, ...]]:
    """The passages that people had before them, by group; none without the file."""
    if not path.exists():
        return {}
    questions = map(json.loads, path.read_text("utf-8").splitlines())
    return {
        row["id"]: tuple(
            PromptPassage(f"{row['id']}-{at}", each["title"], each["text"])
            for at, each in enumerate(row["passages"])
        )
        for row in questions
    }


def _comparisons(
    row: dict[str, Any], passages: tuple[PromptPassage, ...], number: int
) -> list[Comparison]:
    """The row's vote, or those of all its raters on the training side."""
    whole = _comparison(row, passages, number)
    said = row.get("meta", {}).get("votes", [])
    if not whole.decisive or whole.prompt.split == "held_out" or not said:
        return [whole]
    first = max(set(said) - {0}, key=said.count)
    outcomes: dict[bool, Outcome] = {True: "a", False: "b"}
    return [
        replace(
            whole,
            id=f"{whole.id}-{at}",
            rater=f"rater {at}",
            outcome=outcomes[vote == first] if vote else "tie",
        )
        for at, vote in enumerate(said)
    ]


def _comparison(
    row: dict[str, Any], passages: tuple[PromptPassage, ...], number: int
) -> Comparison:
    hashed = f"{row['group']} {number}" if number else row["group"]
    split = "held_out" if is_held_out(hashed, HELD_OUT_PERCENT) else "train"
    prompt = Prompt(row["group"], row["prompt"][-1]["content"], passages, split=split)
    if "chosen" not in row:
        return Comparison(row["id"], prompt, row["a"], row["b"], "tie", source=row["source"])
    return Comparison(row["id"], prompt, row["chosen"], row["rejected"], "a", source=row["source"])


def plan_of(options: argparse.Namespace, seed: int, **reward: Any) -> RunPlan:
    """The engine's plan of these options, with `reward` as fields of the RewardPlan."""
    base = fetch_base(options.base or SMOLLM2, BASE_CACHE)
    plan = RewardPlan(
        epochs=options.epochs, learning_rate=options.learning_rate, batch_size=8, min_comparisons=2
    )
    return RunPlan(
        base=str(base),
        seed=seed,
        dtype=options.dtype,
        threads=options.threads,
        max_prompt_tokens=options.prompt_tokens,
        max_answer_tokens=192,
        micro_batch_size=options.micro_batch,
        lora=LoraPlan(top_layers=options.top_layers),
        reward_model=replace(plan, **reward),
    )


def measured(plan: RunPlan, votes: Votes, name: str) -> dict[str, Any]:
    """Train on fresh adapters and measure, showing progress by this name; the stage's figures,
    and its `seconds`."""
    transformers_logging.disable_progress_bar()
    with (
        tempfile.TemporaryDirectory() as folder,
        limited_threads(plan.threads),
        training_progress(name) as told,
    ):
        run = RunFolder.create(Path(folder) / "run", plan)
        backbone = Backbone.load(Path(plan.base), plan.dtype)
        torch.manual_seed(plan.seed)
        backbone.new_adapter("sft", plan.lora)
        backbone.save_adapter("sft", run.stage_path("sft") / "adapter")
        del backbone
        stage = Stage("reward_model", run, plan, plan.dtype, told)
        stage.path.mkdir(parents=True)
        started = time.monotonic()
        snapshot = Snapshot(Path(folder), "", "", (), (*votes.train, *votes.held_out), ())
        figures = run_reward_model(stage, snapshot).figures
    return {**figures, "seconds": time.monotonic() - started}


def mean_of(rounds: Sequence[dict[str, Any]], key: str) -> float:
    """Mean of a figure over several trainings."""
    return sum(float(each[key]) for each in rounds) / len(rounds)
