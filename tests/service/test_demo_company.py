"""The demonstration company is complete, readable and free of repeated questions."""

import csv
import datetime
import re
from pathlib import Path

COMPANY = Path(__file__).parents[2] / "service/demo/company"
COLUMNS = ["id", "question", "answer", "author", "updated"]


def documents() -> dict[str, str]:
    paths = sorted((COMPANY / "documents").glob("*.md"))
    return {path.name: path.read_text(encoding="utf-8") for path in paths}


def sections(text: str) -> list[tuple[str, str]]:
    """The (heading, body) pairs of one document."""
    parts = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    return [(part.split("\n", 1)[0].strip(), part.split("\n", 1)[1].strip()) for part in parts]


def rows(name: str) -> list[dict[str, str]]:
    with (COMPANY / name).open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle, strict=True))


def all_rows() -> list[dict[str, str]]:
    return rows("gold.csv") + rows("held_out.csv")


def normalised(question: str) -> str:
    return " ".join(re.findall(r"\w+", question.lower()))


def test_every_file_is_utf8() -> None:
    for path in COMPANY.rglob("*"):
        if path.is_file():
            path.read_bytes().decode("utf-8")


def test_there_are_enough_documents() -> None:
    assert len(documents()) >= 25


def test_documents_have_title_owner_and_sections() -> None:
    for name, text in documents().items():
        lines = [line for line in text.splitlines() if line.strip()]
        assert lines[0].startswith("# "), name
        assert re.fullmatch(r"Owner: .+\. Last changed \d{4}-\d{2}-\d{2}\.", lines[1]), name
        assert sections(text), name


def test_sections_are_short() -> None:
    for name, text in documents().items():
        for heading, body in sections(text):
            if not heading.endswith("?"):
                assert 15 <= len(body.split()) <= 90, (name, heading)


def test_only_two_documents_ask_questions() -> None:
    asked = {
        name: sum(heading.endswith("?") for heading, _ in sections(text))
        for name, text in documents().items()
    }
    asking = {name: count for name, count in asked.items() if count}
    assert sorted(asking) == ["benefits-questions.md", "it-questions.md"]
    assert min(asking.values()) >= 4


def test_replaced_policies_say_so() -> None:
    replaced = {name for name, text in documents().items() if "was replaced by" in text}
    assert len(replaced) >= 5
    assert replaced == {name for name in documents() if name.endswith("-2024.md")}


def test_csv_columns() -> None:
    for name in ("gold.csv", "held_out.csv"):
        with (COMPANY / name).open(encoding="utf-8", newline="") as handle:
            table = list(csv.reader(handle, strict=True))
        assert table[0] == COLUMNS, name
        assert all(len(row) == len(COLUMNS) and all(row) for row in table), name


def test_row_counts() -> None:
    assert len(rows("gold.csv")) >= 120
    assert len(rows("held_out.csv")) == 40


def test_ids_and_questions_are_unique() -> None:
    ids = [row["id"] for row in all_rows()]
    questions = [normalised(row["question"]) for row in all_rows()]
    assert len(set(ids)) == len(ids)
    assert len(set(questions)) == len(questions)


def test_answers_have_a_sensible_length() -> None:
    for row in all_rows():
        assert 4 <= len(row["answer"].split()) <= 45, row["id"]


def test_dates_are_iso_dates_of_2025_or_2026() -> None:
    for row in all_rows():
        assert datetime.date.fromisoformat(row["updated"]).year in (2025, 2026), row["id"]
