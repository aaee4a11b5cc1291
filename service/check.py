"""Looks at everything Heed rests on and says what to mend; changes nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from sqlmodel import Session

import rlhf_engine
from service.database import open_database, schema_state, session
from service.errors import HeedError
from service.plugin_host import PluginHost
from service.run_plan import live_folder, plan_from
from service.settings import Settings

State = Literal["fine", "note", "wrong"]

LEAST_FREE_GB = 3.0
"""The base policy, a run's checkpoints and the stored policies fit into this."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. "wrong" keeps Heed from working, a "note" does not."""

    area: str
    state: State
    text: str


def check(settings: Settings) -> list[Finding]:
    """Every finding, each area looked at even where another is wrong."""
    findings: list[Finding] = []
    areas: dict[str, Callable[[Settings], Iterator[Finding]]] = {
        "settings": _settings,
        "folder": _folder,
        "database": _database,
        "base policy": _base_policy,
        "embeddings": _embeddings,
        "plugins": _plugins,
    }
    for area, look in areas.items():
        try:
            findings.extend(look(settings))
        except (HeedError, rlhf_engine.EngineError, OSError) as error:
            findings.append(Finding(area, "wrong", str(error)))
    return findings


def _settings(settings: Settings) -> Iterator[Finding]:
    plan_from(settings, {}, base="")
    # Imported here: the scheduler's library is not needed by the rest.
    from service.scheduler import cron

    schedules = {
        "sync_schedule": settings.sync_schedule,
        "training.schedule": settings.training.schedule,
        "cleanup_schedule": settings.cleanup_schedule,
    }
    for name, expression in schedules.items():
        if expression:
            cron(name, expression)
    yield Finding("settings", "fine", "every value is in its range")
    if not settings.sources:
        yield Finding(
            "settings",
            "note",
            "no data source is set, so answers rest on nothing: add [[sources]] to heed.toml",
        )


def _folder(settings: Settings) -> Iterator[Finding]:
    place = settings.home.resolve()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / 1e9
    if free < LEAST_FREE_GB:
        text = f"{free:.1f} GB are free at {place}; at least {LEAST_FREE_GB:.0f} are needed"
        yield Finding("folder", "wrong", text)
    else:
        yield Finding("folder", "fine", f"{settings.home} with {free:.0f} GB free")


def _database(settings: Settings) -> Iterator[Finding]:
    if settings.database.startswith("sqlite:///"):
        path = Path(settings.database.removeprefix("sqlite:///"))
        if not path.exists():
            yield Finding("database", "note", f"{path} is not there yet; heed serve makes it")
            return
    engine = open_database(settings.database)
    try:
        shown = engine.url.render_as_string(hide_password=True)
        state = schema_state(engine)
        if state == "ahead":
            text = f"{shown} was written by a newer Heed; install that version or restore a backup"
            yield Finding("database", "wrong", text)
        elif state == "current":
            yield Finding("database", "fine", f"{shown}, tables are of this version")
            with session(engine) as opened:
                yield from _live_policy(opened, settings)
        else:
            text = f"{shown}, tables are {state}; heed serve brings them up to date"
            yield Finding("database", "note", text)
    finally:
        engine.dispose()


def _live_policy(opened: Session, settings: Settings) -> Iterator[Finding]:
    folder = live_folder(opened, settings)
    if folder is not None and not folder.is_dir():
        text = (
            f"the live policy's folder {folder} is missing; restore it from the backup "
            "or go back with heed rollback"
        )
        yield Finding("policies", "wrong", text)


def _base_policy(settings: Settings) -> Iterator[Finding]:
    if Path(settings.base_policy).is_dir():
        info = rlhf_engine.check_base(Path(settings.base_policy))
        yield Finding("base policy", "fine", f"{info.name}, {info.layers} layers")
        return
    cached = sorted(settings.base_cache.glob("*/manifest.json"))
    if not cached:
        yield Finding(
            "base policy",
            "note",
            f"{settings.base_policy} is not fetched yet; heed fetch-base gets it",
        )
    for manifest in cached:
        info = rlhf_engine.check_base(manifest.parent)
        yield Finding("base policy", "fine", f"{info.name}, {info.layers} layers, cached")


def _embeddings(settings: Settings) -> Iterator[Finding]:
    folder = settings.retrieval.embeddings
    if folder is not None:
        rlhf_engine.check_sentence_model(folder)
        yield Finding("embeddings", "fine", f"{folder} holds a sentence-embedding model")


def _plugins(settings: Settings) -> Iterator[Finding]:
    host = PluginHost.load(settings)
    for plugin in host.plugins():
        if plugin.error is None:
            text = f"{plugin.name} {plugin.version}: {', '.join(plugin.hooks)}"
            yield Finding("plugins", "fine", text)
        else:
            yield Finding("plugins", "wrong", f"{plugin.name}: {plugin.error}")
    for source in settings.sources:
        yield _made(f"source {source.name}", partial(host.data_source, source))
    for signal in settings.signals:
        yield _made(f"signal {signal.name}", partial(host.reward_signals, (signal,)))
    for kind, entries in (
        ("observer", settings.observers),
        ("redactor", settings.redactors),
        ("reranker", settings.rerankers),
    ):
        for entry in entries:
            yield _made(f"{kind} {entry.name}", partial(getattr(host, kind), entry))


def _made(what: str, make: Callable[[], object]) -> Finding:
    try:
        make()
    except HeedError as error:
        return Finding("plugins", "wrong", str(error))
    return Finding("plugins", "fine", f"{what} is ready")
