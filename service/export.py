"""Writes the feedback as JSON lines in TRL's conversational forms, for other trainers.

Questions of evaluation sources are left out, so that nobody trains on the exam. Every
row says whether it came from a simulated person.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from sqlmodel import Session

from rlhf_engine.files import write_lines
from rlhf_engine.records import Prompt
from rlhf_engine.render import messages
from service.errors import InvalidInputError
from service.evidence import (
    Sides,
    gather_comparisons,
    gather_demonstrations,
    read_sides,
    stored_prompt,
)
from service.feedback import current_thumbs
from service.settings import AnswerSettings
from service.tables import Candidate, Turn

Kind = Literal["preference", "unpaired", "prompt-completion"]
KINDS: tuple[Kind, ...] = ("preference", "unpaired", "prompt-completion")

Line = dict[str, Any]


def export_feedback(
    session: Session, kind: str, path: Path, passages: int = AnswerSettings().passages
) -> int:
    """Write the feedback of one kind to `path`, whole or not at all; how many rows it has.

    "preference" holds comparisons with a winner (DPO, reward models), "unpaired" thumbs
    and answers of pairs that were both bad (KTO), "prompt-completion" the accepted gold
    answers (SFT), with `passages` passages a prompt. InvalidInputError for another kind
    or a path that cannot be written.
    """
    sides = read_sides(session, held_out_percent=0)
    if kind == "preference":
        rows = list(_preferences(session, sides))
    elif kind == "unpaired":
        rows = list(_judged_answers(session, sides))
    elif kind == "prompt-completion":
        rows = list(_gold_answers(session, sides, passages))
    else:
        raise InvalidInputError(f"kind is {kind!r}; it must be one of {', '.join(KINDS)}")
    try:
        write_lines(path, rows)
    except OSError as error:
        raise InvalidInputError(
            f"{path} cannot be written ({error.strerror}); nothing was left there"
        ) from error
    return len(rows)


def _preferences(session: Session, sides: Sides) -> Iterator[Line]:
    for item in gather_comparisons(session, sides):
        if item.decisive and item.prompt.split != "exam":
            yield {
                "prompt": messages(item.prompt),
                "chosen": _answer(item.chosen),
                "rejected": _answer(item.rejected),
                "strength": item.strength,
                "simulated": item.simulated,
            }


def _judged_answers(session: Session, sides: Sides) -> Iterator[Line]:
    for thumb in current_thumbs(session):
        candidate = session.get_one(Candidate, thumb.candidate_id)
        prompt = stored_prompt(session.get_one(Turn, candidate.turn_id), sides)
        yield from _judged(prompt, [candidate.text], thumb.value == 1, thumb.simulated)
    for item in gather_comparisons(session, sides):
        if item.outcome == "both_bad":
            yield from _judged(item.prompt, [item.answer_a, item.answer_b], False, item.simulated)


def _judged(prompt: Prompt, answers: list[str], good: bool, simulated: bool) -> Iterator[Line]:
    if prompt.split == "exam":
        return
    for answer in answers:
        yield {
            "prompt": messages(prompt),
            "completion": _answer(answer),
            "label": good,
            "simulated": simulated,
        }


def _gold_answers(session: Session, sides: Sides, passages: int) -> Iterator[Line]:
    for item in gather_demonstrations(session, sides, passages):
        if item.prompt.split != "exam":
            yield {
                "prompt": messages(item.prompt),
                "completion": _answer(item.answer),
                "simulated": False,
            }


def _answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]
