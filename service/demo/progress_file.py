"""What the demonstration remembers between two goes: sizes, runs, and the time spent."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rlhf_engine.files import write_json
from rlhf_engine.records import from_json
from service.demo.memory import Peak
from service.demo.sizing import Sizes, Speed
from service.errors import SettingsError

FILE = "demo.json"


@dataclass(frozen=True, slots=True)
class Done:
    """What is decided and done. `took_s` is seconds by step, over all goes."""

    data: str
    """ "company", or the handbook's folder."""
    questions: int = 0
    """Gold answers that may be trained on or held out."""
    speed: Speed | None = None
    sizes: Sizes | None = None
    resized: bool = False
    """Whether `sizes` were chosen again after the first cycle."""
    runs: dict[str, str] = field(default_factory=dict)
    finished: tuple[str, ...] = ()
    """Steps that came to their end in some go."""
    took_s: dict[str, float] = field(default_factory=dict)
    peak: Peak = field(default_factory=Peak)
    """The most memory held at once, over all goes."""


def read(home: Path, data: str) -> Done:
    """What an earlier go left; SettingsError where that was about other data."""
    path = home / FILE
    if not path.exists():
        return Done(data)
    try:
        done = from_json(Done, json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise SettingsError(
            f"{path} cannot be read: {error}; delete the folder {home} to begin anew"
        ) from error
    if done.data != data:
        raise SettingsError(
            f"{home} holds a demonstration on {done.data}, not on {data}; give another --home"
        )
    return done


def keep(home: Path, done: Done, **changes: Any) -> Done:
    """Write what changed and return it."""
    changed = replace(done, **changes)
    write_json(home / FILE, asdict(changed))
    return changed
