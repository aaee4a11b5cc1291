"""Passages as vectors of a sentence-embedding model, compared with a question's, all in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from sqlmodel import Session, col, select
from transformers import AutoModel, AutoTokenizer

from service.tables import Document, Passage

MOST_TOKENS = 256
BATCH = 32


class Vectors:
    """The passages' vectors: unit length, so that a product is the cosine."""

    def __init__(self, opened: Session, numbers: Sequence[str], model: Path) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
        self._model = AutoModel.from_pretrained(
            model, local_files_only=True, use_safetensors=True
        ).eval()
        query = select(Passage, Document.title).join(
            Document, col(Document.id) == col(Passage.document_id)
        )
        texts = {row.id: f"{title}: {row.heading}\n{row.text}" for row, title in opened.exec(query)}
        self._numbers = list(numbers)
        self._vectors = self._embedded([texts[number] for number in numbers])

    def nearest(self, question: str, limit: int) -> list[str]:
        """The ids of the passages whose vectors are nearest to the question's."""
        scores = self._vectors @ self._embedded([question])[0]
        return [self._numbers[at] for at in np.argsort(-scores)[:limit]]

    def _embedded(self, texts: Sequence[str]) -> np.ndarray:
        # Long ones together, so that little is padded.
        order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
        found = np.empty((len(texts), self._model.config.hidden_size), np.float32)
        with torch.inference_mode():
            for start in range(0, len(order), BATCH):
                some = order[start : start + BATCH]
                found[some] = self._mean([texts[at] for at in some])
        return found

    def _mean(self, texts: list[str]) -> np.ndarray:
        """The mean state of each text's tokens, at unit length: [texts, width]."""
        given = self._tokenizer(
            texts, padding=True, truncation=True, max_length=MOST_TOKENS, return_tensors="pt"
        )
        mask = given["attention_mask"].unsqueeze(-1)
        states = self._model(**given).last_hidden_state * mask
        mean = torch.nn.functional.normalize(states.sum(1) / mask.sum(1), dim=-1)
        return np.asarray(mean)
