"""A run folder: the plan, the frozen snapshot, a folder a stage, and each stage's marker.

RUN/plan.json
RUN/snapshot/...              frozen and hashed (snapshot.py)
RUN/<stage>/...               what the stage wrote
RUN/<stage>/done.json         the StageReport, written last: without it the stage runs again
RUN/ppo/checkpoint.safetensors  where the stage ppo goes on; gone once it is done
RUN/progress.json             where the run is now, for whoever watches
RUN/metrics.jsonl             one line a training step, stable keys
RUN/gate.json                 the GateReport
RUN/candidate/                the candidate's PolicyVersion folder, before it is stored
RUN/cancel                    its presence asks the run to stop
RUN/worker.lock               held (flock) by the one process that works on the run
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from rlhf_engine.errors import Cancelled, RunFolderError
from rlhf_engine.files import remove_unfinished, write_json, write_lines
from rlhf_engine.plan import RunPlan
from rlhf_engine.records import GateReport, StageReport, from_json, to_json


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run is: `step` of `total` in `stage`; `left_s` is an estimate, None at first.
    `spent_s` is the stage's wall time over all tries."""

    stage: str
    step: int
    total: int
    note: str = ""
    left_s: float | None = None
    at: float = 0.0
    spent_s: float = 0.0


class RunFolder:
    """One training run on disk. All writes are atomic; reading never needs the worker."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    @classmethod
    def create(cls, path: Path, plan: RunPlan) -> RunFolder:
        """Make the folder and write its plan; RunFolderError if it holds a plan already."""
        folder = cls(path)
        if folder.plan_path.exists():
            raise RunFolderError(f"{path} holds a run already; resume it or choose another folder")
        write_json(folder.plan_path, to_json(plan))
        return folder

    @property
    def plan_path(self) -> Path:
        """Where the plan lies."""
        return self.path / "plan.json"

    @property
    def metrics_path(self) -> Path:
        """Where training metrics are appended."""
        return self.path / "metrics.jsonl"

    @property
    def candidate_path(self) -> Path:
        """The candidate's PolicyVersion folder once a stage made it."""
        return self.path / "candidate"

    def stage_path(self, stage: str) -> Path:
        """The folder of one stage."""
        return self.path / stage

    def checkpoint_path(self, stage: str) -> Path:
        """Where a stage keeps what it goes on from; without the file it begins anew."""
        return self.stage_path(stage) / "checkpoint.safetensors"

    def plan(self) -> RunPlan:
        """The plan; RunFolderError if it is missing or not readable by this version."""
        try:
            return from_json(RunPlan, json.loads(self.plan_path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise RunFolderError(f"{self.plan_path} cannot be read: {error}") from error

    def report(self, stage: str) -> StageReport | None:
        """The stage's report, or None while its marker is missing."""
        path = self.stage_path(stage) / "done.json"
        if not path.exists():
            return None
        return from_json(StageReport, json.loads(path.read_text(encoding="utf-8")))

    def mark_done(self, report: StageReport) -> None:
        """Write the stage's marker; call it when everything else of the stage is on disk."""
        write_json(self.stage_path(report.stage) / "done.json", to_json(report))
        self.checkpoint_path(report.stage).unlink(missing_ok=True)

    def gate_report(self) -> GateReport | None:
        """The gate's verdict, or None before evaluation ended."""
        path = self.path / "gate.json"
        if not path.exists():
            return None
        return from_json(GateReport, json.loads(path.read_text(encoding="utf-8")))

    def write_gate_report(self, report: GateReport) -> None:
        """Keep the gate's verdict."""
        write_json(self.path / "gate.json", to_json(report))

    def progress(self) -> Progress | None:
        """Where the run is, or None before its first step."""
        try:
            data = json.loads((self.path / "progress.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return from_json(Progress, data)

    def write_progress(self, progress: Progress) -> None:
        """Tell whoever watches where the run is."""
        write_json(self.path / "progress.json", asdict(progress))

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Add one line to metrics.jsonl, flushed."""
        line = json.dumps({"time": time.time(), **row}, allow_nan=False) + "\n"
        with self.metrics_path.open("a+b") as file:
            # A line that a kill cut off must not swallow this one.
            if file.tell() and not _ends_a_line(file):
                line = "\n" + line
            file.write(line.encode())

    def metrics(self) -> list[dict[str, Any]]:
        """All complete lines of metrics.jsonl; a line cut by a kill is left out."""
        return _whole_rows(self._metrics_lines())

    def forget_unless_kept(self, stage: str) -> None:
        """Drop the metrics of an earlier try of the stage, unless it goes on from a checkpoint, and
        a line that a kill cut off."""
        lines = self._metrics_lines()
        kept = _whole_rows(lines)
        if not self.checkpoint_path(stage).exists():
            mark = "batch" if stage == "ppo" else f"{stage}/"
            kept = [row for row in kept if not any(key.startswith(mark) for key in row)]
        if len(kept) < len(lines):
            write_lines(self.metrics_path, kept)

    def _metrics_lines(self) -> list[str]:
        if not self.metrics_path.exists():
            return []
        return self.metrics_path.read_text(encoding="utf-8").splitlines()

    def request_cancel(self) -> None:
        """Ask the worker to stop at its next step; what is on disk can be resumed."""
        (self.path / "cancel").touch()

    def clear_cancel(self) -> None:
        """Withdraw a request to stop, before resuming."""
        (self.path / "cancel").unlink(missing_ok=True)

    @property
    def cancel_requested(self) -> bool:
        """Whether somebody asked this run to stop."""
        return (self.path / "cancel").exists()

    def raise_if_cancelled(self) -> None:
        """Raise Cancelled if somebody asked this run to stop."""
        if self.cancel_requested:
            raise Cancelled(f"run {self.path.name} was asked to stop; resume goes on from here")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the run while working on it; RunFolderError if another process does."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "worker.lock").open("w", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunFolderError(
                    f"another worker is at run {self.path.name}; wait for it or stop it first"
                ) from error
            lock.write(str(os.getpid()))
            lock.flush()
            remove_unfinished(self.path)
            yield


def _ends_a_line(file: BinaryIO) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def _whole_rows(lines: Sequence[str]) -> list[dict[str, Any]]:
    """The lines as rows, but for those that a kill cut off."""
    rows = []
    for line in lines:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows
