"""The folder of a sentence-embedding model, as sentence-transformers writes it: what it must hold,
and what tells it from any other. Needs no torch."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path

from rlhf_engine.errors import SentenceModelError

WEIGHTS = "model.safetensors"
_POOLING = Path("1_Pooling/config.json")
_EXAMPLE = "sentence-transformers/all-MiniLM-L6-v2"


def check_sentence_model(folder: Path) -> None:
    """SentenceModelError where the folder holds no model of this kind."""
    for name in ("config.json", "tokenizer.json", WEIGHTS):
        if not (folder / name).is_file():
            raise SentenceModelError(
                f"{folder} holds no {name}; name the folder of a sentence-embedding model with "
                f"{WEIGHTS}, such as {_EXAMPLE}"
            )
    if not (folder / _POOLING).is_file():
        return
    try:
        pooling = json.loads((folder / _POOLING).read_text(encoding="utf-8"))
        takes_mean = pooling.get("pooling_mode_mean_tokens", True)
    except (OSError, ValueError, AttributeError) as error:
        raise SentenceModelError(f"{folder / _POOLING} cannot be read: {error}") from error
    if not takes_mean:
        raise SentenceModelError(
            f"{folder} does not take the mean of its tokens' states ({_POOLING}); "
            f"choose a model that does, such as {_EXAMPLE}"
        )


def sentence_model_id(folder: Path) -> str:
    """A hash of the model's weights; SentenceModelError where it is no such folder."""
    check_sentence_model(folder)
    path = folder / WEIGHTS
    state = path.stat()
    return _hashed(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=8)
def _hashed(path: Path, _written_ns: int, _size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
