"""How many tokens a prompt has, for whoever must tell or limit it. Loads no weights."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from rlhf_engine.base_policy import load_tokenizer
from rlhf_engine.records import Prompt
from rlhf_engine.render import prompt_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# A tokenizer may not be used by two threads at once.
_one_at_a_time = Lock()


def count_prompt_tokens(base: Path, prompt: Prompt, max_tokens: int | None = None) -> int:
    """Tokens of the rendered prompt, shortened as it would be for `max_tokens`.

    `base` is the base policy's folder. BasePolicyError where its tokenizer cannot be read.
    """
    with _one_at_a_time:
        return len(prompt_ids(_tokenizer(base), prompt, max_tokens))


@lru_cache(maxsize=2)
def _tokenizer(base: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(base)
