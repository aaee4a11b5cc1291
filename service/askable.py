"""Which policy versions can be asked by name: the loaded ones, and what the aliases stand for."""

from __future__ import annotations

from dataclasses import dataclass

from sqlmodel import Session, col, select

from service.errors import NotFoundError
from service.serving import NotReadyError, Serving
from service.tables import PolicyVersion

DEFAULT = "heed"
"""Leaves the choice of the version to the service: the live one, or now and then a candidate."""

ALIASES = ("live", "candidate", "previous")


@dataclass(frozen=True, slots=True)
class Askable:
    """A loaded version under one of its names."""

    name: str
    version: PolicyVersion
    aliases: tuple[str, ...]
    """All aliases that stand for the version now."""


def askable(opened: Session, serving: Serving) -> list[Askable]:
    """Every name that can be asked: the default, the aliases, then the exact ids, newest first.

    NotReadyError while questions are not answered.
    """
    if serving.trouble is not None:
        raise NotReadyError(serving.trouble)
    loaded = col(PolicyVersion.id).in_(serving.loaded())
    newest = select(PolicyVersion).where(loaded).order_by(col(PolicyVersion.number).desc())
    versions = {version.id: version for version in opened.exec(newest)}
    pointed = serving.aliases()
    aliases = {name: pointed[name] for name in ALIASES if pointed.get(name) in versions}
    names = {DEFAULT: aliases["live"], **aliases} if "live" in aliases else aliases
    return [
        Askable(name, versions[version_id], _standing_for(aliases, version_id))
        for name, version_id in [*names.items(), *((known, known) for known in versions)]
    ]


def find_askable(opened: Session, serving: Serving, name: str) -> Askable:
    """The version of this name, which may also be a number as in "v7".

    NotFoundError for one that is not loaded says which are, NotReadyError is `askable`'s.
    """
    known = askable(opened, serving)
    for entry in known:
        if name == entry.name:
            return entry
    for entry in known:
        if name == f"v{entry.version.number}":
            return Askable(entry.version.id, entry.version, entry.aliases)
    numbers = sorted({entry.version.number for entry in known}, reverse=True)
    spoken = [entry.name for entry in known if entry.name in (DEFAULT, *ALIASES)]
    raise NotFoundError(
        f"the model {name[:80]!r} is not loaded; ask one of "
        f"{', '.join([*spoken, *(f'v{number}' for number in numbers)])}"
    )


def _standing_for(aliases: dict[str, str], version_id: str) -> tuple[str, ...]:
    return tuple(name for name, target in aliases.items() if target == version_id)
