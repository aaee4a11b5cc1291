"""The source keeps Heed's contract."""

import pytest
from heed_notes import Notes

testing = pytest.importorskip("plugins.testing")


class Folder(testing.Place):
    """Five notes in pages of two."""

    wrong = ({"page": 0}, {"path": None})

    def settings(self):
        for text in ("Behind the house.", "At noon.", "Thirty days.", "Ask Ada.", "Upstairs."):
            self.add(text)
        return {"path": str(self.folder), "page": 2}

    def add(self, text):
        name = f"note-{len(list(self.folder.iterdir()))}.txt"
        (self.folder / name).write_text(text, "utf-8")
        return name

    def change(self):
        (self.folder / "note-1.txt").write_text("At one.", "utf-8")
        return "note-1.txt"

    def remove(self):
        (self.folder / "note-1.txt").unlink()
        return "note-1.txt"

    def empty(self):
        for file in self.folder.iterdir():
            file.unlink()

    def spoil(self):
        (self.folder / "note-1.txt").write_bytes(b"\xff\xfe\x00")

    def take_away(self):
        self.folder.rename(f"{self.folder}-away")

    def recover(self):
        self.folder.with_name(f"{self.folder.name}-away").rename(self.folder)


TestNotes = testing.source_tests(Notes, Folder)
