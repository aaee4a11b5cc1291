"""Reward signals over HTTP, for operators: which there are, and what one reads of a text."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import get, post
from litestar.params import FromPath, JSONBody

import rlhf_engine
from rlhf_engine.records import PromptPassage
from service.database import session
from service.errors import HeedError, NotFoundError
from service.feedback import LONGEST_ANSWER
from service.plugin_host import SIGNALS
from service.secrets_of_options import masked
from service.signal_readings import SignalReadings, readings_by_signal
from service.web.parts import GivenParts, Parts
from service.web.rights import needs
from service.web.sessions import GivenPerson
from service.wording import readable

LONGEST_QUESTION = 4_000
LONGEST_PASSAGE = 20_000
ADVICE: Any = {
    "tags": ["Signals"],
    "sync_to_thread": True,
    "security": needs("operator", "operate"),
}


class Signal(msgspec.Struct):
    """A reward signal of the settings file. `weight` from 0 to 1 is how much of the reward a full
    reading of 1 makes, `most` the most that it can make; `error` says why it cannot be used.
    Secrets in `options` are masked. `versions` holds what it read of the answers to evaluation
    questions, the newest first."""

    name: str
    plugin: str
    weight: float
    most: float
    options: dict[str, Any]
    error: str | None
    versions: list[SignalReadings]


class Signals(msgspec.Struct):
    """The reward signals, and the most that all of them together can make of the reward."""

    signals: list[Signal]
    most: float


class Text(msgspec.Struct, forbid_unknown_fields=True):
    """An answer to judge. `passage` is what it rests on, `gold` the right answer."""

    question: str
    answer: str
    passage: str = ""
    gold: str = ""


class Reading(msgspec.Struct):
    """What a signal reads: from -1 to 1, null where it abstains; `reward` is what that adds to
    the reward, and `error` why it could not be read."""

    reading: float | None
    reward: float
    error: str | None


@get("/api/signals", **ADVICE)
def list_signals(operator: GivenPerson, parts: GivenParts) -> Signals:  # noqa: ARG001 - the role is asked for
    """The reward signals with their weights."""
    with session(parts.database) as opened:
        read = readings_by_signal(opened)
    listed = [
        Signal(
            entry.name,
            entry.plugin,
            entry.weight,
            entry.most,
            masked(entry.options, parts.sources.host().options_of(entry.plugin, SIGNALS)),
            _why_not(parts, entry.name),
            read.get(entry.name, []),
        )
        for entry in parts.settings.signals
    ]
    return Signals(listed, sum(signal.most for signal in listed))


@post("/api/signals/{name:str}/read", status_code=200, **ADVICE)
def read_text(
    operator: GivenPerson,  # noqa: ARG001 - as above
    parts: GivenParts,
    name: FromPath[str],
    data: JSONBody[Text],
) -> Reading:
    """Let a signal judge a text; nothing is stored."""
    question = readable("question", data.question, LONGEST_QUESTION)
    answer = readable("answer", data.answer, LONGEST_ANSWER)
    passages: tuple[PromptPassage, ...] = ()
    if data.passage.strip():
        text = readable("passage", data.passage, LONGEST_PASSAGE)
        passages = (PromptPassage("tried", "Passage", text),)
    prompt = rlhf_engine.Prompt("tried", question, passages)
    given = rlhf_engine.SignalInput(prompt, answer, data.gold.strip() or None)
    entry = next((entry for entry in parts.settings.signals if entry.name == name), None)
    if entry is None:
        raise NotFoundError(f"there is no signal {name!r}")
    try:
        [signal] = parts.sources.host().reward_signals([entry])
        try:
            [reading] = signal.read_batch([given])
        finally:
            signal.close()
    except HeedError as error:
        return Reading(None, 0.0, str(error))
    return Reading(reading, entry.weight * entry.counted(reading or 0.0), None)


def _why_not(parts: Parts, name: str) -> str | None:
    wanted = [entry for entry in parts.settings.signals if entry.name == name]
    try:
        for signal in parts.sources.host().reward_signals(wanted):
            signal.close()
    except HeedError as error:
        return str(error)
    return None
