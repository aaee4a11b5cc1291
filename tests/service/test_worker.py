"""The worker keeps what it trained, whatever fails after."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

import rlhf_engine
from service import worker


def test_pairs_that_cannot_be_scored_do_not_fail_a_finished_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rlhf_engine, "train", lambda _run_dir, _signals: None, raising=False)
    (tmp_path / "waiting.jsonl").write_text("{")
    with capture_logs() as said:
        assert worker.work(tmp_path) == worker.DONE
    assert worker.read_error(tmp_path) is None
    assert [(row["log_level"], row["event"]) for row in said] == [
        ("warning", "waiting_pairs_not_read")
    ]


def test_a_fault_while_scoring_is_told_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(_run_dir: Path) -> None:
        raise MemoryError

    monkeypatch.setattr(rlhf_engine, "train", lambda _run_dir, _signals: None, raising=False)
    monkeypatch.setattr(rlhf_engine, "score_disagreement", fault, raising=False)
    with capture_logs() as said:
        assert worker.work(tmp_path) == worker.DONE
    assert said[0]["exc_info"] is True
