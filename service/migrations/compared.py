"""Which tables are compared with the models when a migration is written."""

from __future__ import annotations

from typing import Any

SEARCH_TABLES = ("passage_search", "conversation_search")
"""The full-text indexes' tables begin with these; they are the migrations' own, not models."""


def include_name(name: str | None, kind: str, _parents: Any) -> bool:
    """Whether a comparison of models and database looks at this name."""
    return kind != "table" or not (name or "").startswith(SEARCH_TABLES)
