"""Documents of several kinds become text; a file that is broken or slow harms no other."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pptx import Presentation

from plugins import file_converter
from plugins.contract import (
    Checkpoint,
    Complete,
    Document,
    Item,
    Partial,
    Rejected,
    Removal,
    SourceError,
)
from plugins.file_converter import ConversionError, Converter
from plugins.files import FILES_PER_CHECKPOINT, MOST_TRIES, Files
from plugins.testing import Place, source_tests
from service.plugin_fields import checked


class Cabinet(Place):
    """Two texts and a web page."""

    wrong: ClassVar[Sequence[Mapping[str, Any]]] = (
        {"pattern": "../*"},
        {"pattern": ""},
        {"seconds": 0},
    )

    def settings(self) -> Mapping[str, Any]:
        self.place = self.folder / "cabinet"
        self.place.mkdir()
        self.add("The first.")
        self.add("The second.")
        (self.place / "page.html").write_text("<title>Gym</title><h1>Gym</h1><p>At six.</p>")
        return {"path": str(self.place)}

    def add(self, text: str) -> str:
        name = f"text-{len(list(self.place.iterdir()))}.txt"
        (self.place / name).write_text(text, "utf-8")
        return name

    def change(self) -> str:
        (self.place / "text-1.txt").write_text("Another text.")
        return "text-1.txt"

    def remove(self) -> str:
        (self.place / "text-1.txt").unlink()
        return "text-1.txt"

    def empty(self) -> None:
        for file in self.place.iterdir():
            file.unlink()

    def spoil(self) -> None:
        (self.place / "text-1.txt").write_text(" ")

    def take_away(self) -> None:
        self.place.rename(self.folder / "away")

    def recover(self) -> None:
        (self.folder / "away").rename(self.place)


TestFiles = source_tests(Files, Cabinet)

WORD = """<?xml version="1.0"?>
<w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body>
<w:p><w:pPr><w:pStyle w:val="Heading1"/></w:pPr><w:r><w:t>Travel</w:t></w:r></w:p>
<w:p><w:r><w:t>A hotel may cost 120 euros.</w:t></w:r></w:p>
</w:body></w:document>"""
WORD_RELATIONS = """<?xml version="1.0"?>
<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">
<Relationship Id="r1" Target="word/document.xml"
 Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"/>
</Relationships>"""
WORD_TYPES = """<?xml version="1.0"?>
<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">
<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>
<Override PartName="/word/document.xml"
 ContentType="application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"/>
</Types>"""


def write_word(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("[Content_Types].xml", WORD_TYPES)
        packed.writestr("_rels/.rels", WORD_RELATIONS)
        packed.writestr("word/document.xml", WORD)


def write_slides(path: Path) -> None:
    made = Presentation()
    for title, text in (("Welcome", "Glad that you are here."), ("Parking", "Behind the house.")):
        slide = made.slides.add_slide(made.slide_layouts[1])
        slide.shapes.title.text = title
        slide.placeholders[1].text = text
    made.save(str(path))


def write_pdf(path: Path, text: str) -> None:
    """One page with a line of text, as the format's simplest form has it."""
    drawn = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R "
        b"/Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(drawn), drawn),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    data, starts = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        starts.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % start for start in starts)
    end = b"trailer << /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % len(data)
    path.write_bytes(data + b"xref\n0 6\n0000000000 65535 f \n" + table + end)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "cabinet"
    made.mkdir()
    return made


def read(folder: Path, cursor: Any = None, **options: Any) -> list[Item]:
    source = Files(checked(Files.Settings, {"path": str(folder), **options}))
    return list(source.items(cursor or {}))


def documents(items: list[Item]) -> dict[str, Document]:
    return {item.id: item for item in items if isinstance(item, Document)}


def test_word_slides_pdf_and_html_become_text_with_headings(folder: Path) -> None:
    write_word(folder / "travel.docx")
    write_slides(folder / "welcome.pptx")
    write_pdf(folder / "leave_days.pdf", "Everybody has 28 days of leave.")
    (folder / "gym.html").write_text(
        "<title>The gym</title><script>alert(1)</script><h2>Hours</h2><p>At six.</p>"
    )
    found = documents(read(folder))
    assert found["travel.docx"].text == "# Travel\n\nA hotel may cost 120 euros."
    assert found["travel.docx"].title == "Travel"
    assert "## Slide 2" in found["welcome.pptx"].text
    assert "Behind the house." in found["welcome.pptx"].text
    assert found["leave_days.pdf"].text == "Everybody has 28 days of leave."
    assert found["leave_days.pdf"].title == "leave days"
    assert found["gym.html"].title == "The gym"
    assert found["gym.html"].text == "## Hours\n\nAt six."


def test_files_that_are_broken_are_rejected_once_and_told_each_time(folder: Path) -> None:
    (folder / "ok.txt").write_text("Fine.")
    (folder / "broken.docx").write_bytes(b"PK\x03\x04 no word at all")
    (folder / "broken.pdf").write_bytes(b"%PDF-1.4 nothing")
    (folder / "empty.html").write_text("<p></p>")
    first = read(folder)
    assert list(documents(first)) == ["ok.txt"]
    faults = [item for item in first if isinstance(item, Rejected)]
    assert sorted(fault.where for fault in faults) == ["broken.docx", "broken.pdf", "empty.html"]
    end: Any = first[-1]
    again = read(folder, end.cursor)
    assert [item for item in again if isinstance(item, Rejected)] == faults
    assert isinstance(again[-1], Partial)


def test_a_file_that_becomes_unusable_is_shown_no_longer(folder: Path) -> None:
    (folder / "a.txt").write_text("Fine.")
    (folder / "b.txt").write_text("Fine too.")
    end: Any = read(folder)[-1]
    (folder / "b.txt").write_text(" ")
    assert [type(item) for item in read(folder, end.cursor)] == [Removal, Rejected, Partial]


def test_other_kinds_hidden_files_and_links_out_are_not_read(folder: Path, tmp_path: Path) -> None:
    (folder / "ok.txt").write_text("Fine.")
    (folder / ".hidden.txt").write_text("Hidden.")
    (folder / "~$travel.docx").write_bytes(b"x")
    (folder / "photo.png").write_bytes(b"x")
    (tmp_path / "secret.txt").write_text("Secret.")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    items = read(folder)
    assert list(documents(items)) == ["ok.txt"]
    [rejected] = [item for item in items if isinstance(item, Rejected)]
    assert (rejected.where, "not followed" in rejected.reason) == ("link.txt", True)


def test_a_sync_that_is_cut_off_goes_on_behind_its_checkpoint(folder: Path) -> None:
    for number in range(FILES_PER_CHECKPOINT + 3):
        (folder / f"{number:03}.txt").write_text(f"Number {number}.")
    items = read(folder)
    at = next(n for n, item in enumerate(items) if isinstance(item, Checkpoint))
    checkpoint: Any = items[at]
    rest = read(folder, checkpoint.cursor)
    assert documents(items[:at]).keys() | documents(rest).keys() == documents(items).keys()
    assert len(documents(rest)) == 3
    assert isinstance(rest[-1], Complete)


def test_nothing_to_read_is_told(folder: Path) -> None:
    with pytest.raises(SourceError, match="holds no file that matches"):
        read(folder)
    (folder / "a.txt").write_text(" ")
    with pytest.raises(SourceError, match="so nothing was changed"):
        read(folder)


@pytest.mark.parametrize(
    "text", ["Das Café in Köln öffnet früh, und schließt spät für Gäste", "Привет, как дела?"]
)
def test_other_encodings_than_utf8_are_guessed(folder: Path, text: str) -> None:
    encoding = "cp1252" if text.startswith("Das") else "cp1251"
    (folder / "a.txt").write_bytes((f"{text}. " * 40).encode(encoding))
    assert text in documents(read(folder))["a.txt"].text


def test_a_conversion_that_takes_too_long_is_ended_and_the_next_goes_on(tmp_path: Path) -> None:
    pipe, fine = tmp_path / "pipe.pdf", tmp_path / "fine.pdf"
    os.mkfifo(pipe)
    write_pdf(fine, "Fine.")
    converter = Converter(1.5)
    try:
        with pytest.raises(ConversionError, match=r"takes longer than 1\.5 s"):
            converter.convert(pipe)
        converter.limit_s = 30
        assert converter.convert(fine).text == "Fine."
    finally:
        converter.close()


def test_a_converter_that_dies_is_told_and_begun_anew(tmp_path: Path) -> None:
    fine = tmp_path / "fine.pdf"
    write_pdf(fine, "Fine.")
    converter = Converter(30)
    try:
        assert converter.convert(fine).text == "Fine."
        process = converter._process
        assert process is not None
        process.kill()
        process.wait()
        assert converter.convert(fine).text == "Fine."
    finally:
        converter.close()


ASLEEP = """
import time
from plugins import file_converter
file_converter._converted = lambda *_: time.sleep(60)
file_converter.main()
"""


def test_a_conversion_that_was_cut_off_is_tried_again_some_times(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "ok.txt").write_text("Fine.")
    write_pdf(folder / "slow.pdf", "Slow.")
    cursor: Any = {}
    for _ in range(MOST_TRIES):
        with monkeypatch.context() as patched:
            patched.setattr(file_converter, "_CODE", ASLEEP)
            items = read(folder, cursor, seconds=0.1)
        [rejected] = [item for item in items if isinstance(item, Rejected)]
        assert (rejected.where, "takes longer" in rejected.reason) == ("slow.pdf", True)
        end: Any = items[-1]
        before, cursor = cursor, end.cursor
    assert list(documents(read(folder, before))) == ["slow.pdf"]
    again = read(folder, cursor)
    assert [type(item) for item in again] == [Rejected, Partial]
