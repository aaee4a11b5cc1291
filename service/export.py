"""Writes the feedback for other trainers: TRL's forms as JSON lines or Parquet, streamed."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import Engine

from rlhf_engine.files import replaced
from service.errors import InvalidInputError
from service.passage_finder import PassageFinder
from service.redaction import Redact
from service.settings import AnswerSettings, VotingSettings
from service.training_export import KINDS, Kind, Line, exported_rows

if TYPE_CHECKING:
    import pyarrow as pa  # type: ignore[import-untyped]

__all__ = ["FORMS", "KINDS", "Form", "Kind", "export_feedback", "exported_bytes"]

Form = Literal["jsonl", "parquet"]
FORMS: tuple[Form, ...] = ("jsonl", "parquet")

BATCH = 500
"""Rows of a Parquet row group, and of what is written at once."""


def export_feedback(
    database: Engine,
    kind: str,
    path: Path,
    *,
    form: str | None = None,
    simulated: bool = False,
    undo_s: float = VotingSettings().undo_s,
    answers: AnswerSettings | None = None,
    redact: Redact | None = None,
    finder: PassageFinder | None = None,
) -> int:
    """Write the feedback of one kind to `path`, whole or not at all; how many rows it has.

    `form` is "jsonl" or "parquet", by default what the path ends in, else JSON lines. The rows
    are those of training_export.py. InvalidInputError for another kind or form, or a path that
    cannot be written.
    """
    chosen = form or ("parquet" if path.suffix == ".parquet" else "jsonl")
    rows = _Counted(
        exported_rows(
            database,
            known_kind(kind),
            simulated=simulated,
            undo_s=undo_s,
            answers=answers or AnswerSettings(),
            redact=redact,
            finder=finder,
        )
    )
    try:
        with replaced(path) as temporary, temporary.open("wb") as file:
            for piece in _encoded(rows, known_kind(kind), known_form(chosen)):
                file.write(piece)
    except OSError as error:
        raise InvalidInputError(
            f"{path} cannot be written ({error.strerror}); nothing was left there"
        ) from error
    return rows.count


def exported_bytes(
    database: Engine,
    kind: str,
    form: str,
    *,
    simulated: bool,
    undo_s: float,
    answers: AnswerSettings,
    redact: Redact | None = None,
    finder: PassageFinder | None = None,
) -> Iterator[bytes]:
    """The same as the bytes of a file, piece by piece; a few hundred rows are in memory."""
    rows = exported_rows(
        database,
        known_kind(kind),
        simulated=simulated,
        undo_s=undo_s,
        answers=answers,
        redact=redact,
        finder=finder,
    )
    return _encoded(rows, known_kind(kind), known_form(form))


def known_kind(kind: str) -> Kind:
    """The kind; InvalidInputError where it is none."""
    for known in KINDS:
        if kind == known:
            return known
    raise InvalidInputError(f"kind is {kind!r}; it must be one of {', '.join(KINDS)}")


def known_form(form: str) -> Form:
    """The form; InvalidInputError where it is none."""
    for known in FORMS:
        if form == known:
            return known
    raise InvalidInputError(f"form is {form!r}; it must be one of {', '.join(FORMS)}")


class _Counted:
    def __init__(self, rows: Iterable[Line]) -> None:
        self._rows, self.count = rows, 0

    def __iter__(self) -> Iterator[Line]:
        for row in self._rows:
            self.count += 1
            yield row


def _encoded(rows: Iterable[Line], kind: Kind, form: Form) -> Iterator[bytes]:
    return _json_lines(rows) if form == "jsonl" else _parquet(rows, kind)


def _json_lines(rows: Iterable[Line]) -> Iterator[bytes]:
    for row in rows:
        text = json.dumps(row, ensure_ascii=False, sort_keys=True, allow_nan=False)
        yield f"{text}\n".encode()


class _Sink(io.RawIOBase):
    """A file that is only written to, and given on in pieces."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._written = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._pieces.append(bytes(data))
        self._written += len(self._pieces[-1])
        return len(self._pieces[-1])

    def tell(self) -> int:
        return self._written

    def take(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)


def _parquet(rows: Iterable[Line], kind: Kind) -> Iterator[bytes]:
    import pyarrow as pa  # noqa: PLC0415, RUF100 - slow to import, and rarely needed
    import pyarrow.parquet as pq  # type: ignore[import-untyped]  # noqa: PLC0415, RUF100 - as above

    schema, sink, rest = _schema(kind), _Sink(), iter(rows)
    with pq.ParquetWriter(sink, schema) as writer:
        while some := list(islice(rest, BATCH)):
            writer.write_table(pa.Table.from_pylist(some, schema))
            yield sink.take()
    yield sink.take()


def _schema(kind: Kind) -> pa.Schema:
    import pyarrow as pa  # noqa: PLC0415, RUF100 - as above

    said = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    text, truth = pa.string(), pa.bool_()
    columns: dict[Kind, list[tuple[str, Any]]] = {
        "preference": [
            ("prompt", said),
            ("chosen", said),
            ("rejected", said),
            ("margin", pa.float64()),
            ("strength", text),
            ("simulated", truth),
            ("vote_id", text),
            ("turn_id", text),
            ("chosen_version", text),
            ("rejected_version", text),
            ("given_at", text),
        ],
        "unpaired": [
            ("prompt", said),
            ("completion", said),
            ("label", truth),
            ("simulated", truth),
            ("vote_id", text),
            ("turn_id", text),
            ("version", text),
            ("given_at", text),
        ],
        "prompt-completion": [
            ("prompt", said),
            ("completion", said),
            ("simulated", truth),
            ("gold_answer_id", text),
            ("origin", text),
            ("given_at", text),
        ],
    }
    return pa.schema(columns[kind])
