"""A data source for Heed: a folder of notes, one text file each.

Needs pluggy and the standard library only. Items are plain dicts, the settings a dataclass
whose `metadata` says what Heed's form shows and which values it takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pluggy

hookimpl = pluggy.HookimplMarker("heed")


@dataclass(frozen=True)
class Settings:
    """What an operator writes under `options`."""

    path: Path = field(metadata={"description": "The folder with the notes."})
    page: int = field(
        default=100,
        metadata={"description": "Notes from one checkpoint to the next.", "ge": 1},
    )


class Notes:
    """Reads a folder of notes, one text file each."""

    name = "notes"
    Settings = Settings

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def items(self, cursor: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Every note behind the cursor's, in the order of the file names; then the end."""
        waiting = [file for file in self.files() if file.name > cursor.get("after", "")]
        for number, file in enumerate(waiting, 1):
            yield note(file)
            if number % self.settings.page == 0:
                yield {"kind": "checkpoint", "cursor": {"after": file.name}}
        yield {"kind": "complete"}

    def check(self) -> str:
        """How many notes there are; OSError where the folder cannot be read."""
        return f"{self.settings.path} holds {len(self.files())} notes."

    def files(self) -> list[Path]:
        """The notes of the folder. OSError, which Heed shows, where there is none: an empty list
        would remove everything."""
        if not self.settings.path.is_dir():
            raise OSError(f"{self.settings.path} is no folder; check the option path")
        return sorted(self.settings.path.glob("*.txt"), key=lambda file: file.name)


def note(file: Path) -> dict[str, Any]:
    """One file as a document, or as rejected with the reason."""
    try:
        text = file.read_text("utf-8").strip()
    except UnicodeDecodeError:
        return {"kind": "rejected", "where": file.name, "reason": "is not UTF-8; save it as that"}
    if not text:
        return {"kind": "rejected", "where": file.name, "reason": "has no text"}
    return {"kind": "document", "id": file.name, "title": file.stem, "text": text}


@hookimpl
def heed_data_sources() -> list[type]:
    """The one source of this package."""
    return [Notes]
