"""Writes docs/settings.md from service/settings.py: `python docs/make_settings.py`."""

from __future__ import annotations

import ast
import inspect
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from service import settings as module
from service.plugin_limits import PluginLimits
from service.settings import (
    AnswerSettings,
    PluginUse,
    RetrievalSettings,
    Settings,
    SignalSettings,
    SourceSettings,
    TrainingSettings,
    VllmSettings,
    VotingSettings,
)
from service.sign_in_settings import OidcSettings, SignInSettings

PAGE = Path(__file__).with_name("settings.md")

INTRODUCTION = """# Settings

<!-- Written by docs/make_settings.py from service/settings.py; `make test` compares. -->

Settings are read once, at the start, from `heed.toml` in the folder Heed is started in, or from
the file that the environment variable `HEED_CONFIG` names. An environment variable beats the
file. A wrong value stops the start with the setting's name, its value and what is allowed.

```toml
# heed.toml
home = "/var/lib/heed"

[answers]
temperature = 0.5

[training]
schedule = "0 2 * * *"

[[sources]]
name = "handbook"
plugin = "markdown_folder"
options = { path = "handbook" }
```

The same two as variables: `HEED_ANSWERS__TEMPERATURE=0.5`, `HEED_TRAINING__SCHEDULE="0 2 * * *"`
(two underscores lead into a section). An empty schedule means never.
"""

SECTIONS: tuple[tuple[str, type[BaseModel], str], ...] = (
    ("General", Settings, ""),
    ("`[answers]`", AnswerSettings, "answers"),
    ("`[retrieval]`", RetrievalSettings, "retrieval"),
    ("`[training]`", TrainingSettings, "training"),
    ("`[vllm]`", VllmSettings, "vllm"),
    ("`[voting]`", VotingSettings, "voting"),
    ("`[sign_in]`", SignInSettings, "sign_in"),
    ("`[oidc]`", OidcSettings, "oidc"),
    ("`[[sources]]`", SourceSettings, "sources[]"),
    ("`[[signals]]`", SignalSettings, "signals[]"),
    ("`[[observers]]`, `[[redactors]]`, `[[rerankers]]`", PluginUse, "uses[]"),
    ("`[plugin_limits]`", PluginLimits, "plugin_limits"),
)


def page() -> str:
    """The whole page."""
    return "\n".join([INTRODUCTION, *(line for section in SECTIONS for line in table(*section))])


def table(title: str, model: type[BaseModel], place: str) -> Iterator[str]:
    """One section's lines. Entries of a list have no variable of their own."""
    told = descriptions(model)
    of_list = place.endswith("[]")
    yield f"## {title}\n"
    yield "| setting | " + ("" if of_list else "variable | ") + "value | default | what it does |"
    yield "|---|---|---|---|" + ("" if of_list else "---|")
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            continue
        variable = f"HEED_{place.upper()}__{name.upper()}" if place else f"HEED_{name.upper()}"
        cells = [f"`{name}`", *([] if of_list else [f"`{variable}`"])]
        cells += [allowed(field), default(field), told[name]]
        yield "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"
    yield ""


def descriptions(model: type[BaseModel]) -> dict[str, str]:
    """The sentence under each field, as the source has it."""
    told: dict[str, str] = {}
    for base in model.__bases__:
        if issubclass(base, BaseModel) and base.__module__.startswith("service."):
            told |= descriptions(base)
    tree = ast.parse(inspect.getsource(inspect.getmodule(model) or module))
    (found,) = (n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == model.__name__)
    for field, text in zip(found.body, found.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            sentence = ast.literal_eval(text.value)
            told[ast.unparse(field.target)] = re.sub(r"\s+", " ", sentence)
    return told


def allowed(field: FieldInfo) -> str:
    """Kind and range of a value."""
    kind = _kind(field.annotation)
    bounds = {type(limit).__name__: limit for limit in field.metadata}
    least, largest = bounds.get("Ge"), bounds.get("Le")
    if least is not None and largest is not None:
        return f"{kind}, {least.ge} to {largest.le}"
    if least is not None:
        return f"{kind}, {least.ge} or more"
    pattern = next((m.pattern for m in field.metadata if getattr(m, "pattern", None)), None)
    return f"{kind}, `{pattern}`" if pattern else kind


def _kind(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    if isinstance(annotation, types.UnionType):
        return " or ".join(_kind(part) for part in get_args(annotation) if part is not type(None))
    names = {
        Path: "path",
        str: "text",
        SecretStr: "text, never shown",
        int: "whole number",
        float: "number",
        bool: "true or false",
    }
    if get_origin(annotation) is tuple:
        return "list of texts" if get_args(annotation)[0] is str else "list of tables"
    return names.get(annotation, "table")


def default(field: FieldInfo) -> str:
    """The default as one would write it."""
    if field.is_required():
        return "required"
    if field.default_factory is not None:
        return "half of the cores"
    value = field.default
    if value is None:
        return "none"
    if value in ((), {}):
        return "empty"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
