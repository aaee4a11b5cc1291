"""Instructions in the one renderer; prompts without them are what they were before."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import rlhf_engine
from rlhf_engine.records import Demonstration, from_json, to_json
from rlhf_engine.render import SYSTEM, messages, prompt_ids
from tests.tiny import tiny_base, tiny_tokenizer

PROMPT = rlhf_engine.Prompt(
    "p1",
    "How many days?",
    (rlhf_engine.PromptPassage("x", "Annual leave", "28 days a year."),),
    (rlhf_engine.Exchange("Who signs?", "Your manager."),),
)
WRITTEN = (
    '{"id": "p1", "question": "How many days?", "passages": [{"id": "x", "title": '
    '"Annual leave", "text": "28 days a year."}], "history": [{"question": "Who signs?", '
    '"answer": "Your manager."}], "split": "train"}'
)


def test_a_prompt_without_instructions_is_written_as_before_there_were_any() -> None:
    assert json.dumps(to_json(PROMPT)) == WRITTEN
    assert json.dumps(to_json(Demonstration(PROMPT, "28"))["prompt"]) == WRITTEN
    assert from_json(rlhf_engine.Prompt, json.loads(WRITTEN)) == PROMPT
    assert messages(PROMPT)[0] == {"role": "system", "content": SYSTEM}


def test_passages_have_the_numbers_that_an_answer_can_name() -> None:
    second = rlhf_engine.PromptPassage("y", "Hotels", "135 pounds.")
    asked = messages(replace(PROMPT, passages=(*PROMPT.passages, second)))[-1]["content"]
    assert asked == (
        "[1] Annual leave\n28 days a year.\n\n[2] Hotels\n135 pounds.\n\nHow many days?"
    )


def test_instructions_are_written_read_and_follow_the_system_text() -> None:
    instructed = replace(PROMPT, instructions="Answer in German.")
    assert from_json(rlhf_engine.Prompt, to_json(instructed)) == instructed
    system, *rest = messages(instructed)
    assert system["content"] == f"{SYSTEM}\n\nAnswer in German."
    assert rest == messages(PROMPT)[1:]


def test_a_long_prompt_loses_exchanges_passages_and_instructions_before_its_question() -> None:
    tokenizer = tiny_tokenizer()
    instructed = replace(PROMPT, instructions="Answer in German. " * 20)
    bare = prompt_ids(tokenizer, rlhf_engine.Prompt("p1", PROMPT.question))
    assert prompt_ids(tokenizer, instructed, len(bare)) == bare
    kept = replace(instructed, history=(), passages=())
    assert prompt_ids(tokenizer, instructed, len(prompt_ids(tokenizer, kept))) == prompt_ids(
        tokenizer, kept
    )


def test_the_length_of_a_prompt_is_that_of_its_tokens(tmp_path: Path) -> None:
    base = tiny_base(tmp_path)
    whole = len(prompt_ids(tiny_tokenizer(), PROMPT))
    assert rlhf_engine.count_prompt_tokens(base, PROMPT) == whole
    assert rlhf_engine.count_prompt_tokens(base, PROMPT, whole - 1) < whole
    with pytest.raises(rlhf_engine.BasePolicyError):
        rlhf_engine.count_prompt_tokens(tmp_path / "none", PROMPT)
