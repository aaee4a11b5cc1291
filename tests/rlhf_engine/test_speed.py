"""The speed report has what sizes are chosen from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rlhf_engine.speed import faster_dtype, measure_speed
from tests.tiny import tiny_base


def test_speeds_are_measured_in_the_format_to_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlhf_engine.speed.SPENT_S", 0.05)
    threads = torch.get_num_threads()
    report = measure_speed(tiny_base(tmp_path), threads=1)
    assert report.dtype in ("bfloat16", "float32")
    assert set(report.forward_tokens_per_s) == {report.dtype}
    assert report.forward_tokens_per_s[report.dtype] > 0
    steps = report.decode_step_s[report.dtype]
    assert set(steps) == {1, 16}
    assert all(seconds > 0 for seconds in steps.values())
    assert torch.get_num_threads() == threads


def test_a_format_can_be_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlhf_engine.speed.SPENT_S", 0.05)
    report = measure_speed(tiny_base(tmp_path), threads=1, dtype="float32")
    assert (report.dtype, set(report.forward_tokens_per_s)) == ("float32", {"float32"})


def test_choosing_a_format_loads_no_weights(tmp_path: Path) -> None:
    base = tiny_base(tmp_path)
    (base / "model.safetensors").unlink()
    assert faster_dtype(base, threads=1) in ("bfloat16", "float32")
