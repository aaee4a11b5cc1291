"""Threads of a Slack export become documents, answered questions gold pairs; what is private
stays with its members."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest

from plugins.contract import Complete, Document, GoldPair, Item, Rejected, SourceError
from plugins.slack_export import SlackExport
from plugins.testing import Place, source_tests
from service.plugin_fields import checked

ADA, BOB = "U1", "U2"


def message(moment: float, text: str, user: str = ADA, **more: Any) -> dict[str, Any]:
    return {"type": "message", "ts": f"{moment:.6f}", "text": text, "user": user, **more}


class Export(Place):
    """Two public threads and a private one, as Slack lays them out in a folder."""

    wrong: ClassVar[Sequence[Mapping[str, Any]]] = ({"replies": -1},)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.path = folder / "export"
        self.threads = {"1700000000.000000": "Text one.", "1700000100.000000": "Text two."}

    def settings(self) -> Mapping[str, Any]:
        self.path.mkdir()
        people = [
            {"id": ADA, "name": "ada", "profile": {"real_name": "Ada", "email": "ada@example.com"}},
            {"id": BOB, "name": "bob", "profile": {"display_name": "Bob"}},
        ]
        self.put("users.json", people)
        self.put("channels.json", [{"id": "C1", "name": "help"}, {"id": "C2", "name": "quiet"}])
        self.put("groups.json", [{"id": "G1", "name": "board", "members": [ADA, BOB]}])
        self.put("dms.json", [{"id": "D1", "members": [ADA, BOB]}])
        (self.path / "quiet").mkdir()
        secret = message(1700000200, "The secret plan.")
        reply = message(1700000210, "Hush.", BOB, thread_ts=secret["ts"])
        self.put("board/2023-11-14.json", [secret, reply])
        self.put("D1/2023-11-14.json", [message(1700000300, "Dear."), message(1700000301, "Dear?")])
        self.write()
        return {"path": str(self.path)}

    def put(self, name: str, content: Any) -> None:
        file = self.path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content))

    def write(self) -> None:
        messages = []
        for started, text in self.threads.items():
            messages += [
                message(float(started), text),
                message(float(started) + 60, "Thank you.", BOB, thread_ts=started),
            ]
        self.put("help/2023-11-14.json", messages)

    def add(self, text: str) -> str:
        started = f"{1700000000 + 1000 * len(self.threads)}.000000"
        # As Slack writes what people typed.
        self.threads[started] = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        self.write()
        return f"help/{started}"

    def change(self) -> str:
        self.threads["1700000000.000000"] = "Now this."
        self.write()
        return "help/1700000000.000000"

    def remove(self) -> str:
        del self.threads["1700000000.000000"]
        self.write()
        return "help/1700000000.000000"

    def empty(self) -> None:
        self.threads = {}
        self.write()

    def spoil(self) -> None:
        self.threads["1700000000.000000"] = " "
        self.write()

    def take_away(self) -> None:
        self.path.rename(self.folder / "away")

    def recover(self) -> None:
        (self.folder / "away").rename(self.path)


TestSlackExport = source_tests(SlackExport, Export)


@pytest.fixture
def export(tmp_path: Path) -> Export:
    made = Export(tmp_path)
    made.settings()
    return made


def read(path: Path, **options: Any) -> list[Item]:
    source = SlackExport(checked(SlackExport.Settings, {"path": str(path), **options}))
    return list(source.items({}))


def documents(items: list[Item]) -> dict[str, Document]:
    return {item.id: item for item in items if isinstance(item, Document)}


def test_a_thread_is_a_document_of_who_said_what(export: Export) -> None:
    text = (
        "Ask <@U2> or <@U9> in <#C1|help>, <!here>: "
        "<https://example.com/a|the form> &amp; <https://example.com>"
    )
    export.threads = {"1700000000.000000": text}
    export.write()
    items = read(export.path)
    told = "Ask @Bob or @somebody in #help, @here: the form (https://example.com/a) & "
    assert items == [
        Document(
            "help/1700000000.000000",
            "#help: Ask @Bob or @somebody in #help, @here: the form (https://example.com/a)…",
            f"Ada: {told}https://example.com\n\nBob: Thank you.",
            None,
            datetime.fromtimestamp(1700000060, UTC),
        ),
        Complete(),
    ]


def test_a_question_with_a_marked_reply_is_a_gold_pair(export: Export) -> None:
    started = "1700000000.000000"
    marks = [{"name": "white_check_mark", "count": 2}, {"name": "tada", "count": 9}]
    replies = [
        message(1700000010, "No idea.", BOB, thread_ts=started, reactions=[{"name": "heart"}]),
        message(1700000020, "Behind the house.", BOB, thread_ts=started, reactions=marks),
    ]
    export.put("help/2023-11-14.json", [message(1700000000, "Where do I park?"), *replies])
    [pair] = [item for item in read(export.path) if isinstance(item, GoldPair)]
    assert (pair.id, pair.question) == (f"help/{started}#answer", "Where do I park?")
    assert (pair.answer, pair.author) == ("Behind the house.", "Bob")
    without = read(export.path, accepted=["rocket"])
    assert not any(isinstance(item, GoldPair) for item in without)


def test_a_thread_that_goes_on_another_day_is_one(export: Export) -> None:
    started = "1700000000.000000"
    export.put("help/2023-11-15.json", [message(1700090000, "And later.", BOB, thread_ts=started)])
    assert "Bob: And later." in documents(read(export.path))[f"help/{started}"].text


def test_private_channels_are_for_their_members_and_only_if_asked_for(export: Export) -> None:
    assert not any("board" in name for name in documents(read(export.path)))
    found = documents(read(export.path, private=True))["board/1700000200.000000"]
    assert found.readers == ("person:ada@example.com",)
    export.put("users.json", [])
    [rejected] = [item for item in read(export.path, private=True) if isinstance(item, Rejected)]
    assert "e-mail address" in rejected.reason


def test_direct_messages_are_never_read(export: Export) -> None:
    items = read(export.path, private=True, replies=0)
    assert not any("Dear" in item.text for item in items if isinstance(item, Document))


def test_channels_and_replies_are_chosen(export: Export) -> None:
    export.put("quiet/2023-11-14.json", [message(1700000500, "Nobody answers.")])
    assert list(documents(read(export.path, channels=["#quiet"], replies=0))) == [
        "quiet/1700000500.000000"
    ]
    with pytest.raises(SourceError, match="no thread with 1 replies"):
        read(export.path, channels=["quiet"])


def test_joins_and_bots_are_left_out(export: Export) -> None:
    noise = [
        message(1700000001, "Ada joined.", subtype="channel_join"),
        {"type": "file_comment", "ts": "1700000002.000000", "text": "Noise."},
    ]
    export.put("help/2023-11-13.json", noise)
    assert "Noise" not in str(read(export.path, replies=0))


def test_the_zip_file_reads_as_the_folder(export: Export, tmp_path: Path) -> None:
    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", export.path)
    assert read(Path(packed)) == read(export.path)


def test_what_is_no_export_is_told(export: Export, tmp_path: Path) -> None:
    broken = tmp_path / "broken.zip"
    broken.write_bytes(b"PK nothing")
    with pytest.raises(SourceError, match="no readable ZIP file"):
        read(broken)
    (tmp_path / "other").mkdir()
    with pytest.raises(SourceError, match="is it a Slack export"):
        read(tmp_path / "other")
    (export.path / "help" / "2023-11-16.json").write_text("{")
    [rejected] = [item for item in read(export.path) if isinstance(item, Rejected)]
    assert rejected.where == "help/2023-11-16.json"
    (export.path / "users.json").write_text("{}")
    with pytest.raises(SourceError, match=r"users\.json holds no list"):
        read(export.path)


@pytest.mark.parametrize("name", ["..", ".", "../other", ""])
def test_a_channel_whose_name_leads_elsewhere_is_not_read(export: Export, name: str) -> None:
    (export.folder / "other").mkdir()
    for place in (export.path.parent, export.path, export.folder / "other"):
        (place / "2023-11-14.json").write_text(
            json.dumps([message(1700000400, "Not of the export?")])
        )
    export.put("channels.json", [{"id": "C1", "name": "help"}, {"id": "C3", "name": name}])
    found = documents(read(export.path, replies=0))
    assert found
    assert "Not of the export" not in str(found)
