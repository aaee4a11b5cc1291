"""One answer of a job: its tokens so far, the text to tell, and where it ends. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlhf_engine.answer_events import Ended, Event, Likely, Token
from rlhf_engine.records import SampledAnswer, SamplingSettings
from rlhf_engine.streamed_text import StreamedText

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class AnswerRow:
    """Turns drawn tokens into events. Every engine's answers are read by it, and so alike."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        settings: SamplingSettings,
        prompt_id: str,
        seed: int,
        number: int,
        prompt_tokens: int,
    ) -> None:
        self._tokenizer, self._settings = tokenizer, settings
        self._prompt_id, self._seed, self._number = prompt_id, seed, number
        self._prompt_tokens = prompt_tokens
        self._text = StreamedText(tokenizer, settings.stop)
        self._tokens: list[int] = []
        self._logprobs: list[float] = []

    def take(
        self, token_id: int, logprob: float, top: Sequence[tuple[int, float]], *, ended: bool
    ) -> list[Event]:
        """The token's event, and the answer's end where it has one.

        `logprob` is at temperature 1, as are those of the likeliest tokens in `top`, by id.
        """
        self._tokens.append(token_id)
        self._logprobs.append(logprob)
        piece = self._text.piece(self._tokens, ended=ended)
        likely = tuple(Likely(each, self._tokenizer.decode([each]), value) for each, value in top)
        token = Token(self._number, piece, token_id, logprob, likely)
        if not (ended or self._text.stopped):
            return [token]
        return [token, Ended(self._number, self._answer(), self._prompt_tokens)]

    def _answer(self) -> SampledAnswer:
        itself = self._tokens[-1] == self._tokenizer.eos_token_id
        return SampledAnswer(
            prompt_id=self._prompt_id,
            text=self._text.told,
            token_ids=tuple(self._tokens),
            logprobs=tuple(self._logprobs),
            finish_reason="stop" if itself or self._text.stopped else "length",
            seed=self._seed,
        )
