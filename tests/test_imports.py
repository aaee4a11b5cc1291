"""Who may import whom, and that looking at the service does not load torch."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_engine import PolicyVersionFolder
from tests.tiny import tiny_base
from tests.versions import write_adapter

ROOT = Path(__file__).parents[1]
HEAVY = (
    *("torch", "transformers", "peft", "trl", "accelerate", "datasets", "scipy", "matplotlib"),
    *("sklearn", "pandas", "evalica"),
)
UNUSED_IN_SERVICE = {"trl", "datasets", "matplotlib", "sklearn", "pandas", "evalica"}

ENGINE_ALONE = "The engine knows neither the service nor the plugins nor their libraries"
PLUGINS_ALONE = "Plugins know only the contract and their own client library"
PLUGINS_APART = "Built-in plugins do not know one another"
CONTRACT_ALONE = "The contract knows no plugin"
NO_PYTEST = "Only tests of plugins need pytest"
TORCH = "Torch and its libraries live in the engine"
APSCHEDULER = "APScheduler lives in one file"
LITESTAR = "Litestar lives in service.app and service.web"

VIOLATIONS = [
    ("rlhf_engine/gate.py", "import service.errors", ENGINE_ALONE),
    ("rlhf_engine/gate.py", "import plugins.contract", ENGINE_ALONE),
    ("rlhf_engine/gate.py", "import litestar", ENGINE_ALONE),
    ("rlhf_engine/gate.py", "import sqlmodel", ENGINE_ALONE),
    ("rlhf_engine/gate.py", "import apscheduler.job", ENGINE_ALONE),
    ("rlhf_engine/gate.py", "import pluggy", ENGINE_ALONE),
    ("plugins/faq_csv.py", "import service.errors", PLUGINS_ALONE),
    ("plugins/faq_csv.py", "from rlhf_engine.records import Prompt", PLUGINS_ALONE),
    ("plugins/contract.py", "import torch", PLUGINS_ALONE),
    ("plugins/faq_csv.py", "import plugins.concise", PLUGINS_APART),
    ("plugins/contract.py", "import plugins.grounded", CONTRACT_ALONE),
    ("service/plugin_check.py", "import plugins.testing", NO_PYTEST),
    ("plugins/conformance/checking.py", "import pytest", NO_PYTEST),
    ("service/training.py", "import torch", TORCH),
    ("service/worker.py", "from transformers import AutoTokenizer", TORCH),
    ("service/training.py", "from apscheduler.job import Job", APSCHEDULER),
    ("service/app.py", "import apscheduler", APSCHEDULER),
    ("service/answering.py", "from litestar import Request", LITESTAR),
]


def loaded_after(statement: str) -> set[str]:
    """Names of the heavy packages that a fresh interpreter has loaded after a statement."""
    script = f"import sys; {statement}; print(*[n for n in {HEAVY} if n in sys.modules])"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_importing_the_app_leaves_torch_unloaded() -> None:
    assert loaded_after("import service.app") == set()


def test_the_commands_help_leaves_torch_unloaded() -> None:
    assert loaded_after("from service.cli import main; main(['--help'])") == set()


def test_a_demonstration_up_to_its_server_leaves_torch_unloaded(tmp_path: Path) -> None:
    """The demonstration's own process stays to the end, beside the server and the training."""
    base = tiny_base(tmp_path / "base")
    statement = (
        "from pathlib import Path; from service.demo.run import Demo, Options; import os; "
        f"os.environ['HEED_BASE_POLICY'] = {str(base)!r}; "
        f"Demo(Options(home=Path({str(tmp_path / 'home')!r}))).prepare(); "
        "from service.demo.voter import vote; vote(('At nine.', 'At ten.'), 'At nine.', 'seed')"
    )
    assert loaded_after(statement) == set()
    assert (tmp_path / "home" / "demo" / "speed.out.json").exists()


@pytest.mark.parametrize("command", ["check", "sync", "fetch-base", "export preference out.jsonl"])
def test_commands_that_do_not_train_leave_torch_unloaded(tmp_path: Path, command: str) -> None:
    (tmp_path / "gold.csv").write_text("question,answer\nWhen?,At nine.\n")
    (tmp_path / "heed.toml").write_text(
        f"base_policy = {json.dumps(str(tiny_base(tmp_path / 'base')))}\n"
        '[[sources]]\nname = "gold"\nplugin = "faq_csv"\noptions = { path = "gold.csv" }\n'
    )
    statement = (
        f"import os; os.chdir({str(tmp_path)!r}); from service.cli import main; "
        f"assert main(['sync']) == 0; assert main({command.split()!r}) in (0, 3)"
    )
    assert loaded_after(statement) == set()


@pytest.mark.parametrize(("kind", "more"), [("base", {"peft"}), ("adapter", set())])
def test_an_engine_loads_only_what_answers_need(tmp_path: Path, kind: str, more: set[str]) -> None:
    """A server is ready the sooner."""
    base = tiny_base(tmp_path / "base")
    adapter = write_adapter(base, tmp_path / "adapter", 1) if kind == "adapter" else None
    version = PolicyVersionFolder.store(adapter, base, tmp_path / "policies", {}).path
    statement = (
        "import rlhf_engine; from pathlib import Path; from service import smoke; "
        f"base = Path({str(base)!r}); folder = Path({str(version)!r}); "
        "engine = rlhf_engine.TorchEngine(base, 'float32', threads=1); engine.start(); "
        "version = engine.load(rlhf_engine.PolicyVersionFolder.open(folder, base)); "
        "smoke.try_out(engine, version, 384); engine.stop()"
    )
    loaded = loaded_after(statement)
    assert {"torch", "transformers"} <= loaded
    assert not loaded & (UNUSED_IN_SERVICE | more)


def test_a_server_with_its_engine_in_another_process_leaves_torch_unloaded(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    adapter = write_adapter(base, tmp_path / "adapter", 1)
    version = PolicyVersionFolder.store(adapter, base, tmp_path / "policies", {}).path
    statement = (
        "import rlhf_engine; from pathlib import Path; from service import app, smoke; "
        "from service.process_engine import ProcessEngine; "
        f"base = rlhf_engine.fetch_base({str(base)!r}, Path('unused'), check=False); "
        f"folder = Path({str(version)!r}); "
        "engine = ProcessEngine(base, 'float32', threads=1); engine.start(); "
        "version = engine.load(rlhf_engine.PolicyVersionFolder.open(folder, base)); "
        "smoke.try_out(engine, version, 384); "
        "assert engine.count_prompt_tokens(rlhf_engine.Prompt('', 'Who?'), None) > 3; "
        "engine.stop()"
    )
    assert loaded_after(statement) == set()


def test_the_measure_sees_torch_where_it_is_loaded() -> None:
    assert "torch" in loaded_after("import torch")


def lint_imports(folder: Path) -> str:
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [str(program), "--no-cache"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the packages, to be broken."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for name in ("service", "plugins", "rlhf_engine"):
        ignored = shutil.ignore_patterns("__pycache__", "company", "static")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    return tmp_path


@pytest.mark.parametrize(("file", "line", "contract"), VIOLATIONS)
def test_a_forbidden_import_breaks_its_contract(
    copied: Path, file: str, line: str, contract: str
) -> None:
    assert f"{contract} KEPT" in lint_imports(copied)
    with (copied / file).open("a", encoding="utf-8") as broken:
        broken.write(f"\n{line}\n")
    assert f"{contract} BROKEN" in lint_imports(copied)


@pytest.mark.parametrize("name", ["contract", "hookspecs"])
def test_the_plugin_contract_needs_pluggy_and_the_standard_library_alone(name: str) -> None:
    tree = ast.parse((ROOT / "plugins" / f"{name}.py").read_text("utf-8"))
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            imported.add(node.module or "")
    assert imported
    allowed = {*sys.stdlib_module_names, "pluggy"}
    assert {
        module for module in imported - {"plugins.contract"} if module.split(".")[0] not in allowed
    } == set()
