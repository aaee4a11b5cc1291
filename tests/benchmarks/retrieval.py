"""How often is the section that answers a question among the first 1, 5 and 10 found?

Beside plain BM25 over the whole sections stands what the service finds: the sections are
documents in its database, cut and indexed as by a sync. A section counts as found where the
first of its passages is. `--embeddings FOLDER` adds the rows of a sentence-embedding model
(safetensors; mean of the last states, as MiniLM's), alone and with the full text as in service.
The last table is for the bars below which no source is good: what each lets through of a corpus's
own questions, and of the other's.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from sqlalchemy import Engine
from sqlmodel import Session, insert

from service.database import migrate, open_database, session
from service.embedding import embedding
from service.groups import EVERYBODY
from service.passage_finder import PassageFinder
from service.passage_vectors import VectorIndex, embed_pending
from service.passages import cut
from service.retrieval import content_words, retrieve
from service.section_words import held
from service.settings import RetrievalSettings, Settings
from service.tables import DataSource, Document, Passage
from tests.benchmarks.retrieval_corpora import Corpus, Section, feedback_qa, handbook

DATA = Path(__file__).parents[3] / "shared" / "data"
DEPTHS = (1, 5, 10)
DEEP = 60
"""Passages looked at for the first ten sections: a section has several."""

Find = Callable[[str], Iterable[str]]
"""From a question to the ids of sections, the best first, each maybe more than once."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Shares of questions whose section was among the first 1, 5, 10; milliseconds."""

    name: str
    recall: dict[int, float]
    query_ms: float
    index_ms: float | None = None
    """For 1,000 passages."""


@dataclass(frozen=True, slots=True)
class Bar:
    """Shares of questions that a bar lets through, on the pages that answer them and on others."""

    kind: str
    value: float
    own: float | None
    others: float | None


BARS = {
    "words held": (0.05, 0.1, 0.2, 0.3, 0.4),
    "cosine": (0.4, 0.45, 0.5, 0.55, 0.6),
}
"""For `answers.source_bar` and `retrieval.similarity_bar`."""


class Bm25:
    """Plain BM25 over whole sections (k1 1.2, b 0.75; title, heading and text as one)."""

    def __init__(self, sections: Sequence[Section]) -> None:
        self._ids = [section.id for section in sections]
        words = [_words(f"{one.title} {one.heading} {one.text}") for one in sections]
        mean = sum(map(len, words)) / len(words)
        self._postings: dict[str, list[tuple[int, float]]] = {}
        for at, found in enumerate(words):
            norm = 1.2 * (0.25 + 0.75 * len(found) / mean)
            for word, count in Counter(found).items():
                weight = count * 2.2 / (count + norm)
                self._postings.setdefault(word, []).append((at, weight))

    def find(self, question: str) -> list[str]:
        """The ids of the sections that share a word with the question."""
        scores: dict[int, float] = defaultdict(float)
        for word in set(_words(question)):
            held = self._postings.get(word, [])
            rarity = math.log(1 + (len(self._ids) - len(held) + 0.5) / (len(held) + 0.5))
            for at, weight in held:
                scores[at] += rarity * weight
        best = sorted(scores, key=lambda at: -scores[at])
        return [self._ids[at] for at in best[:DEEP]]


def store(opened: Session, sections: Sequence[Section]) -> dict[str, str]:
    """Write the sections as documents; the section of each passage's id."""
    source = DataSource(name="benchmark", plugin="benchmark")
    opened.add(source)
    opened.flush()
    documents, passages = [], []
    for number, one in enumerate(sections):
        text = f"# {one.heading}\n{one.text}" if one.heading else one.text
        row = Document(
            source_id=source.id, external_id=one.id, title=one.title, text=text,
            readers=["everyone"], content_hash=str(number),
        )  # fmt: skip
        documents.append(row.model_dump())
        for position, (heading, body) in enumerate(cut(text, one.title)):
            passages.append(
                Passage(document_id=row.id, position=position, heading=heading, text=body)
            )
    opened.connection().execute(insert(Document), documents)
    opened.connection().execute(insert(Passage), [row.model_dump() for row in passages])
    of_document = {row["id"]: row["external_id"] for row in documents}
    return {row.id: of_document[row.document_id] for row in passages}


def measure(name: str, corpus: Corpus, find: Find, index_ms: float | None = None) -> Measured:
    """Ask all questions of the corpus."""
    hits = dict.fromkeys(DEPTHS, 0)
    began = time.perf_counter()
    for question, gold in corpus.questions:
        first = list(dict.fromkeys(find(question)))[: max(DEPTHS)]
        for depth in DEPTHS:
            hits[depth] += gold in first[:depth]
    spent_ms = (time.perf_counter() - began) * 1000
    count = len(corpus.questions)
    return Measured(name, {k: hits[k] / count for k in DEPTHS}, spent_ms / count, index_ms)


def measured(corpus: Corpus, folder: Path, model: Path | None) -> list[Measured]:
    """All rows of one corpus."""
    rows = [measure("plain BM25", corpus, Bm25(corpus.sections).find)]
    engine = open_database(f"sqlite:///{folder / corpus.name}.db")
    migrate(engine)
    began = time.perf_counter()
    with session(engine) as opened:
        section_of = store(opened, corpus.sections)
    indexing_ms = (time.perf_counter() - began) * 1000 / len(section_of) * 1000
    with session(engine) as opened:

        def full_text(question: str) -> list[str]:
            return [section_of[found.id] for found in retrieve(opened, question, DEEP)]

        rows.append(measure("full text", corpus, full_text, indexing_ms))
    if model is not None:
        rows += _with_vectors(engine, corpus, section_of, model)
    engine.dispose()
    return rows


def _with_vectors(
    engine: Engine, corpus: Corpus, section_of: dict[str, str], folder: Path
) -> list[Measured]:
    """By meaning alone, and as the service finds: by words and meaning together."""
    model = embedding(folder)
    began = time.perf_counter()
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task(f"embedding {corpus.name}", total=None)
        made = embed_pending(
            engine, model, on_done=lambda done, of: progress.update(task, completed=done, total=of)
        )
    index_ms = (time.perf_counter() - began) * 1000 / max(made, 1) * 1000
    settings = Settings(home=folder, retrieval=RetrievalSettings(embeddings=folder))
    finder, index = PassageFinder(settings, engine, patient=True), VectorIndex(model.id)
    with session(engine) as opened:

        def alone(question: str) -> list[str]:
            (wanted,) = model.vectors([question])
            near = index.nearest(opened, wanted, DEEP, EVERYBODY)
            return [section_of[one.passage.id] for one in near]

        def both(question: str) -> list[str]:
            return [section_of[one.id] for one in finder.find(opened, question, DEEP)]

        return [
            measure("embeddings", corpus, alone, index_ms),
            measure("full text and embeddings", corpus, both, index_ms),
        ]


def calibrated(corpora: Sequence[Corpus], folder: Path, model: Path | None) -> list[Bar]:
    """What each bar lets through: of questions on the corpus itself, and of those on the others,
    which it cannot answer. `measured` made the databases in `folder`."""
    found: list[tuple[str, bool, float]] = []
    for corpus in corpora:
        engine = open_database(f"sqlite:///{folder / corpus.name}.db")
        index = VectorIndex(embedding(model).id) if model else None
        with session(engine) as opened:
            for other in corpora:
                for question, _gold in other.questions:
                    own = other.name == corpus.name
                    first = [one.id for one in retrieve(opened, question, 5)]
                    shares = held(opened, content_words(question), first) if first else {}
                    found.append(("words held", own, max(shares.values(), default=0.0)))
                    if index is not None and model is not None:
                        (wanted,) = embedding(model).vectors([question])
                        near = index.nearest(opened, wanted, 1, EVERYBODY)
                        found.append(("cosine", own, near[0].cosine if near else -1.0))
        engine.dispose()
    return [
        Bar(kind, bar, *(_passing(found, kind, own, bar) for own in (True, False)))
        for kind, bars in BARS.items()
        for bar in bars
        if any(name == kind for name, _own, _best in found)
    ]


def _passing(
    found: Sequence[tuple[str, bool, float]], kind: str, own: bool, bar: float
) -> float | None:
    best = [value for name, mine, value in found if (name, mine) == (kind, own)]
    return sum(value >= bar for value in best) / len(best) if best else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one table a corpus."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--embeddings", type=Path, help="folder of a sentence-embedding model")
    parser.add_argument("--questions", type=int, default=0, help="evenly chosen; 0 asks all")
    given = parser.parse_args(arguments)
    corpora = [
        handbook(given.data / "handbook-18f"),
        feedback_qa(given.data / "feedbackqa" / "retrieval-uk"),
    ]
    asked = [replace(one, questions=_spread(one.questions, given.questions)) for one in corpora]
    with tempfile.TemporaryDirectory() as folder:
        for corpus in asked:
            show(corpus, measured(corpus, Path(folder), given.embeddings))
        show_bars(calibrated(asked, Path(folder), given.embeddings))
    return 0


def show_bars(bars: Sequence[Bar]) -> None:
    """Print what each bar lets through."""
    table = Table("best passage's", "bar", "own questions", "others' questions")
    for bar in bars:
        shares = ["" if share is None else f"{share:.3f}" for share in (bar.own, bar.others)]
        table.add_row(bar.kind, f"{bar.value:.2f}", *shares)
    Console().print(table)


def show(corpus: Corpus, rows: Sequence[Measured]) -> None:
    """Print the table of one corpus."""
    told = f"{corpus.name}: {len(corpus.questions)} questions, {len(corpus.sections)} sections"
    table = Table(title=told)
    for heading in ("", *(f"recall@{k}" for k in DEPTHS), "ms a query", "s / 1,000 passages"):
        table.add_column(heading, justify="left" if not heading else "right")
    for row in rows:
        spent = "" if row.index_ms is None else f"{row.index_ms / 1000:.2f}"
        shares = [f"{row.recall[k]:.3f}" for k in DEPTHS]
        table.add_row(row.name, *shares, f"{row.query_ms:.1f}", spent)
    Console().print(table)


def _spread(questions: tuple[tuple[str, str], ...], count: int) -> tuple[tuple[str, str], ...]:
    """As many of them, at even distances."""
    if not 0 < count < len(questions):
        return questions
    return tuple(questions[at * len(questions) // count] for at in range(count))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


if __name__ == "__main__":
    sys.exit(main())
