"""Pages of Confluence come once, go when they go there, and for those alone who may read them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plugins.confluence import Confluence
from plugins.contract import Document, Item, Rejected, RetryLater, SecretError, SourceError
from plugins.testing import source_tests
from service.plugin_fields import checked
from tests.plugins.confluence_server import ConfluencePlace

TestConfluence = source_tests(Confluence, ConfluencePlace)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[ConfluencePlace]:
    made = ConfluencePlace(tmp_path)
    made.given = dict(made.settings())  # type: ignore[attr-defined]
    yield made
    made.close()


def source(place: Any, **options: Any) -> Confluence:
    return Confluence(checked(Confluence.Settings, place.given | options))


def read(place: ConfluencePlace, cursor: Any = None, **options: Any) -> list[Item]:
    return list(source(place, **options).items(cursor or {}))


def readers(items: list[Item]) -> dict[str, tuple[str, ...]]:
    return {item.id: item.readers for item in items if isinstance(item, Document)}


def test_a_page_comes_with_its_text_place_and_date(place: ConfluencePlace) -> None:
    document = read(place)[0]
    assert isinstance(document, Document)
    assert (document.id, document.title) == ("1", "Page 1")
    assert document.text == "# All\n\nText 1."
    assert document.url == f"http://127.0.0.1:{place.port}/wiki/spaces/HR/pages/1"
    assert str(document.updated) == "2026-03-31 12:00:00+00:00"
    assert place.queries[0] == 'type=page and space in ("HR") order by created asc'


def test_only_what_changed_is_asked_for_again(place: ConfluencePlace) -> None:
    end: Any = read(place)[-1]
    place.fetched.clear()
    end = read(place, end.cursor)[-1]
    assert place.fetched == []
    place.change()
    read(place, end.cursor)
    assert place.fetched == ["1"]


def test_new_restrictions_alone_bring_a_page_again(place: ConfluencePlace) -> None:
    end: Any = read(place)[-1]
    place.pages["2"]["groups"] = ["hr"]
    items = read(place, end.cursor)
    # Page 3 lies below page 2.
    assert readers(items) == {"2": ("group:hr",), "3": ("group:hr",)}


def test_who_may_read_a_page_may_read_all_pages_above_it(place: ConfluencePlace) -> None:
    place.pages["2"]["groups"] = ["hr", "it"]
    place.pages["3"]["groups"] = ["it", "sales"]
    assert readers(read(place))["3"] == ("group:it",)


def test_a_page_that_nobody_who_can_be_named_may_read_is_rejected(place: ConfluencePlace) -> None:
    place.pages["1"]["users"] = [{"displayName": "Ada"}]
    place.pages["4"]["ancestors"] = ["900"]
    items = read(place)
    assert sorted(readers(items)) == ["2", "3", "5"]
    rejected = [item.where for item in items if isinstance(item, Rejected)]
    assert rejected == ["page 1", "page 4"]


def test_pages_without_restrictions_are_for_whom_the_operator_says(place: ConfluencePlace) -> None:
    place.pages["1"]["users"] = [{"username": "ada"}]
    found = readers(read(place, readers=["group:staff"]))
    assert (found["1"], found["2"]) == (("person:ada",), ("group:staff",))


def test_cloud_is_asked_with_name_and_token(place: ConfluencePlace) -> None:
    seen: list[str] = []
    answer = place.answer

    def noted(path: str, authorization: str) -> Any:
        seen.append(authorization)
        return answer(path, f"Bearer {place.token}")

    place.answer = noted  # type: ignore[method-assign]
    assert source(place, user="ada@example.com").check() == "The spaces can be read."
    assert seen[0].startswith("Basic ")


def test_what_is_no_confluence_is_told(place: ConfluencePlace) -> None:
    answers = [
        (200, {}, b"<html>"),
        (200, {}, b"[]"),
        (200, {}, b'{"results": [{}]}'),
        (404, {}, b""),
    ]
    for given in answers:
        place.answer = lambda *_, given=given: given  # type: ignore[method-assign,misc]
        with pytest.raises(SourceError):
            read(place)


def test_refusals_and_outages_are_told_apart(place: ConfluencePlace) -> None:
    place.throttle(7)
    with pytest.raises(RetryLater) as caught:
        read(place)
    assert caught.value.seconds == 7
    place.recover()
    place.expire()
    with pytest.raises(SecretError, match="does not take the token"):
        source(place).check()
    place.close()
    with pytest.raises(RetryLater, match="cannot be reached"):
        read(place)


def test_more_pages_than_expected_are_an_error(place: ConfluencePlace) -> None:
    with pytest.raises(SourceError, match="raise most_pages"):
        read(place, most_pages=3)
