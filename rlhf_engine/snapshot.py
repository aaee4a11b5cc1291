"""A frozen, hashed set of training data with its split by question.

FOLDER/demonstrations.jsonl, comparisons.jsonl, prompts.jsonl, thumbs.jsonl
FOLDER/manifest.json            counts, file hashes and the snapshot's hash, written last
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_engine.errors import SnapshotError
from rlhf_engine.files import read_lines, sha256_of, sha256_of_json, write_json, write_lines
from rlhf_engine.records import Comparison, Demonstration, Prompt, Thumb, from_json, to_json

MANIFEST = "manifest.json"
_KINDS: dict[str, type[Any]] = {
    "demonstrations": Demonstration,
    "comparisons": Comparison,
    "prompts": Prompt,
    "thumbs": Thumb,
}
_MARK = "\u0300"
_WORD = re.compile(
    rf"""
    (?: (?<![\w{_MARK}$%)\]+\#]) - (?=\$?\ ?\.?\d) )?  # the minus of -5, not of 2-5
    (?:
        [$%\u2030]
      | (?: (?<![\w{_MARK}.,;:!?)\]]) \. )?               # the dot of .NET, not of "ended.So"
        \w[\w{_MARK}]*
        (?: \+{{2,}} | \+(?!\w) | \#(?!\w) )?             # C++, 18+ and C#, not Ctrl+C
    )
    """,
    re.VERBOSE,
)


@dataclass(frozen=True)
class Snapshot:
    """What one training run learns from; `hash` names it for ever."""

    path: Path
    hash: str
    demonstrations_hash: str
    demonstrations: tuple[Demonstration, ...]
    comparisons: tuple[Comparison, ...]
    prompts: tuple[Prompt, ...]
    thumbs: tuple[Thumb, ...] = ()

    @classmethod
    def open(cls, folder: Path) -> Snapshot:
        """Read a snapshot; SnapshotError if it is missing, was changed since freezing, or is not
        readable by this version."""
        manifest = _read_manifest(folder)
        rows: dict[str, tuple[Any, ...]] = {}
        try:
            # A snapshot may have been frozen before there were thumbs.
            for name in _KINDS.keys() & manifest["files"].keys():
                path = folder / f"{name}.jsonl"
                if sha256_of(path) != manifest["files"][name]:
                    raise SnapshotError(f"{path} was changed after freezing; start a new run")
                rows[name] = tuple(from_json(_KINDS[name], row) for row in read_lines(path))
            return cls(folder, manifest["hash"], manifest["files"]["demonstrations"], **rows)
        except (TypeError, KeyError, ValueError) as error:
            raise SnapshotError(
                f"{folder} cannot be read by this version ({error!r}); start a new run"
            ) from error

    def training_demonstrations(self) -> list[Demonstration]:
        """The demonstrations that SFT may learn from."""
        return [item for item in self.demonstrations if item.prompt.split == "train"]

    def evaluation_demonstrations(self) -> list[Demonstration]:
        """The exam where one was given, else the held-out questions."""
        exam = [item for item in self.demonstrations if item.prompt.split == "exam"]
        return exam or [item for item in self.demonstrations if item.prompt.split == "held_out"]


def freeze(
    folder: Path,
    demonstrations: Sequence[Demonstration],
    comparisons: Sequence[Comparison],
    prompts: Sequence[Prompt],
    thumbs: Sequence[Thumb] = (),
) -> Snapshot:
    """Write a snapshot and return it as read back.

    Raises SnapshotError where a question of the training side also stands on the
    held-out or exam side, or where there is nothing to train on.
    """
    judged: list[Demonstration | Comparison | Thumb] = [*demonstrations, *comparisons, *thumbs]
    _refuse_leaks([item.prompt for item in judged], prompts)
    if not any(item.prompt.split == "train" for item in demonstrations):
        raise SnapshotError(
            "there is no gold answer to train on; add a data source with question-answer pairs "
            "and sync it"
        )
    rows: dict[str, Sequence[Any]] = {
        "demonstrations": demonstrations,
        "comparisons": comparisons,
        "prompts": prompts,
        "thumbs": thumbs,
    }
    for name, items in rows.items():
        write_lines(folder / f"{name}.jsonl", [to_json(item) for item in items])
    files = {name: sha256_of(folder / f"{name}.jsonl") for name in rows}
    manifest = {
        "format": 1,
        "hash": sha256_of_json(files),
        "files": files,
        "counts": {name: len(items) for name, items in rows.items()},
    }
    write_json(folder / MANIFEST, manifest)
    return Snapshot.open(folder)


def normalised(question: str) -> str:
    """A question as it is compared: the words of its NFKC form in lower case.

    A word keeps its combining marks and the symbols that make it another word, as in C++, C#,
    .NET and -5; percent and currency signs are words of their own. Punctuation does not count.
    """
    composed = unicodedata.normalize("NFKC", question).replace("\u2212", "-")
    # Many programs write the Turkish capital dotted I so in lower case.
    composed = composed.replace("i\u0307", "\u0130")
    folded = composed.lower() if composed.isascii() else "".join(map(_folded, composed))
    shape = folded if folded.isascii() else "".join(map(_shape, folded))
    return " ".join(folded[slice(*word.span())] for word in _WORD.finditer(shape))


def is_held_out(question: str, percent: int) -> bool:
    """Whether a question is kept out of training: decided by its hash alone, for ever."""
    # By letters and digits alone: what else tells questions apart may change, their sides may not.
    words = " ".join(re.findall(r"\w+", normalised(question)))
    digest = hashlib.sha256(words.encode()).digest()
    return int.from_bytes(digest[:4], "big") % 100 < percent


def is_watched(question: str, percent: int) -> bool:
    """Whether a training question is kept back to be watched: by its hash, as whether it is held
    out is, and independently of it."""
    return is_held_out(f"watched: {question}", percent)


def _folded(character: str) -> str:
    """The character in lower case, with a space for each mark that only the folding makes."""
    folded = character.casefold()
    return folded if len(folded) == 1 else re.sub(r"\W", " ", folded)


def _shape(character: str) -> str:
    """The character as `_WORD` sees it: combining marks are alike, and so are currencies."""
    kind = unicodedata.category(character)
    if kind == "Sc":
        return "$"
    selects_a_glyph = unicodedata.name(character, "").startswith("VARIATION SELECTOR")
    return _MARK if kind in ("Mn", "Mc") and not selects_a_glyph else character


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SnapshotError(f"{folder} holds no finished snapshot: {error}") from error
    if manifest.get("format") != 1:
        raise SnapshotError(f"{folder} was written by another version; start a new run")
    return manifest


def _refuse_leaks(judged: Sequence[Prompt], prompts: Sequence[Prompt]) -> None:
    kept_out = {normalised(p.question) for p in judged if p.split != "train"}
    for prompt in [*judged, *prompts]:
        if prompt.split == "train" and normalised(prompt.question) in kept_out:
            raise SnapshotError(
                f"prompt {prompt.id} is on the training side, but its question is also held out"
            )
