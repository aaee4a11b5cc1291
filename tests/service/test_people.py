"""A visitor is known by a token that the database does not hold."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, text
from sqlmodel import select

from service.database import session
from service.errors import InvalidInputError
from service.people import holder, person_by_token, simulated_person, visitor
from service.tables import Person


def test_a_visitor_comes_back_by_their_token(engine: Engine) -> None:
    with session(engine) as opened:
        person, token = visitor(opened, None)
    with session(engine) as opened:
        again, same = visitor(opened, token)
    assert (again.id, same) == (person.id, token)
    assert (person.kind, person.role) == ("person", "employee")


def test_an_unknown_token_is_not_taken_over(engine: Engine) -> None:
    chosen = "chosen-by-the-client-" + "x" * 30
    with session(engine) as opened:
        person, token = visitor(opened, chosen)
        assert token != chosen
        assert person_by_token(opened, chosen) is None
        assert person_by_token(opened, token) == person


def test_strange_tokens_belong_to_nobody(engine: Engine) -> None:
    with session(engine) as opened:
        for token in (None, "", "\x00", "\ud800", "x" * 100_000):
            assert person_by_token(opened, token) is None


def test_the_token_itself_is_not_stored(engine: Engine) -> None:
    with session(engine) as opened:
        _person, token = visitor(opened, None)
    with engine.connect() as connection:
        row = connection.execute(text("SELECT * FROM person")).one()
    assert token not in [str(value) for value in row]


def test_a_simulated_person_is_made_once_and_labelled(engine: Engine) -> None:
    with session(engine) as opened:
        first = simulated_person(opened, "voter")
    with session(engine) as opened:
        assert simulated_person(opened, "voter").id == first.id
        assert simulated_person(opened, "another").id != first.id
        people = opened.exec(select(Person)).all()
    assert [person.kind for person in people] == ["simulated", "simulated"]


def test_a_token_of_ones_own_is_one_visitor_from_its_first_use(engine: Engine) -> None:
    def look(_number: int) -> str:
        with session(engine) as opened:
            return holder(opened, "a-key").id

    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(look, range(16)))
    assert len(found) == 1
    with session(engine) as opened:
        assert holder(opened, "another-key").id not in found
        found_by_cookie = person_by_token(opened, "a-key")
    assert found_by_cookie is not None
    assert {found_by_cookie.id} == found


def test_a_token_that_is_too_long_is_refused(engine: Engine) -> None:
    with session(engine) as opened, pytest.raises(InvalidInputError, match="256"):
        holder(opened, "k" * 257)
