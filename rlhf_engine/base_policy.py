"""The base policy: a folder with a causal language model, its tokenizer and chat template.

`fetch_base` gets one and caches it, `check_base` says whether a folder can serve,
`base_hash` names what it holds, `load_tokenizer` reads its tokenizer with a pad token
that is never the end of a turn. Where the files come from is base_sources.py.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_engine.errors import BasePolicyError
from rlhf_engine.files import sha256_of, sha256_of_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MANIFEST = "manifest.json"
CODE_SUFFIXES = frozenset({".py", ".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".h5"})
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
)
# Tried in this order where a base policy names no pad token of its own.
PAD_CANDIDATES = ("<|endoftext|>", "<|pad|>", "<pad>", "[PAD]", "<|finetune_right_pad_id|>")
UNUSED_MARKS = ("pad", "unused", "reserved", "extra", "dummy", "placeholder")


@dataclass(frozen=True, slots=True)
class BaseInfo:
    """What a base policy is. `context` is the most tokens it can read, prompt and answer."""

    hash: str
    name: str
    vocab: int
    layers: int
    context: int


def check_base(folder: Path) -> BaseInfo:
    """Look at everything but the weights' values; BasePolicyError says what to mend."""
    folder = Path(folder)
    _refuse_code(folder)
    config = _read_config(folder)
    _check_weights(folder)
    tokenizer = load_tokenizer(folder)
    text = config.get("text_config", config)
    vocab = int(text.get("vocab_size", 0))
    if len(tokenizer) > vocab:
        raise BasePolicyError(
            f"the tokenizer of {folder} has {len(tokenizer)} tokens, its model only {vocab}; "
            "they belong to different base policies"
        )
    return BaseInfo(
        hash=base_hash(folder),
        name=_name(folder),
        vocab=vocab,
        layers=int(text.get("num_hidden_layers", text.get("n_layer", 0))),
        context=int(text.get("max_position_embeddings", text.get("n_positions", 0))),
    )


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The base policy's tokenizer: padding on the left, the pad token never the end of a turn.

    Raises BasePolicyError where it cannot be read, has no chat template or end-of-turn
    token, or no token that could serve as pad.
    """
    from transformers import AutoTokenizer

    folder = Path(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, padding_side="left"
        )
    except (OSError, ValueError, KeyError) as error:
        raise BasePolicyError(f"the tokenizer in {folder} cannot be read: {error}") from error
    if not tokenizer.chat_template:
        raise BasePolicyError(
            f"the base policy {folder} has no chat template; take an instruction-tuned one, "
            "or add a chat_template.jinja"
        )
    if tokenizer.eos_token_id is None:
        raise BasePolicyError(
            f"the tokenizer in {folder} names no eos_token; add one to its config"
        )
    tokenizer.pad_token = _pad_token(tokenizer, folder)
    return tokenizer


def base_hash(folder: Path) -> str:
    """SHA-256 over weights, configuration, tokenizer and chat template, by name and content.

    A file that still has the size and time its manifest (see `fetch_base`) gives is not
    read again.
    """
    folder = Path(folder)
    known = read_manifest(folder).get("files", {})
    names = sorted({path.name for path in folder.glob("*.safetensors")} | _present(folder))
    if "config.json" not in names:
        raise BasePolicyError(f"{folder} is no base policy: it has no config.json")
    return sha256_of_json({name: _file_hash(folder / name, known.get(name)) for name in names})


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a fetched base policy; empty where the folder has none."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise BasePolicyError(
            f"{folder / MANIFEST} cannot be read: {error}; remove the folder and fetch it again"
        ) from error
    return manifest if isinstance(manifest, dict) else {}


def file_entry(path: Path) -> dict[str, Any]:
    """What a manifest says of one file."""
    status = path.stat()
    return {
        "sha256": sha256_of(path),
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
    }


def _file_hash(path: Path, entry: dict[str, Any] | None) -> str:
    status = path.stat()
    if entry and (entry["size"], entry["mtime_ns"]) == (status.st_size, status.st_mtime_ns):
        return str(entry["sha256"])
    return sha256_of(path)


def _present(folder: Path) -> set[str]:
    names = ("config.json", "model.safetensors.index.json", *TOKENIZER_FILES)
    return {name for name in names if (folder / name).is_file()}


def _refuse_code(folder: Path) -> None:
    if not folder.is_dir():
        raise BasePolicyError(f"{folder} is no folder; give a base policy's folder or hub name")
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in CODE_SUFFIXES:
            raise BasePolicyError(
                f"{path} can run code when it is loaded; Heed reads safetensors only. "
                "Remove it, or convert the weights to safetensors"
            )


def _read_config(folder: Path) -> dict[str, Any]:
    for name in ("config.json", "tokenizer_config.json"):
        try:
            data = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BasePolicyError(f"{folder / name} cannot be read: {error}") from error
        if "auto_map" in data:
            raise BasePolicyError(
                f"{folder / name} asks to run code of its own (auto_map); "
                "take a base policy whose architecture transformers knows"
            )
        if name == "config.json":
            config: dict[str, Any] = data
    _check_architecture(folder, config)
    return config


def _check_architecture(folder: Path, config: dict[str, Any]) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    kind = config.get("model_type")
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise BasePolicyError(
            f"{folder} holds a model of type {kind!r}, which is no causal language model"
        )


def _check_weights(folder: Path) -> None:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise BasePolicyError(f"{folder} has no weights: no *.safetensors file")
    for path in _indexed(folder):
        if not path.is_file():
            raise BasePolicyError(f"{path} is missing, though the weights' index names it")
    for path in files:
        if not _whole(path):
            raise BasePolicyError(f"{path} is cut off or damaged; fetch the base policy again")


def _indexed(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return []
    shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    return [folder / name for name in sorted(set(shards))]


def _whole(path: Path) -> bool:
    """Whether a safetensors file is as long as its header says."""
    with path.open("rb") as file:
        try:
            length = struct.unpack("<Q", file.read(8))[0]
            header = json.loads(file.read(min(length, 100_000_000)))
            ends = [item["data_offsets"][1] for key, item in header.items() if key[:2] != "__"]
        except (struct.error, ValueError, KeyError, TypeError):
            return False
    return path.stat().st_size == 8 + int(length) + max(ends, default=0)


def _pad_token(tokenizer: PreTrainedTokenizerBase, folder: Path) -> str:
    vocabulary = tokenizer.get_vocab()
    seen = _chat_ids(tokenizer)
    for token in _pad_candidates(tokenizer):
        if token in vocabulary and vocabulary[token] not in seen:
            return token
    raise BasePolicyError(
        f"the tokenizer in {folder} has no token to pad with that is not also the end of a turn; "
        "add one that chats never use, such as <|pad|>, and set it as pad_token"
    )


def _pad_candidates(tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    yield from (token for token in (tokenizer.pad_token,) if token)
    yield from PAD_CANDIDATES
    yield from (token for token in (tokenizer.unk_token,) if token)
    for token in sorted(tokenizer.get_added_vocab()):
        if any(mark in token.lower() for mark in UNUSED_MARKS):
            yield token


def _chat_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids that a chat uses, the end of a turn and the start of a text among them."""
    chat = [
        {"role": "user", "content": "a question"},
        {"role": "assistant", "content": "an answer"},
    ]
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    ids = set(tokenizer.encode(text, add_special_tokens=True))
    return ids | {tokenizer.eos_token_id}


def _name(folder: Path) -> str:
    return str(read_manifest(folder).get("name") or folder.name)
