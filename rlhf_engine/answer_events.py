"""What the torch engine tells whoever asked: tokens, ends, failures, its own state. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_engine.errors import EngineError
from rlhf_engine.records import SampledAnswer


@dataclass(frozen=True, slots=True)
class Likely:
    """A token that might have been drawn, with its log-probability."""

    token_id: int
    text: str
    logprob: float


@dataclass(frozen=True, slots=True)
class Token:
    """One more token of one answer. The texts of a row's Tokens, joined, are the answer's text;
    a single one may be empty, as where a character needs several tokens.

    `logprob` is the policy's own, at temperature 1, whatever was sampled with; `top` holds the
    likeliest tokens, the likeliest first, where the settings ask for some.
    """

    row: int
    text: str
    token_id: int
    logprob: float
    top: tuple[Likely, ...] = ()


@dataclass(frozen=True, slots=True)
class Ended:
    """One answer is complete; nothing more comes for its row. The logprobs of `answer` are those
    of its Tokens; `prompt_tokens` is how many tokens its prompt had as it was read."""

    row: int
    answer: SampledAnswer
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The job is over before all of its answers are; nothing more comes for any row.

    `error` is Cancelled where the asker left, else a GenerationError.
    """

    error: EngineError


Event = Token | Ended | Failed


@dataclass(frozen=True, slots=True)
class EngineStats:
    """The engine at one moment.

    `ended`, `failed` (cancelled ones among them) and `tokens` count jobs and tokens since
    the start; `active` and `waiting` count jobs, `rows` the answers being drawn.
    """

    ready: bool
    dtype: str
    active: int
    rows: int
    waiting: int
    ended: int
    failed: int
    tokens: int
    using: dict[str, int]
    """Jobs, waiting or active, by id of each loaded version."""
    alive: bool = True
    """False where only a new start helps; an engine that waits for another machine is alive."""
    lost: bool = False
    """Whether it ended by itself, and a new engine can take its place."""
    round_s: float = 0.0
    """Seconds for which the engine has been in its present round of work; 0 where it rests."""
    slots: int = 16
    """Answers that can be drawn at once."""
    taken: int = 0
    """Answers asked for, waiting or active."""
    reading: int = 0
    """Jobs whose prompts are read one after the other, or will be when their turn comes."""
