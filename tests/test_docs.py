"""The documentation is true where a program can tell: settings, routes, commands, links."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
import typer
from litestar.routes import HTTPRoute

from plugins import contract, hookspecs
from service.cli import app as command_line
from service.web.openai_request import ChatRequest
from tests.deploy.facts import app_of, settings_names

ROOT = Path(__file__).parents[1]
OPERATING = ROOT / "docs" / "operating.md"


def pages() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    found = [ROOT / name for name in listed.stdout.splitlines() if "demo/company" not in name]
    return [path for path in found if path.is_file()]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def commands(group: typer.Typer, before: str = "heed") -> set[str]:
    """Every command as one types it."""
    command = typer.main.get_command(group)
    inner = getattr(command, "commands", {})
    names = set()
    for name, found in inner.items():
        deeper = getattr(found, "commands", None)
        names |= {f"{before} {name} {sub}" for sub in deeper} if deeper else {f"{before} {name}"}
    return names


def test_the_settings_page_says_what_the_settings_are() -> None:
    written = (ROOT / "docs" / "settings.md").read_text("utf-8")
    assert written == script("make_settings").page(), "run: python docs/make_settings.py"


def test_the_plugin_reference_says_what_the_contract_is() -> None:
    written = (ROOT / "docs" / "plugins-reference.md").read_text("utf-8")
    made = script("make_plugins_reference").page()
    assert written == made, "run: python docs/make_plugins_reference.py"


def test_every_part_of_the_contract_is_in_the_reference() -> None:
    page = (ROOT / "docs" / "plugins-reference.md").read_text("utf-8")
    hooks = {name for name in vars(hookspecs) if name.startswith("heed_")}
    assert set(re.findall(r"^- `(heed_\w+)\(", page, re.MULTILINE)) == hooks
    classes = {
        name
        for name, value in vars(contract).items()
        if isinstance(value, type) and value.__module__ == contract.__name__
    }
    assert classes - set(re.findall(r"^(?:### |- `)(\w+)", page, re.MULTILINE)) == set()


def test_every_setting_has_a_sentence() -> None:
    page = script("make_settings").page()
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert len(rows) > 30
    assert all(row.rstrip(" |").endswith((".", "above it")) for row in rows)


def routes_below(folder: Path, *prefixes: str) -> set[tuple[str, str]]:
    return {
        (method, re.sub(r":\w+}", "}", route.path))
        for route in app_of(folder).routes
        if isinstance(route, HTTPRoute) and route.path.startswith(prefixes)
        for method in route.methods - {"OPTIONS", "HEAD"}
    }


def test_the_api_page_has_every_route_and_no_other(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "http-api.md").read_text("utf-8")
    row = r"^\| `(GET|POST|PUT|PATCH|DELETE) (/[^`?\s]+)"
    told = set(re.findall(row, page, re.MULTILINE))
    assert told == routes_below(tmp_path, "/api", "/health")


def test_the_openai_page_has_every_route_and_every_parameter(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "api.md").read_text("utf-8")
    told = set(re.findall(r"^\| `(GET|POST) (/\S+)`", page, re.MULTILINE))
    assert told == routes_below(tmp_path, "/v1")
    table = page.split("## What is supported")[1].split("## What differs")[0]
    named = [
        name
        for row in re.findall(r"^\| (`.+?`) \|", table, re.MULTILINE)
        for name in row[1:-1].split("`, `")
    ]
    fields = set(ChatRequest.__struct_fields__)
    assert sorted(named) == sorted(fields - {"model"})


def test_the_operating_page_has_every_command_and_no_other() -> None:
    text = OPERATING.read_text("utf-8")
    told = set(re.findall(r"^\| `(heed [a-z -]*[a-z])", text, re.MULTILINE))
    assert told == commands(command_line)


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_settings_in_a_page_are_true_ones(page: Path) -> None:
    text = page.read_text("utf-8")
    known = commands(command_line)
    first = {name.split()[1] for name in known}
    typed = re.findall(r"(?:`|^|/)heed ([a-z][a-z-]+)", text, re.MULTILINE)
    assert set(typed) - first - {"heed"} == set()
    named = set(re.findall(r"\bHEED_[A-Z_]*[A-Z]\b", text))
    # Whoever runs Heed names their own secrets.
    secrets = {name for name in named if name.startswith("HEED_SECRET_")}
    assert named - secrets <= settings_names()


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_in_a_page_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, heading = target.partition("#")
        if re.match(r"\w+:", target):
            continue
        linked = (page.parent / path) if path else page
        assert linked.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.+)$", linked.read_text("utf-8"), re.MULTILINE)
            slugs = [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings]
            assert heading in slugs, target


def test_make_has_every_target_that_is_named() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named: set[str] = set()
    for page in pages():
        named |= set(re.findall(r"(?:`|^)make (\w+)", page.read_text("utf-8"), re.MULTILINE))
    assert {"demo", "test"} <= named <= targets
