"""The data sources in use: those of the settings file, and those made on the page.

The file is read at start and wins: its sources cannot be changed on the page, and a name that it
holds cannot be taken there. What is made on the page is a row of the database, takes effect at
once, and holds no secret, only where one stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from pydantic import ValidationError
from sqlalchemy import update
from sqlmodel import Session, col, select

from service.database import changed_rows, insert_unless_there
from service.errors import ConflictError, InvalidInputError, NotFoundError, SettingsError
from service.plugin_fields import OptionField
from service.plugin_host import PluginHost
from service.review_tables import PluginSetting
from service.secrets_of_options import HOW, is_reference
from service.settings import Settings, SourceSettings
from service.tables import Person, now
from service.wording import readable

LONGEST_OPTION = 2_000
KIND = "source"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Configured:
    """A source in use. `row` is its row where it was made on the page."""

    settings: SourceSettings
    row: PluginSetting | None = None


def sources_in_use(session: Session, settings: Settings) -> list[Configured]:
    """Every source, those of the file first; one of the page whose name the file has taken since
    is left out."""
    named = {source.name for source in settings.sources}
    query = select(PluginSetting).where(PluginSetting.kind == KIND)
    rows = session.exec(query.order_by(col(PluginSetting.name))).all()
    made = [Configured(_settings(row), row) for row in rows if row.name not in named]
    return [*(Configured(source) for source in settings.sources), *made]


def find_source(session: Session, settings: Settings, name: str) -> Configured:
    """The source of this name; NotFoundError where none is in use."""
    for source in sources_in_use(session, settings):
        if source.settings.name == name:
            return source
    raise NotFoundError(f"there is no source {name!r}")


def checked_source(
    host: PluginHost, settings: Settings, name: str, plugin: str, purpose: str, options: Any
) -> SourceSettings:
    """The source as it may be made on the page; InvalidInputError says what is wrong with it."""
    fields = host.options_of(plugin)
    if fields is None:
        raise InvalidInputError(
            f"no installed plugin with data sources is named {plugin!r}; "
            "heed plugins list shows those that are"
        )
    known = {field.name: field for field in fields}
    for option in options:
        if option not in known:
            raise InvalidInputError(f"option {option!r} is unknown to {plugin}")
    taken = {option: _checked(known[option], given, settings) for option, given in options.items()}
    try:
        source = SourceSettings(name=name, plugin=plugin, purpose=purpose, options=taken)
        host.data_source(source).close()
    except ValidationError as error:
        problem = error.errors()[0]
        raise InvalidInputError(
            f"{problem['loc'][0]} is {problem['input']!r}: {problem['msg']}; a name has small "
            "letters, digits, - and _"
        ) from error
    except SettingsError as error:
        raise InvalidInputError(str(error)) from error
    return source


def make_source(
    session: Session, settings: Settings, source: SourceSettings, by: Person
) -> PluginSetting:
    """Keep a new source; ConflictError where its name is taken."""
    row = PluginSetting(
        kind=KIND,
        name=source.name,
        plugin=source.plugin,
        fields={"purpose": source.purpose},
        options=source.options,
        changed_by=by.name,
    )
    taken = any(source.name == other.name for other in settings.sources)
    if taken or not insert_unless_there(session, row):
        raise ConflictError(f"there is a source {source.name!r} already; choose another name")
    log.info("source_made", source=source.name, plugin=source.plugin)
    return row


def change_source(
    session: Session, settings: Settings, source: SourceSettings, generation: int, by: Person
) -> None:
    """Give a source of the page other settings; `generation` is that of the settings its changer
    saw. ConflictError where somebody changed it since, or the file holds it."""
    _of_the_page(session, settings, source.name)
    values = {
        "plugin": source.plugin,
        "fields": {"purpose": source.purpose},
        "options": source.options,
        "changed_by": by.name,
        "changed_at": now(),
        "generation": generation + 1,
    }
    seen = (
        col(PluginSetting.kind) == KIND,
        col(PluginSetting.name) == source.name,
        col(PluginSetting.generation) == generation,
    )
    if not changed_rows(session.execute(update(PluginSetting).where(*seen).values(**values))):
        raise ConflictError("somebody changed this source meanwhile; reload it, then change it")
    log.info("source_changed", source=source.name)


def remove_source(session: Session, settings: Settings, name: str) -> None:
    """Read a source of the page no longer; what it brought stays until it is removed as well."""
    session.delete(_of_the_page(session, settings, name))
    session.flush()
    log.info("source_removed", source=name)


def _of_the_page(session: Session, settings: Settings, name: str) -> PluginSetting:
    row = find_source(session, settings, name).row
    if row is None:
        raise ConflictError(f"source {name!r} is set in the settings file; change it there")
    return row


def _settings(row: PluginSetting) -> SourceSettings:
    return SourceSettings(name=row.name, plugin=row.plugin, options=row.options, **row.fields)


def _checked(field: OptionField, value: Any, settings: Settings) -> Any:
    kinds: Mapping[str, tuple[tuple[type, ...], str]] = {
        "number": ((int,), "a whole number"),
        "decimal": ((int, float), "a number"),
        "switch": ((bool,), "true or false"),
        "lines": ((list,), "a list of texts"),
    }
    kind, wanted = kinds.get(field.kind, ((str,), "text"))
    if not isinstance(value, kind) or (bool not in kind and isinstance(value, bool)):
        raise InvalidInputError(f"option {field.name} is {value!r}; give {wanted}")
    if field.kind == "secret" and not is_reference(value):
        raise InvalidInputError(f"option {field.name} is a secret, which is not kept here: {HOW}")
    for text in value if isinstance(value, list) else [value]:
        if isinstance(text, str):
            readable(f"option {field.name}", text, LONGEST_OPTION)
    if field.kind == "path":
        _check_path(field.name, str(value), settings)
    return value


def _check_path(option: str, value: str, settings: Settings) -> None:
    folders = [folder.resolve() for folder in (*settings.source_folders, settings.home / "sources")]
    path = Path(value).expanduser().resolve()
    if not any(path.is_relative_to(folder) for folder in folders):
        raise InvalidInputError(
            f"option {option} is {value}; a source made on the page reads only what lies in "
            f"{' or '.join(map(str, folders))}; the setting source_folders allows others"
        )
