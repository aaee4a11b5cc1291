"""What is published: one wheel with three packages and everything these need beside code."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"service", "plugins", "rlhf_engine"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """The wheel, built from a copy: a build leaves folders behind in its source."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, source)
    for name in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "made", "."]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = (source / "made").glob("heed-*.whl")
    with zipfile.ZipFile(made) as opened:
        yield opened


def dist_info(wheel: zipfile.ZipFile, name: str) -> str:
    (path,) = (entry for entry in wheel.namelist() if entry.endswith(f".dist-info/{name}"))
    return wheel.read(path).decode("utf-8")


@pytest.mark.timeout(600)
def test_the_wheels_top_level_names_are_the_three_packages(wheel: zipfile.ZipFile) -> None:
    tops = {entry.split("/")[0] for entry in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES
    assert set(dist_info(wheel, "top_level.txt").split()) == PACKAGES


@pytest.mark.timeout(600)
def test_every_file_of_the_packages_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    """Page assets, migrations and the demonstration company among them."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *PACKAGES],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    here = {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}
    needed = {
        "service/web/static/shell.html",
        "service/migrations/env.py",
        "service/migrations/script.py.mako",
        "service/migrations/versions/0001_first_tables.py",
        "service/demo/company/gold.csv",
        "service/demo/company/documents/annual-leave.md",
    }
    assert needed <= here
    assert here - set(wheel.namelist()) == set()


@pytest.mark.timeout(600)
def test_the_command_the_plugins_and_the_licence_are_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    points = configparser.ConfigParser()
    points.read_string(dist_info(wheel, "entry_points.txt"))
    assert points["console_scripts"]["heed"] == "service.cli:main"
    assert dict(points["heed"]) == {name: f"plugins.{name}" for name in points["heed"]}
    assert {"faq_csv", "files", "website", "cites_documents", "pii"} <= set(points["heed"])
    assert "License-Expression: Apache-2.0" in dist_info(wheel, "METADATA")
    assert "Version 2.0, January 2004" in dist_info(wheel, "licenses/LICENSE")


def test_constraints_pin_every_package_exactly_and_name_no_place() -> None:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", pin) for pin in pins)
    assert "torch==2.13.0" in pins
    names = [pin.split("==")[0].lower() for pin in pins]
    assert names == sorted(set(names))


def test_every_dependency_is_pinned() -> None:
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    asked = set(re.findall(r'^    "([A-Za-z0-9-]+)(?:\[\w+\])?>=', text, re.MULTILINE))
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    }
    assert len(asked) > 30
    assert asked - pinned == set()
