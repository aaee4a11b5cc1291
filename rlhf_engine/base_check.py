"""Look at a base policy without loading torch into the process that asks.

Reading a tokenizer brings torch along, which then stays in memory. Whoever has not loaded
it has the look done by a process of its own, `python -m rlhf_engine.base_check look FOLDER`,
which prints a BaseInfo, or an error, as one line of JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rlhf_engine import base_policy
from rlhf_engine.base_files import OFFLINE
from rlhf_engine.base_policy import BaseInfo
from rlhf_engine.errors import BasePolicyError


def check_base(folder: Path) -> BaseInfo:
    """Look at everything but the weights' values; BasePolicyError says what to mend."""
    return _done("look", Path(folder))


def prepare_and_check(folder: Path) -> BaseInfo:
    """Make a fetched folder ready (see `base_policy.prepare_base`), then check it."""
    return _done("prepare", Path(folder))


def _done(what: str, folder: Path) -> BaseInfo:
    if "transformers" in sys.modules:
        return _do(what, folder)
    command = [sys.executable, "-P", "-m", "rlhf_engine.base_check", what, str(folder)]
    child = subprocess.run(  # noqa: S603 - our own interpreter and module
        command,
        capture_output=True,
        text=True,
        errors="replace",
        env=os.environ | OFFLINE,
        check=False,
    )
    try:
        answer = json.loads(child.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = " ".join(child.stderr.splitlines()[-3:])
        raise BasePolicyError(
            f"{folder} could not be checked (exit {child.returncode}): {last}"
        ) from None
    if "error" in answer:
        raise BasePolicyError(answer["error"])
    return BaseInfo(**answer)


def _do(what: str, folder: Path) -> BaseInfo:
    if what == "prepare":
        base_policy.prepare_base(folder)
    return base_policy.check_base(folder)


def main(arguments: Sequence[str]) -> int:
    """Do as `arguments` say ("look" or "prepare", and a folder) and print the answer."""
    what, folder = arguments
    try:
        answer = asdict(_do(what, Path(folder)))
    except (BasePolicyError, OSError) as error:
        answer = {"error": str(error)}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 1 if "error" in answer else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
