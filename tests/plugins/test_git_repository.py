"""A repository's files follow its history, from this machine and over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plugins.contract import (
    Complete,
    Document,
    GoldPair,
    Item,
    OptionsError,
    Partial,
    Rejected,
    Removal,
    RetryLater,
    SecretError,
    SourceError,
)
from plugins.git_repository import GitRepository
from plugins.testing import source_tests
from service.plugin_fields import checked
from tests.plugins.git_server import TOKEN, Checkout, serving

TestGitRepository = source_tests(GitRepository, Checkout)


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Checkout]:
    made = Checkout(tmp_path)
    made.settings()
    yield made
    made.close()


def source(**options: Any) -> GitRepository:
    return GitRepository(checked(GitRepository.Settings, options))


def read(checkout: Checkout, cursor: Any = None, **options: Any) -> list[Item]:
    return list(source(path=str(checkout.path), **options).items(cursor or {}))


def test_pages_and_questions_come_with_a_link(checkout: Checkout) -> None:
    items = read(checkout, link="https://example.com/blob/main/{path}")
    parking, pair = items[0], items[1]
    assert isinstance(parking, Document)
    assert (parking.id, parking.title) == ("docs/parking.md", "Parking")
    assert parking.url == "https://example.com/blob/main/docs/parking.md"
    assert isinstance(pair, GoldPair)
    assert pair.question == "Where do I park?"
    assert isinstance(items[-1], Complete)
    assert not any(isinstance(item, GoldPair) for item in read(checkout, questions=False))


def test_the_same_commit_brings_nothing(checkout: Checkout) -> None:
    end: Any = read(checkout)[-1]
    assert read(checkout, end.cursor) == [Partial(end.cursor)]


def test_only_what_history_changed_comes_and_what_it_deleted_goes(checkout: Checkout) -> None:
    end: Any = read(checkout)[-1]
    checkout.change()
    checkout.put("docs/parking.md", "# Parking\n\nNobody asks any more.\n")
    (checkout.path / "page-2.md").rename(checkout.path / "page-9.md")
    checkout.put("page-9.md", "# A page\n\nThis is page 2.\n")
    from dulwich import porcelain

    porcelain.add(str(checkout.path), [str(checkout.path / "page-2.md")])
    checkout.commit("Rename")
    items = read(checkout, end.cursor)
    assert [item.id for item in items if isinstance(item, Document)] == [
        "docs/parking.md",
        "page-1.md",
        "page-9.md",
    ]
    gone = [item.id for item in items if isinstance(item, Removal)]
    assert gone == ["docs/parking.md#where-do-i-park", "page-2.md"]


def test_a_branch_is_read_and_another_is_told(checkout: Checkout) -> None:
    from dulwich import porcelain

    porcelain.branch_create(str(checkout.path), "old")
    checkout.change()
    texts = [item.text for item in read(checkout, branch="old") if isinstance(item, Document)]
    assert any("This is page 1." in text for text in texts)
    with pytest.raises(SourceError, match=r"no branch new, but .*old"):
        read(checkout, branch="new")


def test_patterns_keep_to_folders_and_other_kinds_are_rejected(checkout: Checkout) -> None:
    checkout.put("docs/deep/a.html", "<title>Deep</title><main><h1>Deep</h1>Text.</main>")
    checkout.put("docs/b.txt", "Plain text.")
    checkout.put("docs/c.png", b"\x89PNG")
    checkout.put(".hidden/d.txt", "Hidden.")

    def ids(pattern: str) -> list[str]:
        return [item.id for item in read(checkout, pattern=pattern) if isinstance(item, Document)]

    assert ids("*.md") == ["page-0.md", "page-1.md", "page-2.md"]
    assert ids("docs/*.md") == ["docs/parking.md"]
    assert ids("docs/**") == ["docs/b.txt", "docs/deep/a.html", "docs/parking.md"]
    assert ids("**/*.txt") == ["docs/b.txt"]
    [rejected] = [item for item in read(checkout, pattern="docs/*") if isinstance(item, Rejected)]
    assert rejected.where == "docs/c.png"


def test_a_page_that_became_unusable_is_shown_no_longer(checkout: Checkout) -> None:
    end: Any = read(checkout)[-1]
    checkout.spoil()
    items = read(checkout, end.cursor)
    assert [type(item) for item in items] == [Rejected, Removal, Partial]


def test_a_repository_is_read_over_http_with_a_token(checkout: Checkout) -> None:
    status: list[str | None] = [None]
    with serving(checkout.path, lambda: status[0]) as url:
        made = source(url=url, token=TOKEN)
        assert made.check().startswith("The newest commit is ")
        items = list(made.items({}))
        assert items == read(checkout)
        end: Any = items[-1]
        checkout.remove()
        assert Removal("page-1.md") in list(made.items(end.cursor))
        with pytest.raises(SecretError, match="does not take the token"):
            source(url=url, token="wrong").check()
        with pytest.raises(SecretError):
            source(url=url).check()
        with pytest.raises(SourceError, match="is no Git repository, or may not be seen"):
            source(url=url.replace("handbook", "other"), token=TOKEN).check()
        for answer in ("429 Too Many Requests", "503 Service Unavailable"):
            status[0] = answer
            with pytest.raises(RetryLater, match=f"answers {answer[:3]}"):
                made.check()
        status[0] = "403 Forbidden"
        with pytest.raises(SecretError):
            made.check()
    with pytest.raises(RetryLater, match="cannot be reached"):
        made.check()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"path": "/a", "url": "https://example.com/a.git"},
        {"url": "ssh://git@example.com/a.git"},
        {"url": "file:///etc"},
        {"url": "https://user:token@example.com/a.git"},
        {"path": "/a", "link": "https://example.com/"},
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionsError):
        source(**options)


def test_a_folder_without_a_repository_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is no Git repository"):
        list(source(path=str(tmp_path)).items({}))
