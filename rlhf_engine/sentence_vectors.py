"""Turns sentences into vectors with a sentence-embedding model: near meanings, near vectors.

The model is a folder as sentence-transformers writes it (sentence_model.py). A text's vector is
the mean of its tokens' last states at unit length, as in Reimers and Gurevych (2019),
"Sentence-BERT", so that a product of two is their cosine.
Nothing is fetched, no code of the folder is run, and pickled weights are not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging

from rlhf_engine.errors import SentenceModelError
from rlhf_engine.sentence_model import check_sentence_model

MOST_TOKENS = 256
"""Of one text; the rest is left out. A passage has at most 90 words."""
BATCH = 32


class SentenceVectors:
    """A loaded model. Not for several threads at once."""

    def __init__(self, folder: Path) -> None:
        """SentenceModelError where the folder holds no model of this kind."""
        check_sentence_model(folder)
        logging.disable_progress_bar()
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self._model = AutoModel.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
            ).eval()
        except (OSError, ValueError, KeyError) as error:
            raise SentenceModelError(f"the model in {folder} cannot be loaded: {error}") from error

    @property
    def width(self) -> int:
        """Numbers in a vector."""
        return int(self._model.config.hidden_size)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """The texts' vectors: float32 [texts, width], each of length 1."""
        # Long ones together, so that little is padded.
        order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
        found = np.empty((len(texts), self.width), np.float32)
        with torch.inference_mode():
            for start in range(0, len(order), BATCH):
                some = order[start : start + BATCH]
                found[some] = self._mean([texts[at] for at in some])
        return found

    def _mean(self, texts: list[str]) -> np.ndarray:
        given = self._tokenizer(
            texts, padding=True, truncation=True, max_length=MOST_TOKENS, return_tensors="pt"
        )
        mask = given["attention_mask"].unsqueeze(-1)  # [texts, tokens, 1]
        states = self._model(**given).last_hidden_state  # [texts, tokens, width]
        mean = (states * mask).sum(1) / mask.sum(1).clamp(min=1)
        return torch.nn.functional.normalize(mean, dim=-1).numpy()
