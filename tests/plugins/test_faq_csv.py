"""faq_csv reads what can be read, and says by line what cannot."""

from __future__ import annotations

import csv
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from plugins.contract import Complete, GoldPair, Item, OptionsError, Rejected, SourceError
from plugins.faq_csv import FaqCsv
from service.plugin_fields import checked


def made(options: dict[str, Any]) -> FaqCsv:
    return FaqCsv(checked(FaqCsv.Settings, options))


def read(path: Path, content: str | bytes, **options: Any) -> list[Item]:
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(data)
    return list(made({"path": str(path), **options}).items({}))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "faq.csv"


def test_reads_every_column_whatever_its_order_and_case(file: Path) -> None:
    items = read(
        file,
        "Author, ANSWER ,updated,Id,Question,topic\n"
        'Ada,"Yes, two days.",2026-03-31,leave-1,May I work from home?,hr\n',
    )
    assert items == [
        GoldPair(
            "leave-1",
            "May I work from home?",
            "Yes, two days.",
            "Ada",
            datetime(2026, 3, 31, tzinfo=UTC),
        ),
        Complete(),
    ]


def test_a_moment_with_a_zone_is_taken_to_utc(file: Path) -> None:
    pair = read(file, "question,answer,updated\nWhen?,Now.,2026-03-31T12:00+02:00\n")[0]
    assert isinstance(pair, GoldPair)
    assert pair.updated == datetime(2026, 3, 31, 10, tzinfo=UTC)


def test_an_id_made_from_the_question_survives_edits_of_the_answer_and_spacing(file: Path) -> None:
    first = read(file, "question,answer\nWhere is the  office?,In Leeds.\n")[0]
    second = read(file, "answer,question\nIn Pune.,where is the office\n")[0]
    other = read(file, "question,answer\nWhere is the canteen?,In Leeds.\n")[0]
    assert isinstance(first, GoldPair)
    assert isinstance(second, GoldPair)
    assert isinstance(other, GoldPair)
    assert first.id == second.id != other.id


def test_a_byte_order_mark_and_another_delimiter_are_read(file: Path) -> None:
    pair, end = read(file, "\ufeffid;question;answer\n1;Who?;Me, of course.\n", delimiter=";")
    assert pair == GoldPair("1", "Who?", "Me, of course.")
    assert end == Complete()


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("How?,", "has no answer"),
        (',"Like this."', "has no question"),
        ("How?", "has no answer"),
        ("How?,Like this,a,2026-01-01,x,and more", "has 6 fields, but the first line names 4"),
        ("How?,Like this.,a,yesterday", "updated is 'yesterday'; write it like 2026-03-31"),
        ("How?,Like this.,a,0001-01-01T00:00+23:00", "write it like 2026-03-31"),
        ("How?,Like\0this.", "answer holds a NUL character"),
        (f"How?,{'x' * 20_001}", "answer has 20001 characters; at most 20000"),
        (f"How?,{'x' * 200_000}", "answer has 200000 characters"),
        ("Good?,Like this.", "has the same question as line 2"),
        ("good ,Like this.,a", "has the same question as line 2"),
    ],
)
def test_a_row_that_cannot_be_used_is_rejected_by_line_and_the_others_go_on(
    file: Path, row: str, reason: str
) -> None:
    items = read(
        file, f"question,answer,author,updated\nGood?,Yes.\n{row}\n\n,,,\nLast?,Also yes.\n"
    )
    good, rejected, last, end = items
    assert isinstance(good, GoldPair)
    assert isinstance(rejected, Rejected)
    assert rejected.where == "faq.csv line 3"
    assert reason in rejected.reason
    assert isinstance(last, GoldPair)
    assert end == Complete()


def test_lines_are_counted_where_answers_hold_line_breaks(file: Path) -> None:
    items = read(file, 'id,question,answer\n1,A?,"one\ntwo\nthree"\n1,B?,Twice.\n')
    assert items[1] == Rejected("faq.csv line 5", "has the same id as line 2; remove one")


def test_the_process_wide_field_limit_is_left_as_it_was(file: Path) -> None:
    before = csv.field_size_limit()
    read(file, f"question,answer\nShort?,Yes.\nLong?,{'x' * (before + 1)}\n")
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "is empty"),
        (" \n\n", "is empty"),
        ("question,reply\nA?,B.\n", "lacks the column answer: it has 'question', 'reply'"),
        ("frage,antwort\nA?,B.\n", "lacks the column question and answer"),
        ("question;answer\nA?;B.\n", "separated by ';': set the option delimiter"),
        ("question,answer,Answer\nA?,B.,C.\n", "has the column answer twice"),
        (",,\n", "is empty; its first line must name the columns"),
        ("question,answer\n", "no row that can be used, so nothing was changed"),
        ("question,answer\nA?,\n,B.\n", "so nothing was changed (faq.csv line 2 has no answer)"),
        ('question,answer\nA?,B.\nC?,"D.\nE?,F.\n', "line 3: unexpected end of data"),
        ('question,answer\nA?,"B" or C.\n', "line 2: ',' expected after '\"'"),
        (
            "question,answer\nA?,B.\nCafé?,Oui.\n".encode("cp1252"),
            "byte 25 (line 3) is 0xe9; save it as UTF-8",
        ),
        ("question,answer\nA?,B.\n".encode("utf-16"), "is not UTF-8: byte 0"),
    ],
)
def test_a_file_that_cannot_be_read_as_a_whole_is_a_source_error(
    file: Path, content: str | bytes, told: str
) -> None:
    with pytest.raises(SourceError) as caught:
        read(file, content)
    assert str(file) in str(caught.value)
    assert told in str(caught.value)


@pytest.mark.parametrize("name", ["missing.csv", "."])
def test_a_missing_file_or_a_folder_is_a_source_error(tmp_path: Path, name: str) -> None:
    source = made({"path": str(tmp_path / name)})
    with pytest.raises(SourceError, match=r"cannot be read .*; check the source's option path"):
        list(source.items({}))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "option path is missing: The file"),
        ({"path": 3}, "option path is 3"),
        ({"path": "a.csv", "delimiter": "||"}, "option delimiter is '||'"),
        ({"path": "a.csv", "delimiter": '"'}, "option delimiter is"),
        ({"path": "a.csv", "delimeter": ";"}, "option 'delimeter' is unknown"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], told: str) -> None:
    with pytest.raises(OptionsError) as caught:
        made(options)
    assert told in str(caught.value)


def test_tabs_separate_the_columns_of_a_tsv_file(tmp_path: Path) -> None:
    pair, end = read(tmp_path / "faq.tsv", "id\tquestion\tanswer\n1\tWho?\tMe, of course.\n")
    assert pair == GoldPair("1", "Who?", "Me, of course.")
    assert end == Complete()


def test_json_lines_are_read_and_broken_ones_rejected(tmp_path: Path) -> None:
    lines = (
        '{"question": "Who?", "answer": "Me.", "id": 7, "tags": ["a"]}\n\n'
        '{"Answer": "Here.", "question": "Where?"}\n{"question": "Why?"}\n[1]\n{"question"\n'
    )
    items = read(tmp_path / "faq.jsonl", lines)
    assert items[0] == GoldPair("7", "Who?", "Me.")
    told = [(item.where, item.reason[:20]) for item in items if isinstance(item, Rejected)]
    assert told == [
        ("faq.jsonl line 4", "has no answer"),
        ("faq.jsonl line 5", "is no JSON object; w"),
        ("faq.jsonl line 6", "is no JSON (Expectin"),
    ]


def write_workbook(path: Path) -> None:
    import openpyxl

    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    sheet.append(["Notes"])
    second = book.create_sheet("FAQ")
    second.append([None, "Question", "Answer", "ID", "Updated"])
    second.append([None, "Who?", "Me, of course.", 7, datetime(2026, 3, 31)])
    second.append([])
    second.append([None, "Where?", None, 8.0, None])
    book.save(path)


def test_a_sheet_of_a_workbook_is_read(tmp_path: Path) -> None:
    path = tmp_path / "faq.xlsx"
    write_workbook(path)
    items = list(made({"path": str(path), "sheet": "FAQ"}).items({}))
    assert items == [
        GoldPair("7", "Who?", "Me, of course.", None, datetime(2026, 3, 31, tzinfo=UTC)),
        Rejected("faq.xlsx line 4", "has no answer"),
        Complete(),
    ]
    with pytest.raises(SourceError, match="lacks the column question and answer: it has 'Notes'"):
        list(made({"path": str(path)}).items({}))
    with pytest.raises(SourceError, match="no sheet 'Faq', but 'Sheet', 'FAQ'"):
        list(made({"path": str(path), "sheet": "Faq"}).items({}))


@pytest.mark.parametrize("name", ["faq.xlsx", "faq.jsonl"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 nothing", b"\x00\x01"])
def test_a_broken_file_of_each_kind_is_a_source_error(
    tmp_path: Path, name: str, content: bytes
) -> None:
    with pytest.raises(SourceError):
        read(tmp_path / name, content)
