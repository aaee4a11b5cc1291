"""The sentence-embedding model of this process, loaded in the background when first asked for.

A question waits for no model: it is answered from the full text alone until the model is there,
and for a while after it failed.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import structlog

import rlhf_engine

if TYPE_CHECKING:
    import numpy as np

LEFT_ALONE_S = 60.0
"""How long a model that could not be loaded is not tried again."""

log = structlog.get_logger(__name__)


class Embedding:
    """One model. Several threads may use it, one after another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._model: rlhf_engine.SentenceVectors | None = None
        self._loading: threading.Thread | None = None
        self._starting = threading.Lock()
        self._using = threading.Lock()
        self._failed: str | None = None
        self._not_before = -math.inf

    @property
    def id(self) -> str:
        """What tells the model from any other; SentenceModelError where the folder holds none."""
        return str(rlhf_engine.sentence_model_id(self.folder))

    def ready(self, patient: bool = False) -> bool:
        """Whether it is loaded; begins to load it where it is not. `patient` waits for that."""
        with self._starting:
            idle = self._loading is None or not self._loading.is_alive()
            if self._model is None and idle and monotonic() >= self._not_before:
                self._loading = threading.Thread(target=self._load, name="embedding", daemon=True)
                self._loading.start()
            loading = self._loading
        if patient and loading is not None:
            loading.join()
        return self._model is not None

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """A row for each text; SentenceModelError where the model is not there."""
        if not self.ready(patient=True) or self._model is None:
            raise rlhf_engine.SentenceModelError(self._failed or f"{self.folder} is not loaded")
        with self._using:
            found: np.ndarray = self._model.embed(texts)
            return found

    def _load(self) -> None:
        try:
            self._model = rlhf_engine.SentenceVectors(self.folder)
        # Whatever a model's files make of a library, questions are answered without it.
        except Exception as error:  # noqa: BLE001
            self._failed = str(error)
            self._not_before = monotonic() + LEFT_ALONE_S
            told = f"passages are found by full text alone, tried again in {LEFT_ALONE_S:.0f} s"
            log.warning("embedding_failed", folder=str(self.folder), error=str(error), next=told)


@lru_cache(maxsize=4)
def embedding(folder: Path) -> Embedding:
    """The model of this folder; the same for all who ask in this process."""
    return Embedding(folder)
