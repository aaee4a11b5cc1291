"""Readable pieces of an answer while its tokens arrive."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlhf_engine.render import answer_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BROKEN = "\ufffd"
"""What a decoder puts for bytes that are no character, or not yet one."""


class StreamedText:
    """One answer's text so far; joined, the pieces are exactly its `answer_text`.

    A character of several tokens comes whole, never in broken halves: what may still
    change with the next token (such halves, spaces at the end) is held back.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._said = ""

    def piece(self, token_ids: list[int], *, ended: bool) -> str:
        """The text to add for an answer that is `token_ids` by now; often "" in between."""
        text = answer_text(self._tokenizer, token_ids)
        if not ended:
            text = text.rstrip(BROKEN).rstrip()
        if not text.startswith(self._said):
            return ""
        piece = text[len(self._said) :]
        self._said = text
        return piece
