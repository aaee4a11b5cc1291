"""Passages are found by what they mean too: made once for each wording, never for who may not
read them, and never waited for."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine
from sqlmodel import Session, select

import rlhf_engine
from plugins.contract import Complete, Document
from service import embedding as embedding_module
from service import tables
from service.check import check
from service.cleanup import clean_up
from service.database import session
from service.embedding import Embedding, embedding
from service.passage_finder import PassageFinder, fused_scores
from service.passage_vectors import VectorIndex, embed_pending, is_pending
from service.scheduler import Scheduler
from service.settings import RetrievalSettings, Settings
from service.tables import JobRun, Passage, TextVector, now
from tests.journeys.server import eventually
from tests.service.sources import Shelf, store
from tests.tiny_meaning import tiny_meaning

GARAGE = "# Garage\nEvery vehicle stands behind the house."
HOLIDAY = "# Holiday\nEverybody has 25 a year."
ROOMS = "# Lodging\nA room may cost 135 pounds."


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_meaning(tmp_path_factory.mktemp("meaning"))


@pytest.fixture
def settings(tmp_path: Path, folder: Path) -> Settings:
    return Settings(home=tmp_path, retrieval=RetrievalSettings(embeddings=folder))


def vectors(engine: Engine) -> list[tuple[int | None, str]]:
    with session(engine) as opened:
        return [(row.number, row.hash) for row in opened.exec(select(TextVector))]


def found(engine: Engine, settings: Settings, question: str, bar: float = 0.0) -> list[str]:
    finder = PassageFinder(settings, engine, patient=True)
    with session(engine) as opened:
        return [passage.title for passage in finder.find(opened, question, 2, bar)]


def test_what_means_the_same_is_found_without_a_word_in_common(
    engine: Engine, settings: Settings, folder: Path
) -> None:
    store(engine, GARAGE, HOLIDAY, ROOMS)
    assert found(engine, settings, "Can I park my car?") == []
    assert embed_pending(engine, embedding(folder)) == 3
    assert found(engine, settings, "Can I park my car?")[0] == "page 0: Garage"
    assert found(engine, settings, "vacation leave")[0] == "page 1: Holiday"
    assert found(engine, settings, "hotel by night")[0] == "page 2: Lodging"


def test_words_still_count(engine: Engine, settings: Settings, folder: Path) -> None:
    store(engine, "# Garage\nThe garage Zephyr.", "# Garage\nThe garage Boreas.")
    embed_pending(engine, embedding(folder))
    assert found(engine, settings, "car park Boreas")[0] == "page 1: Garage"
    assert found(engine, settings, "car park Zephyr")[0] == "page 0: Garage"


def test_a_source_is_good_that_holds_the_words_or_is_near_enough(
    engine: Engine, settings: Settings, folder: Path
) -> None:
    store(engine, GARAGE, HOLIDAY)
    embed_pending(engine, embedding(folder))
    assert found(engine, settings, "Can I park my car?", bar=0.5) == ["page 0: Garage"]
    assert found(engine, settings, "What is the wage?", bar=0.5) == []
    assert found(engine, settings, "Everybody stands behind", bar=0.5) == ["page 0: Garage"]


def test_a_second_sync_makes_no_vector(
    engine: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(engine, GARAGE, HOLIDAY)
    model = Embedding(folder)
    embed_pending(engine, model)
    before = vectors(engine)
    store(engine, GARAGE, HOLIDAY)
    assert not is_pending(engine, model.id)
    monkeypatch.setattr(model, "vectors", None)
    assert embed_pending(engine, model) == 0
    assert vectors(engine) == before


def test_only_changed_wordings_get_a_new_vector_wherever_they_stand(
    engine: Engine, folder: Path
) -> None:
    shelf, model = Shelf(), embedding(folder)
    page = Document("a", "Rules", "# Car\nPark behind.\n# Leave\nTwo days.")
    shelf.sync(engine, page, Complete())
    assert embed_pending(engine, model) == 2
    moved = Document("a", "Rules", "# Gym\nNew.\n# Car\nPark behind.\n# Leave\nThree days.")
    shelf.sync(engine, moved, Complete())
    assert embed_pending(engine, model) == 2
    # The wording that is gone is forgotten at clean-up.
    assert len(vectors(engine)) == 4
    clean_up(engine, now())
    assert len(vectors(engine)) == 3


def test_a_removed_document_is_found_no_longer_from_its_sync_on(
    engine: Engine, settings: Settings, folder: Path
) -> None:
    shelf, pages = Shelf(), [Document("a", "A", GARAGE), Document("b", "B", HOLIDAY)]
    shelf.sync(engine, *pages, Complete())
    embed_pending(engine, embedding(folder))
    assert found(engine, settings, "car park")[0] == "A: Garage"
    shelf.sync(engine, pages[1], Complete())
    assert "A: Garage" not in found(engine, settings, "car park")


def test_making_vectors_goes_on_where_it_was_stopped(engine: Engine, folder: Path) -> None:
    store(engine, *(f"# Car {number}\nPark number {number}." for number in range(20)))
    model, seen = embedding(folder), list[tuple[int, int]]()
    assert (
        embed_pending(engine, model, lambda: len(seen) == 1, None, lambda *at: seen.append(at)) == 8
    )
    assert seen == [(8, 20)]
    assert embed_pending(engine, model, limit_s=0) == 0
    assert embed_pending(engine, model) == 12
    assert len(vectors(engine)) == 20


def test_two_that_make_vectors_at_once_make_no_row_twice(engine: Engine, folder: Path) -> None:
    store(engine, GARAGE, HOLIDAY)
    model = embedding(folder)

    def another(_done: int, _of: int) -> None:
        embed_pending(engine, model)

    store(engine, ROOMS, readers=("hr",))
    embed_pending(engine, model, on_done=another)
    assert len(vectors(engine)) == 3


def test_another_model_makes_vectors_of_its_own(
    engine: Engine, settings: Settings, folder: Path, tmp_path: Path
) -> None:
    store(engine, GARAGE, HOLIDAY)
    embed_pending(engine, embedding(folder))
    other = tiny_meaning(tmp_path / "other", seed=1)
    assert embedding(other).id != embedding(folder).id
    assert is_pending(engine, embedding(other).id)
    changed = settings.model_copy(update={"retrieval": RetrievalSettings(embeddings=other)})
    assert found(engine, changed, "car park") == []
    assert embed_pending(engine, embedding(other)) == 2
    assert found(engine, changed, "car park")[0] == "page 0: Garage"


def test_without_its_model_a_question_is_answered_from_the_full_text(
    engine: Engine, settings: Settings, tmp_path: Path
) -> None:
    store(engine, GARAGE, HOLIDAY)
    broken = tmp_path / "broken"
    broken.mkdir()
    changed = settings.model_copy(update={"retrieval": RetrievalSettings(embeddings=broken)})
    assert found(engine, changed, "holiday") == ["page 1: Holiday"]
    with pytest.raises(rlhf_engine.SentenceModelError, match=r"holds no config\.json"):
        embed_pending(engine, embedding(broken))
    told = [finding for finding in check(changed) if finding.area == "embeddings"]
    assert [finding.state for finding in told] == ["wrong"]
    assert [one.state for one in check(settings) if one.area == "embeddings"] == ["fine"]


def test_nobody_waits_for_a_model_that_loads(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(engine, HOLIDAY)
    embedding_module.embedding.cache_clear()
    finder = PassageFinder(settings, engine)
    with session(engine) as opened:
        assert [one.title for one in finder.find(opened, "holiday", 1)] == ["page 0: Holiday"]
    assert settings.retrieval.embeddings is not None
    eventually(lambda: embedding(Path(str(settings.retrieval.embeddings))).ready())


def test_the_scheduler_makes_vectors_and_leaves_no_row_where_there_is_nothing_to_do(
    engine: Engine, settings: Settings
) -> None:
    scheduler = Scheduler(engine, settings, "me")
    assert not scheduler.wake("embed")
    with session(engine) as opened:
        assert opened.exec(select(JobRun).where(JobRun.job == "embed")).all() == []
    store(engine, GARAGE)
    assert scheduler.wake("embed")
    assert len(vectors(engine)) == 1
    assert not scheduler.wake("embed")


def test_a_random_search_brings_what_may_be_read_and_nothing_else(engine: Engine) -> None:
    """Vectors and readers by chance: each search brings exactly the nearest that may be read."""
    draw, numbers = random.Random(6), np.random.default_rng(6)
    kinds = ["everyone", "group:hr", "group:it", "person:ada", "' OR 1=1 --", "Everyone"]
    held = {str(at): tuple(draw.sample(kinds, draw.randrange(1, 3))) for at in range(120)}
    pages = [Document(name, f"p{name}", f"Text {name}.", readers=may) for name, may in held.items()]
    assert Shelf().sync(engine, *pages, Complete()).error is None
    with session(engine) as opened:
        placed = _with_random_vectors(opened, numbers)
    index = VectorIndex("random")
    with session(engine) as opened:
        for _ in range(1_000):
            readers = tuple(draw.sample(kinds, draw.randrange(1, 4)))
            wanted = _unit(numbers.normal(size=8))
            may = [name for name in placed if set(held[name]) & set(readers)]
            best = sorted(may, key=lambda name: -float(placed[name] @ wanted))[:5]
            near = index.nearest(opened, wanted, 5, readers)
            assert [one.passage.title for one in near] == [f"p{name}" for name in best]


def test_the_index_follows_the_table(engine: Engine, folder: Path) -> None:
    store(engine, GARAGE, HOLIDAY)
    model = embedding(folder)
    embed_pending(engine, model)
    index = VectorIndex(model.id)
    wanted = model.vectors(["car"])[0]

    def nearest() -> list[str]:
        with session(engine) as opened:
            return [one.passage.title for one in index.nearest(opened, wanted, 9, ("everyone",))]

    assert nearest() == ["page 0: Garage", "page 1: Holiday"]
    store(engine, HOLIDAY, ROOMS)
    embed_pending(engine, model)
    assert len(nearest()) == 2
    clean_up(engine, now())
    assert sorted(nearest()) == ["page 0: Holiday", "page 1: Lodging"]
    with session(engine) as opened:
        for row in opened.exec(select(TextVector)):
            opened.delete(row)
    assert nearest() == []


def test_scores_of_both_searches_are_added_between_none_and_one() -> None:
    scores = fused_scores({"a": 0.6, "b": 0.4, "d": 0.2}, {"b": 9.0, "c": 3.0})
    assert scores["a"] == pytest.approx(0.6)
    assert scores["b"] == pytest.approx(0.6 * 0.5 + 0.4)
    # Without a vector it counts like the farthest.
    assert scores["c"] == pytest.approx(0.4 / 3)
    assert scores["d"] == pytest.approx(0.0)
    assert fused_scores({"a": 0.5}, {}) == {"a": pytest.approx(0.6)}
    assert fused_scores({}, {"a": 0.0}) == {"a": pytest.approx(0.0)}


def test_a_section_that_is_near_speaks_for_its_passages(
    engine: Engine, settings: Settings, folder: Path
) -> None:
    filler = "It is told in many words and at great length. " * 8
    apart = f"# Place\nForms are there. {filler}\n\n"
    store(engine, f"{apart}Vehicle, garage, car. {filler}", f"{apart}Wage, money, salary. {filler}")
    embed_pending(engine, embedding(folder))
    with session(engine) as opened:
        passages = {one.id: one for one in opened.exec(select(Passage))}
    model = embedding(folder)
    index, wanted = VectorIndex(model.id), model.vectors(["car"])[0]
    with session(engine) as opened:
        around = index.around(opened, wanted, list(passages))
    alike = [around[number] for number, one in passages.items() if "Forms" in one.text]
    assert len(alike) == 2
    assert alike[0].passage == pytest.approx(alike[1].passage)
    assert alike[0].section != pytest.approx(alike[1].section)
    for section in {passages[number].document_id for number in passages}:
        inside = [around[n] for n, one in passages.items() if one.document_id == section]
        mean = sum(one.passage for one in inside) / len(inside)
        assert [one.section for one in inside] == pytest.approx([mean] * len(inside))


def _with_random_vectors(opened: Session, numbers: np.random.Generator) -> dict[str, np.ndarray]:
    where = select(Passage, tables.Document.external_id).join(tables.Document)
    placed = {}
    for passage, name in opened.exec(where).all():
        placed[name] = _unit(numbers.normal(size=8))
        passage.text_hash = f"h{name}"
        opened.add(passage)
        row = TextVector(model="random", hash=f"h{name}", vector=placed[name].tobytes())
        opened.add(row)
    return placed


def _unit(vector: np.ndarray) -> np.ndarray:
    return (vector / np.linalg.norm(vector)).astype("<f4")
