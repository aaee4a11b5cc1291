"""Readable pieces of an answer while its tokens arrive."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlhf_engine.render import answer_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BROKEN = "\ufffd"
"""What a decoder puts for bytes that are no character, or not yet one."""


class StreamedText:
    """One answer's text so far; joined, the pieces are exactly its `answer_text`, up to the
    first of the texts in `stop`.

    A character of several tokens comes whole, never in broken halves: what may still
    change with the next token (such halves, spaces at the end, what may turn out to begin a
    stop text) is held back.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str] = ()) -> None:
        self._tokenizer, self._stop = tokenizer, [text for text in stop if text]
        self.told = ""
        """All pieces so far."""
        self.stopped = False
        """Whether a stop text has come: the answer ends before it."""

    def piece(self, token_ids: list[int], *, ended: bool) -> str:
        """The text to add for an answer that is `token_ids` by now; often "" in between."""
        text = answer_text(self._tokenizer, token_ids)
        found = [text.index(stop) for stop in self._stop if stop in text]
        if found:
            self.stopped = True
            text = text[: min(found)].rstrip()
        elif not ended:
            text = self._settled(text)
        if not text.startswith(self.told):
            return ""
        piece = text[len(self.told) :]
        self.told = text
        return piece

    def _settled(self, text: str) -> str:
        """Without what the next token may still change."""
        text = text.rstrip(BROKEN).rstrip()
        held = max((_overlap(text, stop) for stop in self._stop), default=0)
        return text[: len(text) - held].rstrip() if held else text


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` may begin `stop`."""
    most = min(len(text), len(stop) - 1)
    return next((n for n in range(most, 0, -1) if text.endswith(stop[:n])), 0)
