"""Each check of a signal passes one that keeps the contract, and fails one that does not."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from plugins.conformance import signal_checks
from plugins.conformance.checking import Broken, Check, NotChecked
from plugins.conformance.signal_checks import SIGNAL_CHECKS
from plugins.conformance.signal_reading import SignalSubject
from plugins.contract import Answer
from plugins.testing import ALL_SIGNAL_CHECKS as CHECKS
from plugins.testing import SIGNAL_HOOK, signal_tests
from tests.plugins.conformance.broken_signals import BROKEN, Dated

BETTER = (Answer("When?", "On 14 May."), Answer("When?", "In spring."))
ABSTAINS = Answer("When?", "")

TestDated = signal_tests(Dated, {"digits": 2}, better=BETTER, abstains=ABSTAINS)


@pytest.fixture(autouse=True)
def process_as_before() -> Iterator[None]:
    timeout = socket.getdefaulttimeout()
    yield
    socket.setdefaulttimeout(timeout)


def subject(signal: type) -> SignalSubject:
    return SignalSubject(signal, SIGNAL_HOOK, {}, BETTER, ABSTAINS)


def test_there_are_checks_and_each_says_what_holds() -> None:
    assert len(SIGNAL_CHECKS) >= 15
    assert len({check.name for check in CHECKS}) == len(CHECKS)
    assert all(check.sentence.endswith(".") for check in CHECKS)
    assert set(BROKEN) == {check.name for check in CHECKS}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_a_signal_that_keeps_the_contract_passes(check: Check[SignalSubject]) -> None:
    check.run(subject(Dated))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_a_signal_that_breaks_the_promise_fails(
    check: Check[SignalSubject], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal_checks, "LONG_ANSWER_S", 0.2)
    with pytest.raises(Broken) as told:
        check.run(subject(BROKEN[check.name]))
    assert len(str(told.value)) > 20


@pytest.mark.parametrize("name", ["better_answer_reads_higher", "abstains_where_it_cannot_tell"])
def test_a_check_without_its_means_says_what_to_give(name: str) -> None:
    (check,) = (check for check in SIGNAL_CHECKS if check.name == name)
    with pytest.raises(NotChecked, match=r"give (better|abstains)="):
        check.run(SignalSubject(Dated, SIGNAL_HOOK))


def test_a_signal_that_reads_one_by_one_is_not_asked_for_batches() -> None:
    class Single(Dated):
        """Reads one answer at a time."""

        read_batch = None  # type: ignore[assignment]

    (check,) = (check for check in SIGNAL_CHECKS if check.name == "batch_reads_as_one_by_one")
    with pytest.raises(NotChecked, match="no read_batch"):
        check.run(subject(Single))
