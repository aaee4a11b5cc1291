"""Written answers, laid out so that no prompt and no answer goes through the model twice.

Several votes on one question share its prompt, which is several times as long as an answer, and
often an answer too.

Legend: b rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rlhf_engine.backbone import AnswerGroups, Backbone
from rlhf_engine.plan import RunPlan
from rlhf_engine.records import Prompt
from rlhf_engine.render import answer_ids, prompt_ids

AT_ONCE = 8
"""Answers that go through the model together."""

Ids = tuple[int, ...]
Places = list[int]


class Written(NamedTuple):
    """Answers that go through the model together. `places[i]` says which of the answers asked for
    row i is, several where they are equal; none where a row only fills up its prompt's."""

    groups: AnswerGroups
    places: list[Places]


def written_answers(
    backbone: Backbone,
    prompts: Sequence[Prompt],
    answers: Sequence[str],
    plan: RunPlan,
    at_once: int = AT_ONCE,
) -> Iterator[Written]:
    """Answers, each with its prompt, rendered as everywhere and in the order of their prompts'
    first; at most `at_once` together."""
    tokenizer = backbone.tokenizer
    rendered = {
        prompt: tuple(prompt_ids(tokenizer, prompt, plan.max_prompt_tokens))
        for prompt in dict.fromkeys(prompts)
    }
    known: dict[Ids, dict[Ids, Places]] = {}
    for at, (prompt, text) in enumerate(zip(prompts, answers, strict=True)):
        answered = tuple(answer_ids(tokenizer, text, plan.max_answer_tokens))
        known.setdefault(rendered[prompt], {}).setdefault(answered, []).append(at)
    waiting: list[tuple[Ids, list[tuple[Ids, Places]]]] = []
    for asked, found in known.items():
        rows = list(found.items())
        for start in range(0, len(rows), at_once):
            own = rows[start : start + at_once]
            most = max(len(each) for _, each in [*waiting, (asked, own)])
            if waiting and most * (len(waiting) + 1) > at_once:
                yield _laid_out(backbone, waiting)
                waiting = []
            waiting.append((asked, own))
    if waiting:
        yield _laid_out(backbone, waiting)


def _laid_out(
    backbone: Backbone, prompts: Sequence[tuple[Ids, list[tuple[Ids, Places]]]]
) -> Written:
    """Prompts with fewer answers than others are filled up with empty ones."""
    g = max(len(rows) for _, rows in prompts)
    filled: list[tuple[Ids, Places]] = [
        row for _, rows in prompts for row in [*rows, *[((), [])] * (g - len(rows))]
    ]
    groups = backbone.group([asked for asked, _ in prompts], [ids for ids, _ in filled])
    return Written(groups, [places for _, places in filled])
