"""Visitors, whom a chosen key may bring back, and simulated people."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, text
from sqlmodel import select

from service.database import session
from service.errors import InvalidInputError
from service.people import clean_name, holder, new_visitor, simulated_person
from service.tables import Person


def test_each_visitor_is_somebody_new(engine: Engine) -> None:
    with session(engine) as opened:
        one, other = new_visitor(opened, "employee"), new_visitor(opened, "reviewer")
    assert one.id != other.id
    assert (one.kind, one.role, other.role) == ("visitor", "employee", "reviewer")


def test_a_simulated_person_is_made_once_and_labelled(engine: Engine) -> None:
    with session(engine) as opened:
        first = simulated_person(opened, "voter")
    with session(engine) as opened:
        assert simulated_person(opened, "voter").id == first.id
        assert simulated_person(opened, "another").id != first.id
        people = opened.exec(select(Person)).all()
    assert [person.kind for person in people] == ["simulated", "simulated"]


def test_a_key_of_ones_own_is_one_visitor_from_its_first_use(engine: Engine) -> None:
    def look(_number: int) -> str:
        with session(engine) as opened:
            return holder(opened, "a-key", "employee").id

    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(look, range(16)))
    assert len(found) == 1
    with session(engine) as opened:
        assert holder(opened, "another-key", "employee").id not in found


def test_a_visitor_has_the_role_that_visitors_have_now(engine: Engine) -> None:
    with session(engine) as opened:
        holder(opened, "a-key", "admin")
    with session(engine) as opened:
        holder(opened, "a-key", "employee")
    with session(engine) as opened:
        assert opened.exec(select(Person.role)).all() == ["employee"]


def test_the_key_itself_is_not_stored(engine: Engine) -> None:
    with session(engine) as opened:
        holder(opened, "a-secret-key", "employee")
    with engine.connect() as connection:
        row = connection.execute(text("SELECT * FROM person")).one()
    assert "a-secret-key" not in [str(value) for value in row]


def test_a_key_that_is_too_long_is_refused(engine: Engine) -> None:
    with session(engine) as opened, pytest.raises(InvalidInputError, match="256"):
        holder(opened, "k" * 257, "employee")


@pytest.mark.parametrize("name", ["", "  ", "x" * 81, "a\u202eb", "a\x00b", "\ud800"])
def test_a_name_that_cannot_be_shown_is_refused(name: str) -> None:
    with pytest.raises(InvalidInputError, match="name"):
        clean_name(name)


def test_a_name_keeps_its_letters() -> None:
    assert clean_name("  Zoë  \n Łukasz ") == "Zoë Łukasz"
