"""Takes out of questions and answers what must not be learnt or handed on, by the redactors.

Where a redactor fails, nothing of what it was given is used: a run then ends with the reason
before it has learnt anything, an export before anything stands in its file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import Engine

from rlhf_engine import records
from service.plugin_hosted import HostedRedactor
from service.plugin_state import open_host
from service.settings import Settings

BATCH = 200
"""Texts that a redactor gets at once."""

Redact = Callable[[Sequence[str]], list[str]]
"""Answers the texts, in order, as they may be used."""

Judged = TypeVar("Judged", records.Demonstration, records.Comparison, records.Thumb)


class Redaction:
    """The redactors of the settings, one after another."""

    def __init__(self, redactors: Sequence[HostedRedactor]) -> None:
        self._redactors = redactors

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """The texts as the last redactor leaves them; PluginFailure where one fails."""
        done = list(texts)
        for redactor in self._redactors:
            done = [text for some in _batches(done) for text in redactor.redact(some)]
        return done

    def close(self) -> None:
        """Let go of the plugins' processes."""
        for redactor in self._redactors:
            redactor.close()


def open_redaction(settings: Settings, database: Engine) -> Redaction:
    """The redaction of this deployment; SettingsError or PluginFailure where a redactor cannot
    be made."""
    if not settings.redactors:
        return Redaction(())
    host = open_host(settings, database)
    return Redaction([host.redactor(entry) for entry in settings.redactors])


def redacted_records(items: Sequence[Judged], redact: Redact) -> list[Judged]:
    """Demonstrations, comparisons or thumbs with their questions, earlier exchanges and answers
    redacted. Passages are what the documents say, and stay."""
    told = _redacted((text for item in items for text in _texts_of(item)), redact)
    return [_with_texts(item, told) for item in items]


def redacted_prompts(prompts: Sequence[records.Prompt], redact: Redact) -> list[records.Prompt]:
    """Prompts without answers, with their questions redacted."""
    told = _redacted((prompt.question for prompt in prompts), redact)
    return [replace(prompt, question=told[prompt.question]) for prompt in prompts]


def redacted_lines(lines: Sequence[dict[str, Any]], redact: Redact) -> list[dict[str, Any]]:
    """Lines of an export with the content of each message redacted."""
    told = _redacted((text for line in lines for text in _contents(line)), redact)
    return [
        {
            name: [{**said, "content": told[said["content"]]} for said in value]
            if isinstance(value, list)
            else value
            for name, value in line.items()
        }
        for line in lines
    ]


def _redacted(texts: Iterable[str], redact: Redact) -> dict[str, str]:
    distinct = list(dict.fromkeys(texts))
    return dict(zip(distinct, redact(distinct), strict=True))


def _contents(line: Mapping[str, Any]) -> Iterable[str]:
    messages = (said for value in line.values() if isinstance(value, list) for said in value)
    return (said["content"] for said in messages)


def _texts_of(item: records.Demonstration | records.Comparison | records.Thumb) -> Iterable[str]:
    yield item.prompt.question
    yield item.prompt.instructions
    for exchange in item.prompt.history:
        yield from (exchange.question, exchange.answer)
    if isinstance(item, records.Comparison):
        yield from (item.answer_a, item.answer_b)
    else:
        yield item.answer


def _with_texts(item: Judged, told: Mapping[str, str]) -> Judged:
    prompt = replace(
        item.prompt,
        question=told[item.prompt.question],
        instructions=told[item.prompt.instructions],
        history=tuple(
            records.Exchange(told[one.question], told[one.answer]) for one in item.prompt.history
        ),
    )
    if isinstance(item, records.Comparison):
        return replace(
            item, prompt=prompt, answer_a=told[item.answer_a], answer_b=told[item.answer_b]
        )
    return replace(item, prompt=prompt, answer=told[item.answer])


def _batches(texts: Sequence[str]) -> Iterable[list[str]]:
    rest = iter(texts)
    while some := list(islice(rest, BATCH)):
        yield some
