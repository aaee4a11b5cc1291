"""What two runs of the same plan must have in common: all but the time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rlhf_engine.files import sha256_of
from rlhf_engine.run_folder import RunFolder

OF_THE_MOMENT = ("progress.json", "worker.lock", "plot.png")
"""Files of which it only matters that they are there: they tell times, or draw the metrics."""

TIMES = ("time", "per_s")
"""Parts of the names of metrics that tell times or speeds."""


def contents(run: RunFolder) -> dict[str, str]:
    """Every file of the run by its name, with its hash, or its content without times."""
    found = {}
    for path in sorted(run.path.rglob("*")):
        if path.is_file():
            name = str(path.relative_to(run.path))
            found[name] = _content(run, path)
    return found


def differences(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    """Names of files that one run lacks, or that differ."""
    return sorted(
        name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
    )


def _content(run: RunFolder, path: Path) -> str:
    if path.name in OF_THE_MOMENT:
        return "there"
    if path == run.metrics_path:
        return json.dumps([_timeless(json.loads(line)) for line in path.read_text().splitlines()])
    if path.name == "done.json":
        return json.dumps(json.loads(path.read_text())["figures"])
    return sha256_of(path)


def _timeless(row: dict[str, Any]) -> list[tuple[str, Any]]:
    return sorted(item for item in row.items() if not any(mark in item[0] for mark in TIMES))
