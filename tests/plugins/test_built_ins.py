"""The built-in plugins keep the contract, each with a line of its own."""

from __future__ import annotations

import importlib
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from plugins.concise import Concise
from plugins.contract import Answer, ShownPassage
from plugins.faq_csv import FaqCsv
from plugins.grounded import Grounded
from plugins.markdown_folder import MarkdownFolder
from plugins.testing import Place, signal_tests, source_tests

ROOT = Path(__file__).parents[2]
CALLS = {
    "heed_data_sources": "source_tests",
    "heed_reward_signals": "signal_tests",
    "heed_observers": "plugin_tests",
    "heed_redactors": "plugin_tests",
    "heed_rerankers": "plugin_tests",
}


class Faq(Place):
    """Three rows of a CSV file."""

    wrong: ClassVar[Sequence[Mapping[str, Any]]] = ({"delimiter": ";;"}, {"delimiter": '"'})

    def settings(self) -> Mapping[str, Any]:
        self.file = self.folder / "faq.csv"
        self.rows = {f"r{n}": f"It stands in row {n}." for n in range(3)}
        self.write()
        return {"path": str(self.file)}

    def write(self) -> None:
        lines = [f'{key},"What is {key}?","{answer}"' for key, answer in self.rows.items()]
        self.file.write_text("\n".join(["id,question,answer", *lines]), "utf-8")

    def add(self, text: str) -> str:
        return self._with(f"r{len(self.rows)}", text)

    def change(self) -> str:
        return self._with("r1", "It stands here now.")

    def remove(self) -> str:
        del self.rows["r1"]
        self.write()
        return "r1"

    def empty(self) -> None:
        self.rows = {}
        self.write()

    def spoil(self) -> None:
        self._with("r1", "")

    def take_away(self) -> None:
        self.file.unlink()

    def recover(self) -> None:
        self.write()

    def _with(self, key: str, answer: str) -> str:
        self.rows[key] = answer
        self.write()
        return key


class Handbook(Place):
    """Three pages, one of which asks a question."""

    wrong: ClassVar[Sequence[Mapping[str, Any]]] = ({"pattern": "../*.md"}, {"pattern": ""})

    def settings(self) -> Mapping[str, Any]:
        self.pages = self.folder / "handbook"
        self.pages.mkdir()
        for number in range(3):
            self.add(f"This is page {number}.")
        answer = "Behind the house, on the left, and never in front of the gate."
        self.add(f"## Where do I park?\n\n{answer}")
        return {"path": str(self.pages)}

    def add(self, text: str) -> str:
        return self._write(f"page-{len(list(self.pages.iterdir()))}.md", text)

    def change(self) -> str:
        return self._write("page-1.md", "This is another page.")

    def remove(self) -> str:
        (self.pages / "page-1.md").unlink()
        return "page-1.md"

    def empty(self) -> None:
        for page in self.pages.iterdir():
            page.unlink()

    def spoil(self) -> None:
        (self.pages / "page-1.md").write_bytes(b"\xff\xfe\x00")

    def take_away(self) -> None:
        self.pages.rename(self.folder / "away")

    def recover(self) -> None:
        (self.folder / "away").rename(self.pages)

    def _write(self, name: str, text: str) -> str:
        (self.pages / name).write_text(f"# A page\n\n{text}\n", "utf-8")
        return name


PASSAGE = (ShownPassage("Parking", "Park behind the house."),)

TestFaqCsv = source_tests(FaqCsv, Faq)
TestMarkdownFolder = source_tests(MarkdownFolder, Handbook)
TestConcise = signal_tests(
    Concise,
    {"words": 3},
    better=(Answer("Where?", "Behind the house."), Answer("Where?", "Behind " * 9)),
    abstains=Answer("Where?", ""),
)
TestGrounded = signal_tests(
    Grounded,
    better=(
        Answer("Where?", "Behind the house.", PASSAGE),
        Answer("Where?", "Upon a mountain.", PASSAGE),
    ),
    abstains=Answer("Where?", "Behind the house."),
)


def built_in_classes() -> dict[str, tuple[str, ...]]:
    """The names of the classes of each built-in module, by hook."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    found: dict[str, tuple[str, ...]] = {}
    for target in project["entry-points"]["heed"].values():
        module = importlib.import_module(target)
        for hook in CALLS:
            classes = getattr(module, hook, tuple)()
            found[hook] = (*found.get(hook, ()), *(cls.__name__ for cls in classes))
    return found


@pytest.mark.parametrize("hook", CALLS)
def test_every_built_in_plugin_is_held_to_the_contract(hook: str) -> None:
    tests = "\n".join(file.read_text("utf-8") for file in Path(__file__).parent.glob("test_*.py"))
    held = set(re.findall(rf"\b{CALLS[hook]}\(\s*(\w+)", tests))
    assert set(built_in_classes().get(hook, ())) - held == set()
