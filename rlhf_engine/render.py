"""The one renderer: what the policy and the reward model read, in training and in service.

A prompt becomes chat messages, the tokenizer's chat template makes them text, and
an answer is its tokens followed by the end-of-turn token, nothing after it:
generation stops there, SFT learns to stop there, the reward is read there.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from rlhf_engine.files import sha256_of_json
from rlhf_engine.records import Exchange, Prompt, PromptPassage

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LIKELY_CHARACTERS = 8
"""Characters a token: a prompt with more of them will hardly fit, and is not tried whole first."""

SYSTEM = "Answer the employee's question from the passages, briefly."
SYSTEM_WITHOUT_PASSAGES = "Answer the employee's question, briefly."


def messages(prompt: Prompt) -> list[dict[str, str]]:
    """The prompt as chat messages: system, earlier exchanges, then passages and question.

    Passages have the numbers by which pages show them, so that an answer can name one: [1]."""
    system = SYSTEM if prompt.passages else SYSTEM_WITHOUT_PASSAGES
    if prompt.instructions:
        system = f"{system}\n\n{prompt.instructions}"
    chat = [{"role": "system", "content": system}]
    for exchange in prompt.history:
        chat.append({"role": "user", "content": exchange.question})
        chat.append({"role": "assistant", "content": exchange.answer})
    shown = [
        f"[{number}] {passage.title}\n{passage.text}"
        for number, passage in enumerate(prompt.passages, start=1)
    ]
    chat.append({"role": "user", "content": "\n\n".join([*shown, prompt.question])})
    return chat


def format_hash() -> str:
    """SHA-256 over how prompts become messages, as the texts of two sample prompts show it: a
    policy that was trained on another form would be asked in one it does not know."""
    exchange, passage = Exchange("{q}", "{a}"), PromptPassage("{i}", "{t}", "{p}")
    samples = (Prompt("", "{n}"), Prompt("", "{n}", (passage, passage), (exchange,)))
    return sha256_of_json([messages(sample) for sample in samples])


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase, prompt: Prompt, max_tokens: int | None = None
) -> list[int]:
    """Token ids of the prompt, up to where the answer begins.

    Where they exceed `max_tokens`, the oldest exchange is left out first, then the
    last passage, then the instructions, and at the end the question itself is cut, so
    that neither the system line nor the start of the answer is ever lost.
    """
    if max_tokens is None:
        return _apply_template(tokenizer, prompt)
    return _most_parts(tokenizer, prompt, max_tokens) or _cut(tokenizer, prompt, max_tokens)


def answer_ids(
    tokenizer: PreTrainedTokenizerBase, answer: str, max_tokens: int | None = None
) -> list[int]:
    """Token ids of the answer with the end-of-turn token; cut to `max_tokens` in all if given."""
    ids: list[int] = tokenizer.encode(_plain(tokenizer, answer), add_special_tokens=False)
    ids = [*ids, tokenizer.eos_token_id]
    return ids if max_tokens is None else cut_answer(ids, max_tokens)


def cut_answer(ids: list[int], max_tokens: int) -> list[int]:
    """At most so many of an answer's ids, the end-of-turn token among them."""
    return ids if len(ids) <= max_tokens else [*ids[: max_tokens - 1], ids[-1]]


def answer_text(tokenizer: PreTrainedTokenizerBase, token_ids: list[int]) -> str:
    """The readable answer: special tokens dropped, spaces at both ends dropped."""
    text: str = tokenizer.decode(token_ids, skip_special_tokens=True)
    return text.strip()


def _apply_template(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> list[int]:
    chat = [
        {"role": message["role"], "content": _plain(tokenizer, message["content"])}
        for message in messages(prompt)
    ]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


def _plain(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """`text` without control tokens: a question that spells one must not end its own turn.

    What is left around a token may spell another one, so the search goes on a little before it."""
    pattern, longest = _control_tokens(tokenizer)
    at = 0
    while found := pattern.search(text, at):
        text = text[: found.start()] + text[found.end() :]
        at = max(0, found.start() - longest)
    return text


@lru_cache(maxsize=16)
def _control_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[re.Pattern[str], int]:
    """What matches any control token, and the length of the longest one."""
    added = tokenizer.added_tokens_decoder.values()
    tokens = {str(token) for token in added if token.special} | set(tokenizer.all_special_tokens)
    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))), len(longest_first[0])


def _most_parts(
    tokenizer: PreTrainedTokenizerBase, prompt: Prompt, max_tokens: int
) -> list[int] | None:
    """Token ids with as many parts as fit; None where the bare question is too long.

    Found by doubling, then by bisection, since more parts have more tokens: what is left out
    of a long conversation is hardly ever rendered.
    """
    parts = bool(prompt.instructions) + len(prompt.passages) + len(prompt.history)
    fitting, too_many, found = -1, parts + 1, None
    characters = sum(len(message["content"]) for message in messages(prompt))
    tried = parts if characters <= LIKELY_CHARACTERS * max_tokens else min(1, parts)
    while fitting + 1 < too_many:
        ids = _apply_template(tokenizer, _with_parts(prompt, tried))
        if len(ids) <= max_tokens:
            fitting, found = tried, ids
        else:
            too_many = tried
        tried = min(2 * tried, parts) if too_many > parts else (fitting + too_many) // 2
    return found


def _with_parts(prompt: Prompt, parts: int) -> Prompt:
    """The prompt with its instructions, then its first passages, then its latest exchanges: so
    many of them in all."""
    passages = max(0, parts - bool(prompt.instructions))
    exchanges = max(0, passages - len(prompt.passages))
    return replace(
        prompt,
        instructions=prompt.instructions if parts else "",
        passages=prompt.passages[:passages],
        history=prompt.history[len(prompt.history) - exchanges :],
    )


def _cut(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, max_tokens: int) -> list[int]:
    """Token ids of the bare question, cut until they fit."""
    prompt = _with_parts(prompt, 0)
    while len(ids := _apply_template(tokenizer, prompt)) > max_tokens:
        question = tokenizer.encode(prompt.question, add_special_tokens=False)
        kept = question[: max(1, len(question) - (len(ids) - max_tokens))]
        shorter = replace(prompt, question=tokenizer.decode(kept))
        if shorter == prompt:
            return ids[-max_tokens:]
        prompt = shorter
    return ids
