"""A small real plugin whose items a test chooses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from sqlalchemy import Engine

from plugins.contract import Complete, Cursor, Document, Item
from plugins.hookspecs import hookimpl
from service.plugin_host import PluginHost
from service.settings import SourceSettings
from service.sync import sync_source
from service.tables import SyncReport


@dataclass
class ShelfSettings:
    """An option that tells two places apart."""

    path: str = ""


class Shelf:
    """A data source that yields `contents`; an exception among them is raised there."""

    def __init__(self) -> None:
        self.contents: list[Item | Exception] = []
        self.cursors: list[Cursor] = []
        self.host = PluginHost()
        module = ModuleType("shelf")
        module.__dict__["heed_data_sources"] = self._hook()
        self.host.register("shelf", module)

    def items(self, cursor: Cursor) -> Iterable[Item]:
        """The contents, one by one."""
        self.cursors.append(cursor)
        for item in self.contents:
            if isinstance(item, Exception):
                raise item
            yield item

    def sync(
        self,
        engine: Engine,
        *contents: Item | Exception,
        name: str = "shelf",
        **settings: Any,
    ) -> SyncReport:
        """Sync these contents."""
        self.contents = list(contents)
        source = SourceSettings(name=name, plugin="shelf", **settings)
        return sync_source(engine, self.host, source)

    def _hook(self) -> Any:
        shelf = self

        class Source:
            """A shelf."""

            name = "shelf"
            Settings = ShelfSettings

            def __init__(self, settings: ShelfSettings) -> None:
                pass

            def items(self, cursor: Cursor) -> Iterable[Item]:
                return shelf.items(cursor)

        return hookimpl(lambda: (Source,), specname="heed_data_sources")


def store(engine: Engine, *texts: str, readers: tuple[str, ...] = ("everyone",)) -> None:
    """Store documents of a source of their own, titled "page 0" and so on."""
    pages = [Document(str(n), f"page {n}", text, readers=readers) for n, text in enumerate(texts)]
    name = "-".join(readers).lower().replace(":", "-").replace(" ", "-")
    report = Shelf().sync(engine, *pages, Complete(), name=name)
    assert report.error is None
    assert report.rejected == []
