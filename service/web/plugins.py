"""Plugins over HTTP, for operators: what each brings, how it is doing, switching it off and on."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import msgspec
from litestar import get, post
from litestar.params import FromPath, JSONBody

from service import plugin_state
from service.database import session
from service.errors import NotFoundError
from service.plugin_host import PluginInfo
from service.plugin_settings import sources_in_use
from service.plugin_tables import PluginState
from service.settings import Settings
from service.web.parts import GivenParts, Parts
from service.web.rights import needs
from service.web.sessions import GivenPerson

KINDS = {
    "heed_data_sources": "source",
    "heed_reward_signals": "signal",
    "heed_observers": "observer",
    "heed_redactors": "redactor",
    "heed_rerankers": "reranker",
}
ADVICE: Any = {
    "tags": ["Plugins"],
    "sync_to_thread": True,
    "security": needs("operator", "operate"),
}


class Brought(msgspec.Struct):
    """A class that a plugin brings: its kind ("source", "signal", "observer", "redactor" or
    "reranker"), the name that settings give, and what it does."""

    kind: str
    name: str
    help: str


class PluginEntry(msgspec.Struct):
    """A plugin and how it is doing since it was first used. `origin` is "built-in", "installed"
    or "file" (of the folder of plugins); `error` says why it cannot be loaded. Times are in
    seconds, memory in megabytes; `used_by` are the settings that use it."""

    name: str
    version: str
    origin: Literal["built-in", "installed", "file"]
    brings: list[Brought]
    used_by: list[str]
    error: str | None
    on: bool
    off_reason: str | None
    switched_by: str | None
    switched_at: datetime | None
    calls: int
    failures: int
    failures_in_a_row: int
    mean_s: float | None
    slowest_s: float
    slowest_call: str | None
    peak_mb: int
    called_at: datetime | None
    last_error: str | None
    failed_at: datetime | None


class Plugins(msgspec.Struct):
    """Every plugin, the folder whose files are plugins, and the failures in a row after which one
    is switched off."""

    plugins: list[PluginEntry]
    folder: str
    most_failures: int


class Switch(msgspec.Struct, forbid_unknown_fields=True):
    """Whether the plugin is to be used."""

    on: bool


@get("/api/plugins", **ADVICE)
def list_plugins(operator: GivenPerson, parts: GivenParts) -> Plugins:  # noqa: ARG001 - the role is asked for
    """Every plugin and how it is doing."""
    return Plugins(
        _entries(parts),
        str(parts.settings.plugins_folder.resolve()),
        parts.settings.plugin_limits.failures,
    )


@post("/api/plugins/{name:str}/switch", status_code=200, **ADVICE)
def switch(
    operator: GivenPerson, parts: GivenParts, name: FromPath[str], data: JSONBody[Switch]
) -> PluginEntry:
    """Switch a plugin off or on; its sources, signals and so on are then left out, or used
    again."""
    if all(info.name != name for info in parts.sources.host().plugins()):
        raise NotFoundError(f"there is no plugin {name!r}")
    with session(parts.database) as opened:
        plugin_state.switch(opened, name, data.on, operator)
    return next(entry for entry in _entries(parts) if entry.name == name)


def _entries(parts: Parts) -> list[PluginEntry]:
    infos = parts.sources.host().plugins()
    with session(parts.database) as opened:
        states = plugin_state.states(opened)
        sources = [source.settings for source in sources_in_use(opened, parts.settings)]
    used = [("source", entry.plugin, entry.name) for entry in sources]
    used += _used(parts.settings)
    return [
        _entry(info, states.get(info.name) or PluginState(name=info.name), used) for info in infos
    ]


def _used(settings: Settings) -> list[tuple[str, str, str]]:
    kinds = {
        "signal": settings.signals,
        "observer": settings.observers,
        "redactor": settings.redactors,
        "reranker": settings.rerankers,
    }
    return [(kind, one.plugin, one.name) for kind, entries in kinds.items() for one in entries]


def _entry(info: PluginInfo, state: PluginState, used: list[tuple[str, str, str]]) -> PluginEntry:
    brings = [Brought(KINDS[one.hook], one.name, one.help) for one in info.classes]
    known = {(one.kind, one.name) for one in brings}
    installed: Literal["installed", "file"] = (
        "file" if info.target.startswith("file:") else "installed"
    )
    return PluginEntry(
        name=info.name,
        version=info.version,
        origin="built-in" if info.built_in else installed,
        brings=brings,
        used_by=[f"{kind} {name}" for kind, plugin, name in used if (kind, plugin) in known],
        error=info.error,
        on=state.is_on,
        off_reason=state.off_reason,
        switched_by=state.switched_by,
        switched_at=state.switched_at,
        calls=state.calls,
        failures=state.failures,
        failures_in_a_row=state.failures_in_a_row,
        mean_s=state.seconds / state.calls if state.calls else None,
        slowest_s=state.slowest_s,
        slowest_call=state.slowest_call,
        peak_mb=state.peak_mb,
        called_at=state.called_at,
        last_error=state.last_error,
        failed_at=state.failed_at,
    )
