"""deploy/examples/heed-notes is built, installed beside Heed by its own command, and tested."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "deploy" / "examples" / "heed-notes"


def run(*command: str, cwd: Path) -> str:
    environment = {**os.environ, "COLUMNS": "200", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy: a build leaves folders behind in its source."""
    copied = tmp_path_factory.mktemp("example") / "heed-notes"
    return Path(shutil.copytree(EXAMPLE, copied, ignore=shutil.ignore_patterns("__pycache__")))


@pytest.fixture(scope="module")
def wheel(source: Path) -> Path:
    options = ("--wheel", "--no-isolation", "--outdir", "dist")
    run(sys.executable, "-m", "build", *options, ".", cwd=source)
    (built,) = (source / "dist").glob("heed_notes-*.whl")
    return built


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The interpreter of an environment of its own, which sees what is installed here."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    seen = [path for path in sys.path if path.endswith("site-packages")]
    lines = [f"import site; site.addsitedir({path!r})" for path in seen]
    (packages / "seen.pth").write_text("\n".join([*lines, str(ROOT)]) + "\n")
    return str(folder / "bin" / "python")


def test_it_imports_pluggy_and_the_standard_library_alone() -> None:
    tree = ast.parse((EXAMPLE / "heed_notes.py").read_text("utf-8"))
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
        )
    }
    assert "pluggy" in imported
    assert imported - {"pluggy", *sys.stdlib_module_names} == set()


def test_the_wheel_holds_the_module_and_its_entry_point(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
        (points,) = (name for name in names if name.endswith("entry_points.txt"))
        assert "notes = heed_notes" in opened.read(points).decode()
        assert "heed_notes.py" in names
        (metadata,) = (name for name in names if name.endswith("METADATA"))
        assert "Requires-Dist: pluggy>=1.7" in opened.read(metadata).decode()


def test_it_is_installed_listed_checked_and_tested(
    wheel: Path, source: Path, python: str, tmp_path: Path
) -> None:
    (tmp_path / "heed.toml").write_text(
        'home = "data"\nplugins_loaded = ["notes"]\n'
        '[[sources]]\nname = "office-notes"\nplugin = "notes"\noptions = { path = "notes" }\n'
    )
    heed = (python, "-m", "service.cli", "plugins")
    out = run(*heed, "install", str(wheel), "--no-index", "--quiet", cwd=tmp_path)
    assert "installed: notes" in out
    listed = run(*heed, "list", cwd=tmp_path)
    assert "source notes" in listed
    assert "0.1.0" in listed
    assert "ok  notes: source notes" in run(*heed, "check", cwd=tmp_path)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "parking.txt").write_text("Park behind the house.")
    synced = run(python, "-m", "service.cli", "sync", cwd=tmp_path)
    (line,) = (line for line in synced.splitlines() if "office-notes" in line)
    assert [cell.strip() for cell in line.split("│")[1:4]] == ["office-notes", "1", "0"]
    shutil.copytree(source / "tests", tmp_path / "tests")
    options = ("-q", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", str(tmp_path))
    told = run(python, "-m", "pytest", *options, "tests", cwd=tmp_path)
    assert " passed" in told
    assert int(told.split(" passed")[0].split()[-1]) >= 50
