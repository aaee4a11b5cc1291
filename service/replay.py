"""Replay: a stored answer made again, from its version, seed, settings and prompt.

An answer depends on nothing else (docs/serving.md), so the tokens must be the same; where
they are not, the answer was not made by the version it names, or not under these conditions.
"""

from __future__ import annotations

import queue
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine
from sqlmodel import Session, col, or_, select

import rlhf_engine
from rlhf_engine.answer_events import Ended, Event, Failed, Token
from rlhf_engine.records import from_json
from service.database import session
from service.errors import ConflictError, NotFoundError
from service.serving import EngineFactory, make_engine
from service.settings import Settings
from service.tables import Candidate, Turn

TIMEOUT_S = 600
"""Longest wait for the next token."""

PREFIX = "chatcmpl-"


@dataclass(frozen=True, slots=True)
class Replay:
    """One stored answer beside the same answer made again. `made` has as many tokens as were
    compared; an answer that was ended early is compared as far as it went."""

    answer_id: str
    version_id: str
    cut_short: bool
    stored: tuple[int, ...]
    made: tuple[int, ...]
    pieces: tuple[str, ...]
    """The text of each token that was made."""

    @property
    def matched(self) -> bool:
        """Whether each token is the same."""
        return self.stored == self.made

    @property
    def differs_at(self) -> int | None:
        """Index of the first token that is not the same, None where they match."""
        if self.matched:
            return None
        pairs = zip(self.stored, self.made, strict=False)
        shorter = min(len(self.stored), len(self.made))
        return next((at for at, (old, new) in enumerate(pairs) if old != new), shorter)


def replay(
    database: Engine, settings: Settings, name: str, engine_factory: EngineFactory = make_engine
) -> list[Replay]:
    """Make an answer, or each answer of a turn, again; `name` is its id or a completion's.

    NotFoundError where there is none, PolicyVersionError where its version is gone or was
    changed, ConflictError where the answer tells too little or another engine made it.
    """
    with session(database) as opened:
        answers, turn = _find(opened, name)
    prompt = from_json(rlhf_engine.Prompt, turn.prompt)
    return [_replay(settings, answer, prompt, engine_factory) for answer in answers]


def _find(opened: Session, name: str) -> tuple[list[Candidate], Turn]:
    wanted = name.removeprefix(PREFIX)
    named = or_(col(Candidate.id) == wanted, col(Candidate.turn_id) == wanted)
    answers = list(opened.exec(select(Candidate).where(named).order_by(col(Candidate.side))).all())
    if not answers:
        raise NotFoundError(
            f"there is no answer {name!r}; give the id of an answer, as the page, the API and "
            "`heed export` show it"
        )
    return answers, opened.get_one(Turn, answers[0].turn_id)


def _replay(
    settings: Settings, answer: Candidate, prompt: rlhf_engine.Prompt, factory: EngineFactory
) -> Replay:
    cut_short = answer.finish_reason == "cancelled"
    if not answer.engine or (cut_short and not answer.token_ids):
        raise ConflictError(
            f"answer {answer.id} was stored by an earlier Heed, without what it was made with; "
            "only later answers can be made again"
        )
    base = rlhf_engine.fetch_base(settings.base_policy, settings.base_cache, settings.base_revision)
    folder = settings.policies / answer.version_id
    version = rlhf_engine.PolicyVersionFolder.open(folder, base)
    engine = factory(base, _as_then(settings, answer))
    if engine.name != answer.engine["engine"]:
        raise ConflictError(
            f"answer {answer.id} was made by {answer.engine['engine']}, the settings ask for "
            f"{engine.name}; set the engine it was made by"
        )
    engine.start()
    try:
        engine.load(version)
        tokens = _tokens(engine, answer, prompt, len(answer.token_ids) if cut_short else None)
    finally:
        engine.stop()
    return Replay(
        answer_id=answer.id,
        version_id=answer.version_id,
        cut_short=cut_short,
        stored=tuple(answer.token_ids),
        made=tuple(token.token_id for token in tokens),
        pieces=tuple(token.text for token in tokens),
    )


def _as_then(settings: Settings, answer: Candidate) -> Settings:
    """The settings, with the number format and the threads that the answer was made with."""
    then = {name: answer.engine[name] for name in ("dtype", "threads")}
    return settings.model_copy(update=then)


def _tokens(
    engine: Any, answer: Candidate, prompt: rlhf_engine.Prompt, most: int | None
) -> list[Token]:
    """The tokens of the answer made now, at most `most` of them."""
    events: queue.Queue[Event] = queue.Queue()
    job = engine.submit(
        answer.version_id,
        prompt,
        [answer.seed],
        from_json(rlhf_engine.SamplingSettings, answer.settings),
        events.put,
        max_prompt_tokens=answer.engine["max_prompt_tokens"],
    )
    tokens: list[Token] = []
    while most is None or len(tokens) < most:
        try:
            event = events.get(timeout=TIMEOUT_S)
        except queue.Empty as error:
            raise rlhf_engine.GenerationError(
                f"the engine gave no token within {TIMEOUT_S} s; try again when less runs here"
            ) from error
        if isinstance(event, Failed):
            raise event.error
        if isinstance(event, Ended):
            break
        tokens.append(event)
    job.cancel()
    return tokens
