"""A corrected answer waits, is accepted or rejected once, and is trained on only if accepted."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine

from service.cli import main
from service.corrections import accept, find_proposed, proposed, reject
from service.database import migrate, open_database, session
from service.errors import ConflictError, NotFoundError
from service.evidence import gather_demonstrations, read_sides
from service.feedback import propose_correction
from tests.service.conversations import Talk, make_talk

RIGHT = "There are 28 days of leave a year."


def proposal(engine: Engine) -> tuple[Talk, str]:
    talk = make_talk(engine)
    with session(engine) as opened:
        return talk, propose_correction(opened, talk.person, talk.candidate_a, RIGHT).id


def learnt(engine: Engine) -> list[str]:
    with session(engine) as opened:
        sides = read_sides(opened, held_out_percent=1)
        return [item.answer for item in gather_demonstrations(opened, sides, passages=0)]


def test_only_an_accepted_correction_is_trained_on(engine: Engine) -> None:
    _talk, correction = proposal(engine)
    assert learnt(engine) == []
    with session(engine) as opened:
        accept(opened, correction, "the leave desk")
    assert learnt(engine) == [RIGHT]
    with session(engine) as opened:
        assert not proposed(opened)


def test_a_rejected_correction_is_never_trained_on(engine: Engine) -> None:
    _talk, correction = proposal(engine)
    with session(engine) as opened:
        reject(opened, correction, "the leave desk", "It is not so.")
        assert not proposed(opened)
    assert learnt(engine) == []


def test_a_correction_is_decided_once(engine: Engine) -> None:
    _talk, correction = proposal(engine)
    with session(engine) as opened:
        reject(opened, correction, "the leave desk", "It is not so.")
    with session(engine) as opened, pytest.raises(ConflictError, match="decided already"):
        accept(opened, correction, "somebody else")
    assert learnt(engine) == []


@pytest.mark.parametrize("beginning", ["", "zzzz"])
def test_an_unknown_correction_is_said(engine: Engine, beginning: str) -> None:
    proposal(engine)
    with session(engine) as opened, pytest.raises(NotFoundError, match="heed corrections list"):
        find_proposed(opened, beginning)


def test_corrections_are_decided_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    database = open_database(f"sqlite:///{tmp_path}/heed-data/heed.db")
    migrate(database)
    _talk, correction = proposal(database)
    assert main(["corrections", "list"]) == 0
    assert RIGHT in capsys.readouterr().out
    assert main(["corrections", "accept", correction[:8]]) == 0
    assert learnt(database) == [RIGHT]
    assert main(["corrections", "list"]) == 3
    database.dispose()
