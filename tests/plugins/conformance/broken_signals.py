"""A signal that keeps the contract, and for each check one that breaks just that promise."""

from __future__ import annotations

import itertools
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pluggy
from pydantic import BaseModel, Field

from plugins.contract import Answer

hookimpl = pluggy.HookimplMarker("heed")
_numbers = itertools.count()


class Dated:
    """Likes answers that hold a number."""

    name = "dated"

    class Settings(BaseModel):
        digits: int = Field(2, ge=1, description="How many digits a number has at least.")

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def read(self, answer: Answer) -> float | None:
        if not answer.text.strip():
            return None
        return 1.0 if re.search(rf"\d{{{self.settings.digits}}}", answer.text) else -1.0

    def read_batch(self, answers: Sequence[Answer]) -> list[float | None]:
        return [self.read(answer) for answer in answers]


@hookimpl
def heed_reward_signals() -> list[type]:
    return [Dated]


def signal(**members: Any) -> type[Dated]:
    """A Dated with other members."""
    return type("Broken", (Dated,), {"__doc__": Dated.__doc__, **members})


def reading(change: Callable[[Answer, float | None], Any]) -> type[Dated]:
    """A Dated that reads something else, also in a batch."""

    def read(self: Dated, answer: Answer) -> Any:
        return change(answer, Dated.read(self, answer))

    return signal(read=read)


def batch(change: Callable[[Sequence[Answer], list[float | None]], Any]) -> type[Dated]:
    """A Dated that reads batches otherwise."""

    def read_batch(self: Dated, answers: Sequence[Answer]) -> Any:
        return change(answers, Dated.read_batch(self, answers))

    return signal(read_batch=read_batch)


def _settings(**fields: Any) -> type[Dated]:
    annotations = {name: kind for name, (kind, _) in fields.items()}
    values = {name: info for name, (_, info) in fields.items()}
    made = type("Settings", (Dated.Settings,), {"__annotations__": annotations, **values})
    return signal(Settings=made)


def _needs_two(self: Dated, settings: Any, more: Any) -> None:
    self.settings = settings


def _first_time_only(self: Any, answer: Answer) -> float | None:
    before = self.__dict__.setdefault("before", set())
    seen = answer.text in before
    before.add(answer.text)
    return 0.5 if seen else Dated.read(self, answer)


def _spoilt_by_text(answer: Answer, found: float | None) -> float | None:
    return found / len(answer.text) if found else 1 / len(answer.text)


def _fails_on_emoji(answer: Answer, found: float | None) -> Any:
    return "emoji" if any(ord(mark) > 0xFFFF for mark in answer.text) else found


def _slow_pattern(answer: Answer, found: float | None) -> float | None:
    # Reads every tail of a run of brackets anew, so the time grows with the square.
    for start in range(0, answer.text.count("("), 2):
        answer.text.count("(", start)
    return found


def _changed_answer(answer: Answer, found: float | None) -> float | None:
    object.__setattr__(answer, "text", answer.text.strip("."))
    return found


def _changed_settings(self: Dated, answer: Answer) -> float | None:
    self.settings.digits += 1
    return Dated.read(self, answer)


def _printing(answer: Answer, found: float | None) -> float | None:
    print(answer.text)
    return found


def _changed_process(answer: Answer, found: float | None) -> float | None:
    socket.setdefaulttimeout(12.5)
    return found


def _averaged(answers: Sequence[Answer], found: list[float | None]) -> list[float | None]:
    mean = sum(value or 0.0 for value in found) / max(1, len(found))
    return [value if value is None else value - mean for value in found]


def _by_place(answers: Sequence[Answer], found: list[float | None]) -> list[float | None]:
    return [1.0 - place / 100 for place, _ in enumerate(answers)]


BROKEN: Mapping[str, type[Dated]] = {
    "has_a_name": signal(name=""),
    "says_what_it_is": signal(__doc__=None),
    "is_announced_by_its_module": signal(),
    "is_made_of_settings_alone": signal(__init__=_needs_two),
    "settings_explain_themselves": _settings(digits=(int, Field(2))),
    "settings_refuse_nonsense": _settings(digits=(Any, Field(2, description="How many."))),
    "defaults_are_allowed_values": _settings(digits=(int, Field(0, ge=1, description="Many."))),
    "secrets_are_marked": _settings(api_key=(str, Field("", description="The key."))),
    "reads_a_number_or_nothing": reading(lambda _, found: bool(found and found > 0)),
    "readings_are_in_range": reading(lambda _, found: 100 * (found or 0)),
    "no_reading_is_nan": reading(lambda _, found: float("nan") if found is None else found),
    "says_something": reading(lambda _answer, _found: None),
    "same_answer_reads_the_same": reading(lambda _answer, _found: 1 / (1 + next(_numbers))),
    "answers_before_do_not_matter": signal(read=_first_time_only),
    "batch_reads_as_one_by_one": batch(_averaged),
    "batch_has_one_reading_each": batch(lambda _answers, found: found[:1]),
    "order_in_a_batch_does_not_matter": batch(_by_place),
    "empty_answer_is_taken": reading(lambda answer, found: found if answer.text else "empty"),
    "answer_with_nothing_beside_is_taken": reading(
        lambda answer, found: found if answer.passages else "no passages"
    ),
    "long_answer_is_read_in_time": reading(_slow_pattern),
    "every_writing_is_taken": reading(_fails_on_emoji),
    "answers_are_not_changed": reading(_changed_answer),
    "signals_settings_stay_as_they_are": signal(read=_changed_settings),
    "better_answer_reads_higher": reading(lambda _, found: -found if found else found),
    "abstains_where_it_cannot_tell": reading(lambda _, found: found or 0.0),
    "signal_prints_nothing": reading(_printing),
    "signal_leaves_the_process_alone": reading(_changed_process),
}
