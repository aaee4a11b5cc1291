"""Writes docs/plugins-reference.md from the hookspecs, the contract, the conformance kit and the
built-in plugins: `python docs/make_plugins_reference.py`."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from plugins import contract, hookspecs, testing
from plugins.conformance.checking import Check
from plugins.conformance.place import Place
from service.plugin_fields import OptionField, fields_of

ROOT = Path(__file__).parents[1]
PAGE = Path(__file__).with_name("plugins-reference.md")

INTRODUCTION = """# Plugin reference

<!-- Written by docs/make_plugins_reference.py; `make test` compares. -->

Everything a plugin and Heed say to each other. [plugins.md](plugins.md) shows how to write one.
"""

KINDS = (
    contract.DataSource,
    contract.RewardSignal,
    contract.Observer,
    contract.Redactor,
    contract.Reranker,
)
GIVEN = (
    contract.Answer,
    contract.ShownPassage,
    contract.Feedback,
    contract.Promotion,
    contract.FinishedRun,
)
ERRORS = (
    contract.PluginError,
    contract.OptionsError,
    contract.SourceError,
    contract.SecretError,
    contract.RetryLater,
)


def page() -> str:
    """The whole page."""
    parts = (hooks(), kinds(), items(), given(), errors(), kit(), built_in())
    return "\n".join([INTRODUCTION, *(line for part in parts for line in part)])


def hooks() -> Iterator[str]:
    """Each hook as one writes it."""
    yield "## Hooks\n"
    yield "In `plugins/hookspecs.py`. A module implements those it has classes for, each marked"
    yield 'with `hookimpl` (or `pluggy.HookimplMarker("heed")`).\n'
    for name, hook in vars(hookspecs).items():
        if name.startswith("heed_"):
            yield f"- `{name}{signature(hook)}`: {told(hook)}"
    yield ""


def kinds() -> Iterator[str]:
    """What a class of each kind has."""
    yield "## Classes\n"
    yield "A class of any kind has a `name`, a docstring whose first sentence operators see, and"
    yield "`Settings`, a pydantic model or a dataclass, unless it takes none. It is made as"
    yield "`cls(settings)`, with `None` where it takes none.\n"
    for kind in KINDS:
        yield from titled(kind)
        for name, method in vars(kind).items():
            if inspect.isfunction(method) and not name.startswith("_"):
                yield f"- `{name}{signature(method)}`: {told(method)}"
        yield ""


def items() -> Iterator[str]:
    """What a source yields."""
    yield "## Items\n"
    yield 'Each may also be a plain dict with its `kind`: `{"kind": "document", "id": ...}`. There'
    yield "`updated` may be a text in ISO 8601.\n"
    for kind, item in contract.KINDS.items():
        yield from titled(item, f' (`"{kind}"`)')
        yield from fields(item)


def given() -> Iterator[str]:
    """What plugins are given."""
    yield "## What a plugin is given\n"
    for one in GIVEN:
        yield from titled(one)
        yield from fields(one)


def errors() -> Iterator[str]:
    """What plugins raise."""
    yield "## Errors\n"
    yield "Their text is shown to operators as it stands: what happened, and what to do next.\n"
    for error in ERRORS:
        made = signature(error) if "__init__" in vars(error) else "(text)"
        yield f"- `{error.__name__}{made}`: {told(error)}"
    yield ""


def kit() -> Iterator[str]:
    """The one-line calls, what a place may do, and each check."""
    yield "## Conformance kit\n"
    yield "`plugins.testing`; needs pytest.\n"
    for call in (testing.source_tests, testing.signal_tests, testing.plugin_tests):
        yield f"- `{call.__name__}{signature(call)}`: {told(call)}"
    yield "\n### Place\n"
    yield f"{told(Place)}\n"
    for name, method in vars(Place).items():
        if inspect.isfunction(method) and not name.startswith("_"):
            yield f"- `{name}{signature(method)}`: {told(method)}"
    yield ""
    yield from checks("Checks of a source", testing.SOURCE_CHECKS)
    yield from checks("Checks of a signal", testing.ALL_SIGNAL_CHECKS)


def checks(title: str, every: Sequence[Check[Any]]) -> Iterator[str]:
    """One list of checks."""
    yield f"### {title}\n"
    yield "| check | holds for a plugin that passes |"
    yield "|---|---|"
    for check in every:
        yield f"| `{check.name}` | {escaped(check.sentence)} |"
    yield ""


def built_in() -> Iterator[str]:
    """The plugins that come with Heed, with their options."""
    yield "## Built-in plugins\n"
    for hook, cls in sorted(built_in_classes(), key=lambda pair: (pair[0], pair[1].name)):
        first = told(cls, paragraphs=1)
        yield f"### {cls.name}\n"
        yield f"`{hook}`. {first}\n"
        options = fields_of(getattr(cls, "Settings", None))
        if not options:
            yield "Takes no options.\n"
            continue
        yield "| option | value | default | what it is |"
        yield "|---|---|---|---|"
        for option in options:
            cells = (f"`{option.name}`", value_of(option), default_of(option), option.help)
            yield f"| {' | '.join(map(escaped, cells))} |"
        yield ""


def built_in_classes() -> Iterator[tuple[str, Any]]:
    """Each class of each entry point in pyproject.toml, with its hook."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for target in project["entry-points"]["heed"].values():
        module = importlib.import_module(target)
        for hook in (name for name in vars(hookspecs) if name.startswith("heed_")):
            answer: Callable[[], Sequence[Any]] = getattr(module, hook, tuple)
            yield from ((hook, cls) for cls in answer())


def value_of(option: OptionField) -> str:
    """What may stand there."""
    if option.choices:
        return ", ".join(f"`{choice}`" for choice in option.choices)
    return {"number": "whole number", "decimal": "number", "switch": "true or false"}.get(
        option.kind, option.kind
    )


def default_of(option: OptionField) -> str:
    """The default as one would write it."""
    if option.required:
        return "required"
    if option.default in (None, "", [], ()):
        return "none"
    shown = str(option.default).lower() if isinstance(option.default, bool) else option.default
    return f"`{shown}`"


def titled(cls: type[Any], more: str = "") -> Iterator[str]:
    """A class's heading and what it is."""
    yield f"### {cls.__name__}{more}\n"
    yield f"{told(cls)}\n"


def fields(cls: type[Any]) -> Iterator[str]:
    """A dataclass's fields."""
    yield "| field | type | default |"
    yield "|---|---|---|"
    for field in dataclasses.fields(cls):
        default = "required"
        if field.default is not dataclasses.MISSING:
            default = f"`{field.default!r}`".replace("'", '"')
        elif field.default_factory is not dataclasses.MISSING:
            default = f"`{field.default_factory()!r}`"
        yield f"| `{field.name}` | `{escaped(str(field.type))}` | {default} |"
    yield ""


def signature(function: Callable[..., Any]) -> str:
    """A function's arguments and result, without the quotes of unread annotations."""
    told = str(inspect.signature(function))
    return re.sub(r"(: |-> )'([^']+)'", r"\1\2", told).replace("''", '""')


def told(documented: object, paragraphs: int | None = None) -> str:
    """A docstring, each paragraph in one line."""
    text = inspect.cleandoc(getattr(documented, "__doc__", "") or "")
    found = [re.sub(r"\s+", " ", part) for part in text.split("\n\n")[:paragraphs]]
    return " ".join(found)


def escaped(text: str) -> str:
    """As a cell of a table."""
    return text.replace("|", r"\|")


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
