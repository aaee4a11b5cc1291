"""The one renderer: what the policy and the reward model read, in training and in service.

A prompt becomes chat messages, the tokenizer's chat template makes them text, and
an answer is its tokens followed by the end-of-turn token, nothing after it:
generation stops there, SFT learns to stop there, the reward is read there.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rlhf_engine.files import sha256_of_json
from rlhf_engine.records import Exchange, Prompt, PromptPassage

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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
    while True:
        ids = _apply_template(tokenizer, prompt)
        if max_tokens is None or len(ids) <= max_tokens:
            return ids
        shorter = _shortened(tokenizer, prompt, len(ids) - max_tokens)
        if shorter == prompt:
            return ids[-max_tokens:]
        prompt = shorter


def answer_ids(
    tokenizer: PreTrainedTokenizerBase, answer: str, max_tokens: int | None = None
) -> list[int]:
    """Token ids of the answer with the end-of-turn token; cut to `max_tokens` in all if given."""
    ids: list[int] = tokenizer.encode(_plain(tokenizer, answer), add_special_tokens=False)
    if max_tokens is not None:
        ids = ids[: max_tokens - 1]
    return [*ids, tokenizer.eos_token_id]


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
    """`text` without control tokens: a question that spells one must not end its own turn."""
    for token in tokenizer.all_special_tokens:
        text = text.replace(token, "")
    return text


def _shortened(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, excess: int) -> Prompt:
    if prompt.history:
        return replace(prompt, history=prompt.history[1:])
    if prompt.passages:
        return replace(prompt, passages=prompt.passages[:-1])
    if prompt.instructions:
        return replace(prompt, instructions="")
    ids = tokenizer.encode(prompt.question, add_special_tokens=False)
    kept = ids[: max(1, len(ids) - excess)]
    return replace(prompt, question=tokenizer.decode(kept))
