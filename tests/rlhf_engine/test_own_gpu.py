"""A training process sees one GPU at most, before torch is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_engine.errors import PlanError
from rlhf_engine.own_gpu import see_one_gpu

MIG = "MIG-7c1f3e6a-0000-5d6e-8f90-123456789abc"


@pytest.mark.parametrize(
    ("visible", "rank", "seen"),
    [
        (None, None, "0"),
        (None, "0", "0"),
        (None, "3", "3"),
        ("2", None, "2"),
        ("2,5", None, "2"),
        ("2,5", "1", "5"),
        (" 2 , 5 ", "1", "5"),
        (f"GPU-8f21,{MIG}", "1", MIG),
        ("", None, ""),
        ("", "1", ""),
        ("-1", "1", "-1"),
    ],
)
def test_a_process_sees_the_gpu_of_its_rank(
    visible: str | None, rank: str | None, seen: str
) -> None:
    given = {"CUDA_VISIBLE_DEVICES": visible, "LOCAL_RANK": rank, "RANK": "1"}
    environment = {name: value for name, value in given.items() if value is not None}
    names = {*environment, "CUDA_VISIBLE_DEVICES"}
    see_one_gpu(environment)
    assert environment["CUDA_VISIBLE_DEVICES"] == seen
    assert environment.keys() == names
    assert environment["RANK"] == "1"
    once = dict(environment)
    see_one_gpu(environment)
    assert environment == once


def test_more_processes_than_gpus_are_refused() -> None:
    environment = {"CUDA_VISIBLE_DEVICES": "4,6", "LOCAL_RANK": "2"}
    with pytest.raises(PlanError, match="CUDA_VISIBLE_DEVICES is 4,6, and this is process 3"):
        see_one_gpu(environment)
    assert environment == {"CUDA_VISIBLE_DEVICES": "4,6", "LOCAL_RANK": "2"}


@pytest.mark.parametrize("module", ["rlhf_engine", "service.worker"])
@pytest.mark.parametrize(
    ("given", "seen"),
    [({}, "0"), ({"CUDA_VISIBLE_DEVICES": "4,6", "LOCAL_RANK": "1"}, "6")],
)
def test_a_process_has_one_gpu_when_it_imports_torch(
    tmp_path: Path, module: str, given: dict[str, str], seen: str
) -> None:
    script = (
        "import os, runpy, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch':\n"
        "            print(os.environ.get('CUDA_VISIBLE_DEVICES'))\n"
        "            raise SystemExit(7)\n"
        "sys.meta_path.insert(0, Finder())\n"
        f"sys.argv = ['', {str(tmp_path)!r}]\n"
        f"runpy.run_module({module!r}, run_name='__main__')\n"
    )
    left_out = ("CUDA_VISIBLE_DEVICES", "LOCAL_RANK")
    inherited = {name: value for name, value in os.environ.items() if name not in left_out}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[2],
        env=inherited | given,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (7, f"{seen}\n"), done.stderr
