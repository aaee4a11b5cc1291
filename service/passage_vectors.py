"""Vectors of passages: made once for each wording, kept in the database, searched in memory.

The search is exact: one product of the question's vector with the matrix of all, which follows the
table. Who may read what is asked of the database with each search, in the query that brings the
passages; a passage that is gone is not found, whatever vectors are left.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

import numpy as np
import structlog
from sqlalchemy import Engine, bindparam, delete, exists, text, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col, func, select

from rlhf_engine.records import PromptPassage
from service.database import changed_rows, session
from service.embedding import Embedding
from service.retrieval import readable_by, shown_title
from service.section_words import Section
from service.tables import Document, Passage, TextVector
from service.wording import content_hash

HASHED_AT_ONCE = 500
EMBEDDED_AT_ONCE = 8
"""Texts that a question has to wait for at most while vectors are made."""
ASKED_AT_ONCE = 400

_FOUND = """
    SELECT passage.id, document.title, passage.heading, passage.text, passage.text_hash
    FROM passage JOIN document ON document.id = passage.document_id
    WHERE passage.text_hash IN :hashes AND {readable}
"""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Near:
    """A passage, and the cosine of its vector with the question's, -1 to 1."""

    passage: PromptPassage
    cosine: float


@dataclass(frozen=True, slots=True)
class Around:
    """The cosine of a passage's vector with the question's, and the mean of its section's."""

    passage: float
    section: float


class VectorIndex:
    """The vectors of one model as a matrix in memory."""

    def __init__(self, model: str) -> None:
        self.model = model
        self._hashes: list[str] = []
        self._rows_of: dict[str, int] = {}
        self._matrix = np.empty((0, 0), np.float32)
        self._last = 0
        self._following = threading.Lock()

    def nearest(
        self, opened: Session, wanted: np.ndarray, limit: int, readers: Sequence[str]
    ) -> list[Near]:
        """At most `limit` passages that these may read, the nearest to the vector first."""
        hashes, matrix = self._followed(opened)
        if not hashes or limit < 1 or not readers:
            return []
        cosines = matrix @ wanted
        order = np.argsort(-cosines, kind="stable")
        found: list[Near] = []
        start, size = 0, max(limit, 50)
        # Others' passages may be nearer, so it is looked further until there are enough.
        while start < len(order) and len(found) < limit:
            some = {hashes[at]: float(cosines[at]) for at in order[start : start + size]}
            found += sorted(_found(opened, some, readers), key=_place)
            start, size = start + size, size * 4
        return found[:limit]

    def around(
        self, opened: Session, wanted: np.ndarray, passage_ids: Sequence[str]
    ) -> dict[str, Around]:
        """How near these passages and their sections are; those without a vector are left out."""
        self._followed(opened)
        rows_of, matrix = self._rows_of, self._matrix
        own = select(Passage.document_id).where(col(Passage.id).in_(passage_ids))
        query = select(Passage.id, Passage.document_id, Passage.heading, Passage.text_hash)
        query = query.where(col(Passage.document_id).in_(own))
        known = [
            (number, (document, heading), float(matrix[rows_of[wording]] @ wanted))
            for number, document, heading, wording in (opened.exec(query) if passage_ids else ())
            if wording in rows_of
        ]
        sections: dict[Section, list[float]] = {}
        for _, section, cosine in known:
            sections.setdefault(section, []).append(cosine)
        asked = set(passage_ids)
        return {
            number: Around(cosine, sum(sections[section]) / len(sections[section]))
            for number, section, cosine in known
            if number in asked
        }

    def _followed(self, opened: Session) -> tuple[list[str], np.ndarray]:
        """The wordings and their vectors as they are in the table now."""
        mine = TextVector.model == self.model
        counting = select(func.count(), func.max(TextVector.number)).where(mine)
        count, last = opened.exec(counting).one()
        with self._following:
            if (count, last or 0) != (len(self._hashes), self._last):
                rows = self._rows(opened, self._last)
                if len(self._hashes) + len(rows) != count:
                    self._hashes, self._rows_of = [], {}
                    self._matrix = np.empty((0, 0), np.float32)
                    rows = self._rows(opened, 0)
                self._add(rows)
            return self._hashes, self._matrix

    def _rows(self, opened: Session, after: int) -> Sequence[Any]:
        query = select(TextVector.number, TextVector.hash, TextVector.vector)
        query = query.where(TextVector.model == self.model, col(TextVector.number) > after)
        return opened.exec(query.order_by(col(TextVector.number))).all()

    def _add(self, rows: Sequence[Any]) -> None:
        if not rows:
            self._last = 0 if not self._hashes else self._last
            return
        added = np.stack([np.frombuffer(vector, "<f4") for _, _, vector in rows])
        # Never changed in place: another thread may be searching in what there was.
        self._matrix = np.concatenate([self._matrix, added]) if self._hashes else added
        self._hashes = [*self._hashes, *(wording for _, wording, _ in rows)]
        self._rows_of = {wording: row for row, wording in enumerate(self._hashes)}
        self._last = rows[-1][0]


def embed_pending(
    engine: Engine,
    model: Embedding,
    stop: Callable[[], bool] = lambda: False,
    limit_s: float | None = None,
    on_done: Callable[[int, int], None] | None = None,
) -> int:
    """Make the vectors that passages lack, until none does, `stop` says so or `limit_s` is over;
    returns how many. `on_done` hears how many are made, of how many. Each few are kept at once, so
    that a process that is killed leaves them. SentenceModelError where the model is not there."""
    end = monotonic() + limit_s if limit_s is not None else None
    made, name = 0, model.id
    _hash_texts(engine)
    with session(engine) as opened:
        of = _count_pending(opened, name)
    while made < of and not stop() and (end is None or monotonic() < end):
        with session(engine) as opened:
            wordings = _pending(opened, name)
        if not wordings:
            break
        vectors = model.vectors(list(wordings.values()))
        rows = [
            {"model": name, "hash": wording, "vector": vector.astype("<f4").tobytes()}
            for wording, vector in zip(wordings, vectors, strict=True)
        ]
        with session(engine) as opened:
            _insert(opened, rows)
        made += len(rows)
        if on_done is not None:
            on_done(made, max(of, made))
    if made:
        log.info("passages_embedded", wordings=made, left=max(0, of - made))
    return made


def is_pending(engine: Engine, model: str) -> bool:
    """Whether a passage lacks its vector."""
    with session(engine) as opened:
        unhashed = select(Passage.id).where(col(Passage.text_hash).is_(None)).limit(1)
        return opened.exec(unhashed).first() is not None or bool(_count_pending(opened, model))


def remove_unused(opened: Session) -> int:
    """Remove the vectors of wordings that no passage has; returns how many."""
    used = exists().where(col(Passage.text_hash) == col(TextVector.hash))
    return changed_rows(opened.execute(delete(TextVector).where(~used)))


def _found(opened: Session, cosines: dict[str, float], readers: Sequence[str]) -> Iterator[Near]:
    given = {"groups": list(readers)}
    statement = text(_FOUND.format(readable=readable_by(opened))).bindparams(
        bindparam("hashes", expanding=True), bindparam("groups", expanding=True)
    )
    wanted = list(cosines)
    for start in range(0, len(wanted), ASKED_AT_ONCE):
        asked = {**given, "hashes": wanted[start : start + ASKED_AT_ONCE]}
        for number, title, heading, body, wording in opened.connection().execute(statement, asked):
            yield Near(PromptPassage(number, shown_title(title, heading), body), cosines[wording])


def _place(near: Near) -> tuple[float, str]:
    return -near.cosine, near.passage.id


def _hash_texts(engine: Engine) -> None:
    """Note the wording of each passage that was not asked for it yet."""
    query = select(Passage.id, Document.title, Passage.heading, Passage.text)
    query = query.join(Document, col(Document.id) == col(Passage.document_id))
    query = query.where(col(Passage.text_hash).is_(None)).limit(HASHED_AT_ONCE)
    while True:
        with session(engine) as opened:
            rows = opened.exec(query).all()
            if not rows:
                return
            opened.connection().execute(
                update(Passage)
                .where(col(Passage.id) == bindparam("number"))
                .values(text_hash=bindparam("wording")),
                [{"number": row[0], "wording": content_hash(*row[1:])} for row in rows],
            )


def _lacking(model: str) -> Any:
    made = exists().where(
        col(TextVector.hash) == col(Passage.text_hash), col(TextVector.model) == model
    )
    return col(Passage.text_hash).is_not(None) & ~made


def _count_pending(opened: Session, model: str) -> int:
    query = select(func.count(func.distinct(col(Passage.text_hash)))).where(_lacking(model))
    return opened.exec(query).one()


def _pending(opened: Session, model: str) -> dict[str, str]:
    """Some wordings without a vector, with what the model is to read."""
    query = select(Passage.text_hash, Document.title, Passage.heading, Passage.text)
    query = query.join(Document, col(Document.id) == col(Passage.document_id))
    query = query.where(_lacking(model)).limit(EMBEDDED_AT_ONCE)
    return {
        str(wording): f"{shown_title(title, heading)}\n{body}"
        for wording, title, heading, body in opened.exec(query)
    }


def _insert(opened: Session, rows: list[dict[str, Any]]) -> None:
    """Keep the vectors; another process may have made some of them too."""
    dialect = postgresql if opened.get_bind().dialect.name == "postgresql" else sqlite
    opened.connection().execute(dialect.insert(TextVector).on_conflict_do_nothing(), rows)
