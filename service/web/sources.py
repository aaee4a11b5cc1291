"""Data sources over HTTP, for operators: how they are, trying, making, changing, syncing them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import msgspec
from litestar import delete, get, post, put
from litestar.params import FromPath, JSONBody
from sqlmodel import Session

from plugins import contract
from service import audit, plugin_settings, source_desk
from service.database import session
from service.errors import ConflictError, NotFoundError
from service.plugin_calls import PluginClass
from service.plugin_host import SOURCES
from service.plugin_settings import Configured, sources_in_use
from service.scheduler import next_sync
from service.secrets_of_options import masked
from service.settings import SourceSettings
from service.sync_reports import goes_on
from service.tables import SyncReport
from service.web.parts import GivenParts, Parts
from service.web.rights import needs
from service.web.sessions import GivenPerson

REJECTED_IN_LIST = 5
REPORTS = 10
ADVICE: Any = {
    "tags": ["Sources"],
    "sync_to_thread": True,
    "security": needs("operator", "operate"),
}


class OptionEntry(msgspec.Struct):
    """An option as a form asks for it; `kind` is "text", "path", "number" (a whole one),
    "decimal", "switch", "secret", "choice" (one of `choices`) or "lines" (a list of texts)."""

    name: str
    help: str
    kind: str
    default: Any
    required: bool
    choices: list[str]


class PluginEntry(msgspec.Struct):
    """An installed plugin that reads sources; `help` is a sentence on what it reads."""

    name: str
    help: str
    options: list[OptionEntry]


class Rejected(msgspec.Struct):
    """An item that could not be used, and why."""

    where: str
    reason: str


class Report(msgspec.Struct):
    """What a sync did, or has done so far; `waiting` says why it waits for the source. `rejected`
    holds the first few in a list of sources, the first 1,000 in a source's own."""

    started_at: datetime
    finished_at: datetime | None
    added: int
    changed: int
    removed: int
    unchanged: int
    error: str | None
    rejected_count: int
    rejected: list[Rejected]
    waiting: str | None


class Source(msgspec.Struct):
    """A source and how it is. `origin` is "file" (read-only here), "page", or "gone" where it is
    no longer in use, but what it brought is. `status` is "new", "syncing", "fine" or "failed".
    Secrets in `options` are masked; give `generation` back to change it."""

    name: str
    plugin: str
    purpose: str
    origin: Literal["file", "page", "gone"]
    status: Literal["new", "syncing", "fine", "failed"]
    options: dict[str, Any]
    generation: int
    documents: int
    gold_answers: int
    questions: int
    read_so_far: int | None
    report: Report | None
    changed_by: str | None = None
    changed_at: datetime | None = None


class Sources(msgspec.Struct):
    """All sources, the plugins that can read one, and when all are synced next."""

    sources: list[Source]
    plugins: list[PluginEntry]
    schedule: str | None
    next_sync: datetime | None
    path_folders: list[str]


class SourceDetail(msgspec.Struct):
    """A source with its newest reports in full."""

    source: Source
    reports: list[Report]


class NewSource(msgspec.Struct, forbid_unknown_fields=True):
    """A source to make or try."""

    name: str
    plugin: str
    options: dict[str, Any]
    purpose: Literal["training", "evaluation"] = "training"


class ChangedSource(msgspec.Struct, forbid_unknown_fields=True):
    """Other settings of a source; `generation` is that of the settings they were made from."""

    plugin: str
    options: dict[str, Any]
    generation: int
    purpose: Literal["training", "evaluation"] = "training"


class Record(msgspec.Struct):
    """A record as a source brings it: a document with its text, or a gold pair with its answer;
    a long text is cut."""

    kind: Literal["document", "gold pair"]
    id: str
    title: str
    text: str
    url: str | None
    readers: list[str]


class Looked(msgspec.Struct):
    """What a source brings, not stored; `error` says why it cannot be read."""

    error: str | None
    records: list[Record]
    rejected: list[Rejected]


@get("/api/sources", **ADVICE)
def list_sources(operator: GivenPerson, parts: GivenParts) -> Sources:  # noqa: ARG001 - the role is asked for
    """Every source with its status and last report."""
    host = parts.sources.host()
    with session(parts.database) as opened:
        used = sources_in_use(opened, parts.settings)
        listed = [_source(opened, parts, source, REJECTED_IN_LIST) for source in used]
        names = {source.settings.name for source in used}
        listed += [_gone(opened, name) for name in source_desk.left_behind(opened, names)]
    folders = (*parts.settings.source_folders, parts.settings.home / "sources")
    return Sources(
        listed,
        [_plugin_entry(found) for found in host.named(SOURCES)],
        parts.settings.sync_schedule,
        next_sync(parts.settings),
        [str(folder.resolve()) for folder in folders],
    )


@get("/api/sources/{name:str}", **ADVICE)
def show_source(operator: GivenPerson, parts: GivenParts, name: FromPath[str]) -> SourceDetail:  # noqa: ARG001 - as above
    """One source, and what its last syncs did, with everything that was rejected."""
    with session(parts.database) as opened:
        held = source_desk.holdings(opened, name, REPORTS)
        try:
            found = plugin_settings.find_source(opened, parts.settings, name)
            source = _source(opened, parts, found, REJECTED_IN_LIST)
        except NotFoundError:
            if held.source_id is None:
                raise
            source = _gone(opened, name)
    return SourceDetail(source, [_report(report, None) for report in held.reports])


@post("/api/preview-source", status_code=200, **ADVICE)
def preview(operator: GivenPerson, parts: GivenParts, data: JSONBody[NewSource]) -> Looked:  # noqa: ARG001 - as above
    """Try a source with these settings: its first records, nothing is stored."""
    return _looked(parts, _checked(parts, data.name, data))


@post("/api/sources/{name:str}/preview", status_code=200, **ADVICE)
def preview_known(operator: GivenPerson, parts: GivenParts, name: FromPath[str]) -> Looked:  # noqa: ARG001 - as above
    """Try a source as it is set: its first records, nothing is stored."""
    with session(parts.database) as opened:
        found = plugin_settings.find_source(opened, parts.settings, name)
    return _looked(parts, found.settings)


@post("/api/sources", **ADVICE)
def make_source(operator: GivenPerson, parts: GivenParts, data: JSONBody[NewSource]) -> Source:
    """Make a source; it is read at the next sync."""
    source = _checked(parts, data.name, data)
    with session(parts.database) as opened:
        plugin_settings.make_source(opened, parts.settings, source, operator)
        audit.record(opened, operator, "source.made", f"source:{source.name}")
        found = plugin_settings.find_source(opened, parts.settings, source.name)
        return _source(opened, parts, found, 0)


@put("/api/sources/{name:str}/settings", **ADVICE)
def change_source(
    operator: GivenPerson, parts: GivenParts, name: FromPath[str], data: JSONBody[ChangedSource]
) -> Source:
    """Change a source that was made on the page."""
    source = _checked(parts, name, data)
    with session(parts.database) as opened:
        plugin_settings.change_source(opened, parts.settings, source, data.generation, operator)
        audit.record(opened, operator, "source.changed", f"source:{name}")
        found = plugin_settings.find_source(opened, parts.settings, name)
        opened.refresh(found.row)
        return _source(opened, parts, plugin_settings.find_source(opened, parts.settings, name), 0)


@delete("/api/sources/{name:str}", **ADVICE)
def remove_source(operator: GivenPerson, parts: GivenParts, name: FromPath[str]) -> None:
    """Remove a source that was made on the page, or what one that is no longer in use has brought,
    together with all its documents and gold answers."""
    if parts.sources.syncing(name) is not None:
        raise ConflictError(f"source {name!r} is being synced; remove it after that")
    with session(parts.database) as opened:
        names = {source.settings.name for source in sources_in_use(opened, parts.settings)}
        if name in names:
            plugin_settings.remove_source(opened, parts.settings, name)
        elif source_desk.holdings(opened, name, 1).source_id is None:
            raise NotFoundError(f"there is no source {name!r}")
        if source_desk.holdings(opened, name, 1).source_id is not None:
            source_desk.clear(opened, name)
        audit.record(opened, operator, "source.removed", f"source:{name}")


@post("/api/sources/{name:str}/sync", status_code=202, **ADVICE)
def sync_now(operator: GivenPerson, parts: GivenParts, name: FromPath[str]) -> Source:
    """Begin to sync a source; its status tells when it is done."""
    with session(parts.database) as opened:
        found = plugin_settings.find_source(opened, parts.settings, name)
        audit.record(opened, operator, "source.synced", f"source:{name}")
        parts.sources.sync_now(parts.database, found.settings)
        return _source(opened, parts, found, 0)


def _checked(parts: Parts, name: str, data: NewSource | ChangedSource) -> SourceSettings:
    return plugin_settings.checked_source(
        parts.sources.host(), parts.settings, name, data.plugin, data.purpose, data.options
    )


def _plugin_entry(found: PluginClass) -> PluginEntry:
    options = [
        OptionEntry(
            field.name, field.help, field.kind, field.default, field.required, list(field.choices)
        )
        for field in found.fields
    ]
    return PluginEntry(found.name, found.help, options)


def _source(opened: Session, parts: Parts, source: Configured, rejected: int) -> Source:
    entry, row = source.settings, source.row
    held = source_desk.holdings(opened, entry.name, 1)
    report = held.reports[0] if held.reports else None
    read = parts.sources.syncing(entry.name)
    if read is None and report is not None and goes_on(report):
        read = report.read
    status: Literal["new", "syncing", "fine", "failed"] = "new"
    if read is not None:
        status = "syncing"
    elif report is not None:
        status = "failed" if report.error else "fine"
    return Source(
        name=entry.name,
        plugin=entry.plugin,
        purpose=entry.purpose,
        origin="page" if row else "file",
        status=status,
        options=masked(entry.options, parts.sources.host().options_of(entry.plugin)),
        generation=row.generation if row else 0,
        documents=held.documents,
        gold_answers=held.gold_answers,
        questions=held.questions,
        read_so_far=read,
        report=_report(report, rejected) if report else None,
        changed_by=row.changed_by if row else None,
        changed_at=row.changed_at if row else None,
    )


def _gone(opened: Session, name: str) -> Source:
    held = source_desk.holdings(opened, name, 1)
    report = _report(held.reports[0], 0) if held.reports else None
    held_now = (held.documents, held.gold_answers, held.questions)
    return Source(name, "", "", "gone", "fine", {}, 0, *held_now, None, report)


def _report(report: SyncReport, most: int | None) -> Report:
    shown = report.rejected if most is None else report.rejected[:most]
    return Report(
        report.started_at,
        report.finished_at,
        report.added,
        report.changed,
        report.removed,
        report.unchanged,
        report.error,
        report.rejected_count,
        [Rejected(item["where"], item["reason"]) for item in shown],
        report.waiting,
    )


def _looked(parts: Parts, source: SourceSettings) -> Looked:
    found = parts.sources.preview(source)
    rejected = [Rejected(where, reason) for where, reason in found.rejected]
    return Looked(found.error, [_record(record) for record in found.records], rejected)


def _record(record: contract.Document | contract.GoldPair) -> Record:
    if isinstance(record, contract.Document):
        text = _cut(record.text)
        return Record("document", record.id, record.title, text, record.url, list(record.readers))
    return Record("gold pair", record.id, record.question, _cut(record.answer), None, [])


def _cut(text: str) -> str:
    longest = source_desk.LONGEST_EXCERPT
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
