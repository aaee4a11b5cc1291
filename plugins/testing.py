"""Every promise of the contract as a test of your plugin, in one line of a test file.

    TestNotes = source_tests(Notes, NotesPlace)
    TestDated = signal_tests(Dated, {"year": 2026})

Needs pytest. What is checked is in plugins/conformance/.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

from plugins.conformance.checking import Broken, Check, NotChecked
from plugins.conformance.place import Fill, Place, filled_by
from plugins.conformance.plugin_class import CLASS_CHECKS, PluginClass
from plugins.conformance.signal_checks import SIGNAL_CHECKS
from plugins.conformance.signal_reading import SignalSubject
from plugins.conformance.source_items import ITEM_CHECKS
from plugins.conformance.source_place import PLACE_CHECKS
from plugins.conformance.source_reading import SourceSubject
from plugins.conformance.source_sync import SYNC_CHECKS
from plugins.conformance.source_trouble import TROUBLE_CHECKS
from plugins.contract import Answer

__all__ = ["Place", "plugin_tests", "signal_tests", "source_tests"]

Subject = TypeVar("Subject")

SOURCE_HOOK = "heed_data_sources"
SIGNAL_HOOK = "heed_reward_signals"
SOURCE_CHECKS: Sequence[Check[Any]] = [
    *CLASS_CHECKS,
    *ITEM_CHECKS,
    *SYNC_CHECKS,
    *PLACE_CHECKS,
    *TROUBLE_CHECKS,
]
ALL_SIGNAL_CHECKS: Sequence[Check[Any]] = [*CLASS_CHECKS, *SIGNAL_CHECKS]


def source_tests(source: type[Any], place: type[Place] | Fill | Mapping[str, Any] | str) -> type:
    """A test class with every check of a data source.

    `place` is what the source reads: the settings themselves, a function that fills an empty
    folder and answers them, a Place, or the name of a pytest fixture that gives a Place or
    settings. Checks that need more than it can do are skipped, and say what to give.
    """

    def subject(request: pytest.FixtureRequest) -> SourceSubject:
        made = _made_place(place, request)
        request.addfinalizer(made.close)
        return SourceSubject(source, SOURCE_HOOK, made)

    return _test_class(source, SOURCE_CHECKS, subject)


def signal_tests(
    signal: type[Any],
    settings: Mapping[str, Any] | None = None,
    *,
    better: tuple[Answer, Answer] | None = None,
    abstains: Answer | None = None,
) -> type:
    """A test class with every check of a reward signal.

    `better` holds two answers of which the first must read higher; of `abstains` the signal can
    say nothing. Without them, the checks that need them are skipped.
    """

    def subject(request: pytest.FixtureRequest) -> SignalSubject:  # noqa: ARG001 - as above
        return SignalSubject(signal, SIGNAL_HOOK, settings or {}, better, abstains)

    return _test_class(signal, ALL_SIGNAL_CHECKS, subject)


def plugin_tests(plugin: type[Any], hook: str) -> type:
    """A test class with the checks that hold for a class of any kind: an observer, a redactor, a
    reranker. `hook` is the one that answers it, such as "heed_redactors"."""

    def subject(request: pytest.FixtureRequest) -> PluginClass:  # noqa: ARG001 - as above
        return PluginClass(plugin, hook)

    return _test_class(plugin, CLASS_CHECKS, subject)


def _made_place(
    given: type[Place] | Fill | Mapping[str, Any] | str, request: pytest.FixtureRequest
) -> Place:
    found: Any = request.getfixturevalue(given) if isinstance(given, str) else given
    if isinstance(found, Place):
        return found
    folder: Path = request.getfixturevalue("tmp_path")
    if isinstance(found, type) and issubclass(found, Place):
        return found(folder)
    return filled_by(found)(folder)


def _test_class(
    plugin: type[Any],
    checks: Sequence[Check[Any]],
    subject: Callable[[pytest.FixtureRequest], Any],
) -> type:
    tests = {f"test_{check.name}": _test(check, subject) for check in checks}
    return type(f"Test{plugin.__name__}", (), {**tests, "__doc__": f"The contract, for {plugin}."})


def _test(
    check: Check[Subject], subject: Callable[[pytest.FixtureRequest], Subject]
) -> Callable[[object, pytest.FixtureRequest], None]:
    def test(_self: object, request: pytest.FixtureRequest) -> None:
        try:
            check.run(subject(request))
        except NotChecked as reason:
            pytest.skip(str(reason))
        except Broken as broken:
            pytest.fail(f"{check.sentence}\nHere: {broken}", pytrace=False)

    test.__doc__ = check.sentence
    test.__name__ = f"test_{check.name}"
    return test
