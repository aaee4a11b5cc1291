"""The built-in plugins keep the contract, each with a line of its own."""

from __future__ import annotations

import importlib
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from plugins.cites_documents import CitesDocuments
from plugins.concise import Concise
from plugins.contract import Answer, Feedback, ShownPassage
from plugins.faq_csv import FaqCsv
from plugins.gold_similarity import GoldSimilarity
from plugins.grounded import Grounded
from plugins.length_band import LengthBand
from plugins.markdown_folder import MarkdownFolder
from plugins.pii import Pii
from plugins.refusal_when_unknown import RefusalWhenUnknown
from plugins.rerank_server import RerankServer
from plugins.testing import Place, plugin_tests, signal_tests, source_tests
from plugins.thumbs import Thumbs
from plugins.toxicity_or_pii import ToxicityOrPii
from plugins.webhook import Webhook

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
UP, DOWN = Feedback("thumb", 1), Feedback("thumb", -1)

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
TestCitesDocuments = signal_tests(
    CitesDocuments,
    better=(
        Answer("Where?", "Park behind the house [1].", PASSAGE),
        Answer("Where?", "Park behind the house [2].", PASSAGE),
    ),
    abstains=Answer("Where?", "Park behind the house [1]."),
)
TestGoldSimilarity = signal_tests(
    GoldSimilarity,
    better=(
        Answer("Where?", "Behind our house.", gold="Behind the house."),
        Answer("Where?", "Ask the porter.", gold="Behind the house."),
    ),
    abstains=Answer("Where?", "Behind the house."),
)
TestLengthBand = signal_tests(
    LengthBand,
    {"shortest": 2, "longest": 4},
    better=(Answer("Where?", "Behind the house."), Answer("Where?", "Behind.")),
)
TestRefusalWhenUnknown = signal_tests(
    RefusalWhenUnknown,
    better=(
        Answer("How much is a taxi?", "I don't know.", PASSAGE),
        Answer("How much is a taxi?", "It is ten dollars.", PASSAGE),
    ),
    abstains=Answer("How much is a taxi?", "", PASSAGE),
)
TestToxicityOrPii = signal_tests(
    ToxicityOrPii,
    {"region": "US"},
    better=(
        Answer("Who helps?", "Ask the help desk."),
        Answer("Who helps?", "Ask the idiot at the help desk."),
    ),
    abstains=Answer("Who helps?", " "),
)
TestThumbs = signal_tests(
    Thumbs,
    better=(
        Answer("Where?", "Behind the house.", feedback=(UP, UP, DOWN)),
        Answer("Where?", "Behind the house.", feedback=(DOWN,)),
    ),
    abstains=Answer("Where?", "Behind the house."),
)
TestPii = plugin_tests(Pii, "heed_redactors")
TestWebhook = plugin_tests(Webhook, "heed_observers")
TestRerankServer = plugin_tests(RerankServer, "heed_rerankers")


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
