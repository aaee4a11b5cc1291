"""A source that keeps every promise of the contract, and a place that can do everything."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

import pluggy
from pydantic import BaseModel, Field, SecretStr

from plugins.contract import (
    Checkpoint,
    Complete,
    Document,
    GoldPair,
    Item,
    Question,
    Rejected,
    RetryLater,
    SecretError,
    SourceError,
)
from plugins.testing import Place

hookimpl = pluggy.HookimplMarker("heed")
TOKEN = "xyzzy-4711"


class Wiki:
    """Reads a wiki that lies in one file. Asks for its entries page by page."""

    name = "wiki"

    class Settings(BaseModel):
        path: Path = Field(description="The file.")
        token: SecretStr = Field(description="The token that the wiki wants.")
        page: int = Field(2, ge=1, description="Entries a page.")

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def items(self, cursor: Mapping[str, Any]) -> Iterator[Any]:
        after = cursor.get("after", "")
        while page := self.page_after(after):
            yield from map(self.entry, page)
            after = page[-1]["id"]
            yield Checkpoint({"after": after})
        yield Complete({"synced": True})

    def page_after(self, after: str) -> list[dict[str, Any]]:
        entries = sorted(self.asked()["entries"].values(), key=lambda entry: str(entry["id"]))
        return [entry for entry in entries if entry["id"] > after][: self.settings.page]

    def entry(self, found: dict[str, Any]) -> Item:
        if not found["text"]:
            return Rejected(found["id"], "has no text")
        if found["kind"] == "pair":
            return GoldPair(found["id"], found["title"], found["text"])
        if found["kind"] == "question":
            return Question(found["id"], found["text"])
        return Document(
            found["id"],
            found["title"],
            found["text"],
            f"https://wiki.example/{found['id']}",
            datetime.fromisoformat(found["updated"]),
            tuple(found["readers"]),
        )

    def asked(self) -> dict[str, Any]:
        try:
            wiki: dict[str, Any] = json.loads(self.settings.path.read_text("utf-8"))
        except OSError as error:
            raise SourceError(f"{self.settings.path} cannot be read; check the path") from error
        if wiki["wait"]:
            raise RetryLater(wiki["wait"], "the wiki asks to wait")
        if wiki["token"] != self.settings.token.get_secret_value():
            raise SecretError("the wiki takes the token no more; make a new one and set it")
        return wiki

    def check(self) -> str:
        return f"The wiki has {len(self.asked()['entries'])} entries."


@hookimpl
def heed_data_sources() -> list[type]:
    return [Wiki]


class WikiPlace(Place):
    """A wiki of seven entries in three pages and a half."""

    wrong: ClassVar[list[Mapping[str, Any]]] = [{"page": 0}]

    @property
    def file(self) -> Path:
        return self.folder / "wiki.json"

    def settings(self) -> Mapping[str, Any]:
        kinds = ("document", "pair", "question", "document", "document", "pair", "document")
        entries = {f"e{n}": entry(f"e{n}", kind) for n, kind in enumerate(kinds)}
        self.write({"entries": entries, "token": TOKEN, "wait": 0})
        return {"path": str(self.file), "token": TOKEN}

    def read(self) -> dict[str, Any]:
        wiki: dict[str, Any] = json.loads(self.file.read_text("utf-8"))
        return wiki

    def write(self, wiki: Mapping[str, Any]) -> None:
        self.file.write_text(json.dumps(wiki), "utf-8")

    def add(self, text: str) -> str:
        wiki = self.read()
        identity = f"f{len(wiki['entries'])}"
        wiki["entries"][identity] = {**entry(identity), "text": text}
        self.write(wiki)
        return identity

    def change(self) -> str:
        return self._with("e3", text="Now this.")

    def remove(self) -> str:
        wiki = self.read()
        del wiki["entries"]["e3"]
        self.write(wiki)
        return "e3"

    def empty(self) -> None:
        self.write({**self.read(), "entries": {}})

    def spoil(self) -> None:
        self._with("e3", text="")

    def restrict(self) -> tuple[str, tuple[str, ...]]:
        readers = ("group:works council", "person:ada")
        return self._with("e3", readers=readers), readers

    def take_away(self) -> None:
        self.file.rename(self.file.with_suffix(".away"))

    def throttle(self, seconds: int) -> None:
        self.write({**self.read(), "wait": seconds})

    def expire(self) -> None:
        self.write({**self.read(), "token": "another"})

    def recover(self) -> None:
        if not self.file.exists():
            self.file.with_suffix(".away").rename(self.file)
        self.write({**self.read(), "wait": 0, "token": TOKEN})

    def _with(self, identity: str, **values: Any) -> str:
        wiki = self.read()
        wiki["entries"][identity].update(values)
        self.write(wiki)
        return identity


def entry(identity: str, kind: str = "document") -> dict[str, Any]:
    return {
        "id": identity,
        "kind": kind,
        "title": f"Title of {identity}?",
        "text": f"What stands in {identity}.",
        "updated": "2026-03-01T12:00:00+00:00",
        "readers": ["everyone"],
    }
