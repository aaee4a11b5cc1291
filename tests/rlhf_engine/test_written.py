"""Written answers share what they have in common on their way through the model."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from rlhf_engine import Prompt
from rlhf_engine.backbone import Backbone
from rlhf_engine.plan import RunPlan
from rlhf_engine.render import answer_ids, prompt_ids
from rlhf_engine.written import Written, written_answers
from tests.tiny import tiny_base

HR, DESK, DOOR = (
    Prompt(name, f"where is the {name}?") for name in ("office", "service desk", "door")
)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return Backbone.load(tiny_base(tmp_path_factory.mktemp("base")))


def laid_out(
    backbone: Backbone, asked: Sequence[tuple[Prompt, str]], at_once: int = 8
) -> list[Written]:
    plan = RunPlan(base="base")
    prompts, texts = [prompt for prompt, _ in asked], [text for _, text in asked]
    return list(written_answers(backbone, prompts, texts, plan, at_once))


def rows(backbone: Backbone, found: Sequence[Written]) -> list[tuple[list[int], list[int]]]:
    """Prompt and answer, as ids, of each place."""
    by_place = {}
    for groups, places in found:
        for row, own in enumerate(places):
            prompt = groups.prompts[row // groups.size][
                groups.prompt_mask[row // groups.size].bool()
            ]
            answer = groups.answers[row][groups.answer_mask[row].bool()]
            by_place |= dict.fromkeys(own, (prompt.tolist(), answer.tolist()))
    return [by_place[at] for at in sorted(by_place)]


@pytest.mark.parametrize("at_once", [1, 2, 3, 8])
def test_every_answer_is_read_once_with_its_prompt(backbone: Backbone, at_once: int) -> None:
    asked = [
        (HR, "floor two"),
        (DESK, "floor one"),
        (HR, "floor three"),
        (HR, "floor two"),
        (DOOR, ""),
        (HR, "on the left"),
        (DESK, "floor two"),
    ]
    found = laid_out(backbone, asked, at_once)
    tokenizer = backbone.tokenizer
    assert rows(backbone, found) == [
        (prompt_ids(tokenizer, prompt), answer_ids(tokenizer, text)) for prompt, text in asked
    ]
    assert all(len(groups.answers) <= at_once for groups, _ in found)
    read = [own for _, places in found for own in places if own]
    assert sorted(at for own in read for at in own) == list(range(len(asked)))
    assert len(read) == len(asked) - 1


def test_a_prompt_is_read_once_where_its_answers_fit(backbone: Backbone) -> None:
    asked = [(prompt, f"floor {at}") for at in range(3) for prompt in (HR, DESK)]
    [(groups, _)] = laid_out(backbone, asked)
    assert len(groups.prompts) == 2
    assert groups.size == 3


def test_prompts_that_differ_in_what_is_read_are_two(backbone: Backbone) -> None:
    """Their number and side change nothing; what a client adds does."""
    same = Prompt("other", HR.question, split="exam")
    told = Prompt("other", HR.question, instructions="be brief")
    [(groups, places)] = laid_out(backbone, [(HR, "here"), (same, "here"), (told, "here")])
    assert len(groups.prompts) == 2
    assert places == [[0, 1], [2]]


def test_nothing_asked_is_nothing_read(backbone: Backbone) -> None:
    assert laid_out(backbone, []) == []
