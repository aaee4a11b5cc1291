"""The demonstration's settings: written as heed.toml in its home, for every later command too."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from rlhf_engine.files import replaced
from service.demo.sizing import Sizes, Speed, plan_values
from service.errors import SettingsError
from service.settings import Settings, load_settings

COMPANY = Path(__file__).with_name("company")
CONFIG = "heed.toml"

SIGNALS = (
    {"name": "grounded", "plugin": "grounded", "weight": 0.25},
    {"name": "concise", "plugin": "concise", "weight": 0.25},
)

HANDBOOK_HELD_OUT_PERCENT = 30
"""A real handbook brings no exam, so more of its questions are kept for one."""


def first_settings(home: Path, port: int, handbook: Path | None) -> Settings:
    """What is known before anything is measured; SettingsError for a handbook that is no folder."""
    if handbook is not None and not handbook.is_dir():
        raise SettingsError(f"--handbook is {str(handbook)!r}, which is no folder")
    return _write(home, _values(home, port, handbook))


def sized_settings(
    home: Path, port: int, handbook: Path | None, sizes: Sizes, speed: Speed
) -> Settings:
    """The settings with the chosen sizes; serving and training use the same lengths."""
    values = _values(home, port, handbook)
    values["dtype"] = speed.dtype
    values["answers"] = {
        "passages": sizes.passages,
        "max_new_tokens": sizes.answer_tokens,
        "max_prompt_tokens": sizes.max_prompt_tokens,
    }
    values["training"]["plan"] = plan_values(sizes, speed.dtype)
    return _write(home, values)


def _values(home: Path, port: int, handbook: Path | None) -> dict[str, Any]:
    return {
        "home": str(home.resolve()),
        "host": "127.0.0.1",
        "port": port,
        # One person at their own machine is everybody at once.
        "visitors": "admin",
        # The demonstration itself says when to sync and train.
        "sync_schedule": "",
        "training": {
            "schedule": "",
            "held_out_percent": 10 if handbook is None else HANDBOOK_HELD_OUT_PERCENT,
        },
        "sources": _sources(handbook),
        "signals": list(SIGNALS),
    }


def _sources(handbook: Path | None) -> list[dict[str, Any]]:
    if handbook is not None:
        options = {"path": str(handbook.resolve())}
        return [{"name": "handbook", "plugin": "markdown_folder", "options": options}]
    return [
        {
            "name": "company-documents",
            "plugin": "markdown_folder",
            "options": {"path": str(COMPANY / "documents")},
        },
        {
            "name": "company-gold",
            "plugin": "faq_csv",
            "options": {"path": str(COMPANY / "gold.csv")},
        },
        {
            "name": "company-exam",
            "plugin": "faq_csv",
            "purpose": "evaluation",
            "options": {"path": str(COMPANY / "held_out.csv")},
        },
    ]


def _write(home: Path, values: dict[str, Any]) -> Settings:
    path = home / CONFIG
    with replaced(path) as temporary:
        temporary.write_text(_toml(values), encoding="utf-8")
    # For this process and for the server and workers that it starts.
    os.environ["HEED_CONFIG"] = str(path.resolve())
    return load_settings()


def _toml(values: dict[str, Any]) -> str:
    """The values as TOML; JSON strings, numbers and booleans are TOML too."""
    plain = [(name, value) for name, value in values.items() if not _is_nested(value)]
    lines = [
        f"{name} = {json.dumps(value, ensure_ascii=False)}"
        for name, value in plain
        if value is not None
    ]
    for name, value in values.items():
        if isinstance(value, dict):
            lines += [f"{name} = {_inline(value)}"]
        elif _is_nested(value):
            rows = ",\n  ".join(_inline(row) for row in value)
            lines += [f"{name} = [\n  {rows},\n]"]
    return "\n".join(lines) + "\n"


def _is_nested(value: Any) -> bool:
    return isinstance(value, dict | list)


def _inline(value: Any) -> str:
    if not isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    inner = ", ".join(f"{name} = {_inline(v)}" for name, v in value.items() if v is not None)
    return "{ " + inner + " }"
