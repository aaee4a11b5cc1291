"""The base policy: a folder with a causal language model, its tokenizer and chat template.

`check_base` says whether a folder can serve, `base_hash` names what it holds,
`load_tokenizer` reads its tokenizer with a pad token that is never the end of a turn.
How it gets here is base_fetch.py. Reading a tokenizer loads torch: a process that only
asks and has no use for torch goes through base_check.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_engine.base_files import check_files
from rlhf_engine.errors import BasePolicyError
from rlhf_engine.files import sha256_of, sha256_of_json, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MANIFEST = "manifest.json"
TEMPLATE = "chat_template.jinja"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    TEMPLATE,
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
    config = check_files(folder)
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
        name=base_name(folder),
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

    A file that still has the size and time its manifest (see base_fetch.py) gives is not
    read again.
    """
    folder = Path(folder)
    known = read_manifest(folder).get("files", {})
    names = sorted({path.name for path in folder.glob("*.safetensors")} | _present(folder))
    if "config.json" not in names:
        raise BasePolicyError(f"{folder} is no base policy: it has no config.json")
    return sha256_of_json({name: _file_hash(folder / name, known.get(name)) for name in names})


def tokenizer_hash(folder: Path) -> str:
    """SHA-256 over the files that turn text into tokens, by name and content."""
    names = sorted(_present(folder) & set(TOKENIZER_FILES) - {TEMPLATE})
    return sha256_of_json({name: _file_hash(folder / name, None) for name in names})


def template_hash(folder: Path) -> str:
    """SHA-256 of the chat template, from a file of its own or from the tokenizer's settings."""
    if (folder / TEMPLATE).is_file():
        return _file_hash(folder / TEMPLATE, None)
    config = folder / "tokenizer_config.json"
    known = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    return sha256_of_json(known.get("chat_template"))


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
    return _hash_at(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=256)
def _hash_at(path: Path, _size: int, _mtime_ns: int) -> str:
    return sha256_of(path)


def _present(folder: Path) -> set[str]:
    names = ("config.json", "model.safetensors.index.json", *TOKENIZER_FILES)
    return {name for name in names if (folder / name).is_file()}


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


def base_name(folder: Path) -> str:
    """The hub name a base policy was fetched by, else its folder's name."""
    return str(read_manifest(folder).get("name") or folder.name)


def prepare_base(folder: Path) -> None:
    """Write the pad token where every library looks; drop foreign sampling defaults."""
    tokenizer = load_tokenizer(folder)
    _update_json(folder / "tokenizer_config.json", pad_token=tokenizer.pad_token)
    if (folder / "special_tokens_map.json").exists():
        _update_json(folder / "special_tokens_map.json", pad_token=tokenizer.pad_token)
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    _update_json(folder / "config.json", **ids)
    write_json(folder / "generation_config.json", ids)


def _update_json(path: Path, **values: Any) -> None:
    write_json(path, {**json.loads(path.read_text(encoding="utf-8")), **values})
