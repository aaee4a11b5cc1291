"""What a load under swaps leaves, and what is made of it: answers, swaps, gaps, replays."""

from __future__ import annotations

import bisect
import json
import queue
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import rlhf_engine
from rlhf_engine.answer_events import Ended, Event, Failed
from rlhf_engine.records import from_json
from tests.benchmarks.serving_goals import Goal, Held, note, quantile

REPLAY_S = 120.0
NOTHING = Held(0.0, 0)


@dataclass(frozen=True)
class Answered:
    """One answer with all that makes it again; `times` are seconds at which its tokens came."""

    version: str
    prompt: dict[str, Any]
    seed: int
    settings: dict[str, Any]
    tokens: list[int]
    finish_reason: str
    times: list[float]

    def truncated(self, end: int) -> bool:
        """Whether it ended neither by the end of the turn nor at its limit."""
        if self.finish_reason == "stop":
            return not self.tokens or self.tokens[-1] != end
        return len(self.tokens) != self.settings["max_new_tokens"]


class AnswerFile:
    """Answers on disk: kept in memory they would hide whether the service's memory is flat."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.path.touch()

    def add(self, answer: Answered) -> None:
        """Append one; the caller keeps others out."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(answer)) + "\n")

    def __iter__(self) -> Iterator[Answered]:
        with self.path.open(encoding="utf-8") as file:
            for line in file:
                yield Answered(**json.loads(line))


@dataclass(frozen=True)
class Swap:
    """Seconds at which a promotion was taken up, and at which nothing of it was left to do."""

    began: float
    ended: float


@dataclass
class Outcome:
    """Everything that is judged."""

    swaps: list[Swap] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    asked: int = 0
    dropped: list[str] = field(default_factory=list)
    """What went wrong with each answer that did not come."""
    truncated: int = 0
    replayed: int = 0
    mixed: list[str] = field(default_factory=list)
    """Of each answer that its version alone gives otherwise: which, and from which token on."""
    versions: set[str] = field(default_factory=set)
    """Those that answered."""
    gaps_with: list[float] = field(default_factory=list)
    gaps_without: list[float] = field(default_factory=list)
    early: Held = NOTHING
    """After a tenth of the swaps."""
    late: Held = NOTHING

    @property
    def extra_gap_s(self) -> float:
        """How much longer a wait for the next token is while a swap takes place, at p99."""
        return quantile(self.gaps_with, 0.99) - quantile(self.gaps_without, 0.99)

    def goals(self, *, gap: bool) -> list[Goal]:
        """All of them; `gap` judges the extra gap too."""
        found = [
            Goal("refused swaps", len(self.refused), 0),
            Goal("dropped answers", len(self.dropped), 0),
            Goal("truncated answers", self.truncated, 0),
            Goal("mixed-version answers", len(self.mixed), 0),
            Goal("answers replayed", self.replayed, 1, at_least=True),
            *self.late.goals(self.early),
        ]
        if gap:
            found.append(Goal("extra gap by a swap, p99", 1e3 * self.extra_gap_s, 50, " ms"))
        return found


def take_gaps(outcome: Outcome, answers: Iterable[Answered]) -> None:
    """Sort every wait between two tokens by whether a swap took place in it."""
    begins = [swap.began for swap in outcome.swaps]
    for answer in answers:
        outcome.versions.add(answer.version)
        for before, after in zip(answer.times, answer.times[1:], strict=False):
            # Swaps follow one another: the last that began before the token came decides.
            at = bisect.bisect_right(begins, after) - 1
            during = at >= 0 and outcome.swaps[at].ended >= before
            (outcome.gaps_with if during else outcome.gaps_without).append(after - before)


def replay(
    outcome: Outcome,
    answers: Iterable[Answered],
    policies: Path,
    base: Path,
    made_with: tuple[str, int],
    share: float,
) -> None:
    """Make answers again, each alone on its own version, and compare every token.

    `made_with` is the number format and the threads of the engine that answered.
    """
    draw = random.Random(0)
    wanted = [answer for answer in answers if draw.random() < share]
    engine = rlhf_engine.TorchEngine(base, dtype=made_with[0], threads=made_with[1])
    engine.start()
    try:
        for version in sorted({answer.version for answer in wanted}):
            engine.load(rlhf_engine.PolicyVersionFolder.open(policies / version, base))
        for answer in wanted:
            again = _again(engine, answer)
            if again != answer.tokens:
                outcome.mixed.append(_difference(answer, again))
            outcome.replayed += 1
            if outcome.replayed % 500 == 0:
                note(f"{outcome.replayed} of {len(wanted)} answers replayed")
    finally:
        engine.stop()


def _difference(answer: Answered, again: Sequence[int]) -> str:
    pairs = zip(answer.tokens, again, strict=False)
    alike = next((at for at, (ours, other) in enumerate(pairs) if ours != other), -1)
    return (
        f"version {answer.version}, seed {answer.seed}, {answer.prompt['id']}: other tokens than "
        f"alone from token {alike} of {len(answer.tokens)} on"
    )


def _again(engine: rlhf_engine.TorchEngine, answer: Answered) -> Sequence[int]:
    events: queue.Queue[Event] = queue.Queue()
    engine.submit(
        answer.version,
        from_json(rlhf_engine.Prompt, answer.prompt),
        [answer.seed],
        from_json(rlhf_engine.SamplingSettings, answer.settings),
        events.put,
    )
    while not isinstance(event := events.get(timeout=REPLAY_S), Ended):
        if isinstance(event, Failed):
            raise event.error
    return list(event.answer.token_ids)
