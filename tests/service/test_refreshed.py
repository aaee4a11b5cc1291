"""Figures that take long: the last ones are told while the next are counted."""

from __future__ import annotations

import threading

import pytest

from service.refreshed import MOST_KEPT, Refreshed


@pytest.fixture
def figures() -> Refreshed[str, int]:
    return Refreshed("figures", patience_s=5)


def test_a_value_is_made_once_for_its_stamp(figures: Refreshed[str, int]) -> None:
    made: list[int] = []

    def make() -> int:
        made.append(len(made))
        return len(made)

    assert [figures.value("a", 1, make) for _ in range(3)] == [1, 1, 1]
    assert figures.value("a", 2, make) == 2
    assert figures.value("b", 2, make) == 3


def test_the_last_value_is_told_while_the_next_is_made() -> None:
    figures: Refreshed[str, int] = Refreshed("figures", patience_s=0.01)
    go_on = threading.Event()

    def slowly() -> int:
        assert go_on.wait(30)
        return 2

    assert figures.value("a", 1, lambda: 1) == 1
    assert figures.value("a", 2, slowly) == 1
    assert figures.value("a", 3, slowly) == 1  # nothing else is begun meanwhile
    go_on.set()
    patient: Refreshed[str, int] = figures
    patient._patience_s = 30
    assert patient.value("a", 2, lambda: 3) == 2


def test_who_comes_before_the_first_value_waits_for_it_and_hears_of_failures(
    figures: Refreshed[str, int],
) -> None:
    def fail() -> int:
        raise ValueError("no votes")

    with pytest.raises(ValueError, match="no votes"):
        figures.value("a", 1, fail)
    assert figures.value("a", 1, lambda: 4) == 4


def test_a_failure_later_leaves_the_last_value_for_who_does_not_wait() -> None:
    figures: Refreshed[str, int] = Refreshed("figures", patience_s=0)
    go_on = threading.Event()

    def fail() -> int:
        assert go_on.wait(30)
        raise ValueError("no votes")

    figures.value("a", 1, lambda: 1)
    assert figures.value("a", 2, fail) == 1
    go_on.set()
    assert figures.value("b", 1, lambda: 5) == 5  # after the failed one, in the same thread
    figures._patience_s = 30
    assert figures.value("a", 2, lambda: 2) == 2


def test_a_failure_meanwhile_leaves_the_last_value_for_who_waits(
    figures: Refreshed[str, int],
) -> None:
    def fail() -> int:
        raise ValueError("no votes")

    figures.value("a", 1, lambda: 1)
    assert figures.value("a", 2, fail) == 1
    assert figures.value("a", 2, lambda: 2) == 2


def test_no_more_than_so_many_are_kept(figures: Refreshed[str, int]) -> None:
    for at in range(MOST_KEPT + 1):
        figures.value(str(at), 1, lambda at=at: at)  # type: ignore[misc]
    assert figures.value("0", 1, lambda: -1) == -1
    assert figures.value(str(MOST_KEPT), 1, lambda: -1) == MOST_KEPT
