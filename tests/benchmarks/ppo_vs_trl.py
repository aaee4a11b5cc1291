"""`python -m tests.benchmarks.ppo_vs_trl`: PPO here against TRL 1.12.0's PPOTrainer.

Both get the same base weights, prompts, lengths, batch, PPO epochs, optimizer steps, LoRA shape,
number format and threads. They run in turn, each in a fresh process, for several rounds; the
medians are shown. TRL runs in an environment of its own, with the same torch, transformers and
peft. Score heads are random on both sides: what is measured is cost, not learning.

Two cases: one answer a prompt, and four answers a prompt, where TRL is given each prompt four
times in a batch.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from rlhf_engine import RunFolder
from tests.benchmarks import trl_environment
from tests.benchmarks.ppo_vs_trl_floor import Floor, Shape, floor, measured_rate
from tests.benchmarks.ppo_vs_trl_measured import Measured
from tests.benchmarks.ppo_vs_trl_ours import PHASES
from tests.benchmarks.ppo_vs_trl_setup import (
    LORA,
    SIZES,
    Setup,
    checked,
    finished_until_ppo,
    ppo_run,
    prepare,
    trl_job,
)

GOAL_SPEED, GOAL_MEMORY = 4.0, 0.5
ANSWERS_PER_PROMPT = (1, 4)


@dataclass
class Case:
    """Both sides' rounds with so many answers a prompt."""

    answers_per_prompt: int
    theirs: list[Measured] = field(default_factory=list)
    ours: list[Measured] = field(default_factory=list)

    @property
    def speed_ratio(self) -> float:
        """Our episodes a second over theirs."""
        return _speed(self.ours) / _speed(self.theirs)

    @property
    def cpu_ratio(self) -> float:
        """The same by processor time."""
        return _cpu_speed(self.ours) / _cpu_speed(self.theirs)

    @property
    def memory_ratio(self) -> float:
        """Our peak memory over theirs."""
        return _memory(self.ours) / _memory(self.theirs)

    @property
    def goal_met(self) -> bool:
        """At least 4 times the episodes a second, at most half the peak memory."""
        return self.speed_ratio >= GOAL_SPEED and self.memory_ratio <= GOAL_MEMORY


def compare(setup: Setup, arguments: argparse.Namespace) -> list[Case]:
    """Run both sides in turn."""
    python = trl_environment.ensure_environment(arguments.environment)
    before = finished_until_ppo(setup)
    rows = arguments.trl_rows or setup.size.rows
    rollout_rows = arguments.trl_rollout_rows or setup.size.batch
    found = [Case(each) for each in arguments.answers_per_prompt]
    for number in range(arguments.rounds or setup.size.rounds):
        for case in found:
            each = case.answers_per_prompt
            job = trl_job(setup, each, rows, rollout_rows, frozen_value=arguments.frozen_value)
            command = [str(python), "-m", "tests.benchmarks.ppo_vs_trl_theirs", str(job)]
            case.theirs.append(_measured(command, setup, job))
            run = ppo_run(setup, before, each, f"ours-{each}-{number}")
            case.ours.append(_ours(setup, run))
            _note(f"round {number + 1}, {each} answers a prompt: {case.speed_ratio:.2f} times")
    return found


def _ours(setup: Setup, run: RunFolder) -> Measured:
    command = [sys.executable, "-m", "tests.benchmarks.ppo_vs_trl_ours", str(run.path)]
    found = _measured(command, setup, run.path)
    shutil.rmtree(run.path)
    return found


def _measured(command: list[str], setup: Setup, job: Path) -> Measured:
    checked(command, setup)
    return Measured.read(job.with_suffix(".measured"))


def _speed(rounds: Sequence[Measured]) -> float:
    return median(each.episodes_per_s for each in rounds)


def _cpu_speed(rounds: Sequence[Measured]) -> float:
    return median(each.episodes_per_cpu_s for each in rounds)


def _memory(rounds: Sequence[Measured]) -> float:
    return median(each.peak_mb for each in rounds)


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def print_comparison(cases: Sequence[Case]) -> None:
    """Episodes a second and peak memory of both sides, and their ratios."""
    head = f"{'':12} {'episodes/s':>10} {'from':>7} {'to':>7} {'a CPU second':>13}"
    for case in cases:
        print(f"\n{case.answers_per_prompt} answers a prompt")
        print(f"{head} {'peak memory':>12} {'tokens':>7}")
        for name, rounds in (("TRL 1.12.0", case.theirs), ("Heed", case.ours)):
            speeds = [each.episodes_per_s for each in rounds]
            tokens = median(each.answer_tokens for each in rounds)
            print(
                f"{name:12} {_speed(rounds):10.3f} {min(speeds):7.3f} {max(speeds):7.3f} "
                f"{_cpu_speed(rounds):13.3f} {_memory(rounds):9.0f} MB {tokens:7.1f}"
            )
        print(
            f"{'ratio':12} {case.speed_ratio:9.2f}x {'':15} {case.cpu_ratio:12.2f}x "
            f"{case.memory_ratio:11.2f}x"
        )


def print_floor(case: Case, setup: Setup, rate: float) -> None:
    """Seconds of each phase of a batch against its arithmetic floor."""
    batches = setup.size.batches
    found = _floor(case, setup)
    print(
        f"\n{case.answers_per_prompt} answers a prompt {'s a batch':>12} {'floor':>8} {'times':>7}"
    )
    for name in PHASES:
        seconds = median(each.phases[name] for each in case.ours) / batches
        _print_phase(name, seconds, getattr(found, name) / rate)
    whole = median(each.seconds for each in case.ours) / batches
    _print_phase("all", whole, found.total / rate)
    theirs = median(each.seconds for each in case.theirs) / batches
    _print_phase("all of TRL's", theirs, found.total / rate)


def _print_phase(name: str, seconds: float, least: float) -> None:
    print(f"  {name:18} {seconds:10.2f} {least:8.3f} {seconds / least:7.1f}")


def _floor(case: Case, setup: Setup) -> Floor:
    """Operations of a mean batch."""
    size, each = setup.size, case.answers_per_prompt
    lengths = [len(ids) for ids in setup.prompt_tokens(each)]
    mean = round(sum(lengths) / len(lengths))
    answer = median(run.answer_tokens for run in case.ours)
    shape = Shape.read(setup.base, LORA.rank)
    return floor(shape, [mean] * (size.batch // each), each, answer, size.epochs)


def print_goal(cases: Sequence[Case]) -> None:
    """Whether the goal is met, in each case."""
    print(
        f"\nGoal: at least {GOAL_SPEED:.0f} times the episodes a second and at most {GOAL_MEMORY} "
        "of the peak memory"
    )
    for case in cases:
        verdict = "met" if case.goal_met else "not met"
        print(
            f"  {case.answers_per_prompt} answers a prompt: {verdict} "
            f"({case.speed_ratio:.2f} times, {case.memory_ratio:.2f})"
        )


def main(argv: list[str] | None = None) -> int:
    """Measure and print; 1 if TRL's environment cannot be made."""
    arguments = _arguments(argv)
    try:
        trl_environment.ensure_environment(arguments.environment)
    except trl_environment.TrlUnavailableError as error:
        print(error, file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="heed-ppo-vs-trl-") as folder:
        setup = prepare(
            Path(folder),
            arguments.size,
            arguments.base,
            arguments.dtype,
            arguments.threads,
            arguments.reward_depth,
        )
        rate = measured_rate(setup.dtype, setup.threads)
        size = setup.size
        low, high = size.prompt_tokens
        print(
            f"{arguments.size}: prompts of {low} to {high} tokens, answers of at most "
            f"{size.answer_tokens}, batches of {size.batch} answers, {size.epochs} PPO epochs, "
            f"{setup.dtype}, {setup.threads} threads, {rate / 1e9:.0f} GFLOP/s in matrix products"
        )
        cases = compare(setup, arguments)
        print_comparison(cases)
        for case in cases:
            print_floor(case, setup, rate)
        print_goal(cases)
    return 0


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.ppo_vs_trl")
    parser.add_argument("--size", choices=sorted(SIZES), default="tiny")
    parser.add_argument("--base", type=Path, help="base policy's folder for --size smollm2")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--answers-per-prompt",
        type=int,
        nargs="+",
        default=ANSWERS_PER_PROMPT,
        help="one case each; numbers that divide the batch (default: 1 4)",
    )
    parser.add_argument("--rounds", type=int, help="default: as the size has it")
    parser.add_argument(
        "--trl-rows", type=int, help="rows of TRL's update at once (default: as many as ours)"
    )
    parser.add_argument(
        "--trl-rollout-rows",
        type=int,
        help="rows that TRL samples and scores at once (default: the whole batch)",
    )
    parser.add_argument(
        "--frozen-value",
        action="store_true",
        help="let only the score head of TRL's value network learn, as ours does",
    )
    parser.add_argument(
        "--reward-depth",
        type=float,
        default=1.0,
        help="share of the layers that our reward model reads through (default: all, as TRL's)",
    )
    trl_environment.add_argument(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
