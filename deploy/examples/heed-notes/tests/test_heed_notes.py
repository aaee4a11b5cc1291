"""What the source brings, without Heed."""

from heed_notes import Notes, Settings


def test_notes_are_listed_with_a_checkpoint_after_each_page(tmp_path):
    (tmp_path / "lunch.txt").write_text("At noon.\n")
    (tmp_path / "parking.txt").write_text("Behind the house.\n")
    assert list(Notes(Settings(tmp_path, page=1)).items({"after": "lunch.txt"})) == [
        {
            "kind": "document",
            "id": "parking.txt",
            "title": "parking",
            "text": "Behind the house.",
        },
        {"kind": "checkpoint", "cursor": {"after": "parking.txt"}},
        {"kind": "complete"},
    ]


def test_a_note_without_text_is_rejected(tmp_path):
    (tmp_path / "empty.txt").write_text(" \n")
    rejected, _ = Notes(Settings(tmp_path)).items({})
    assert rejected == {"kind": "rejected", "where": "empty.txt", "reason": "has no text"}
