"""The one line in a test file: what it makes of a place, and what a person reads of a fault."""

from __future__ import annotations

import pytest

from plugins.testing import SOURCE_CHECKS

pytest_plugins = ["pytester"]

PLUGIN = '''
import pluggy
import pytest

from plugins.testing import Place, plugin_tests, signal_tests, source_tests

hookimpl = pluggy.HookimplMarker("heed")


class Lines:
    """Reads a file line by line."""

    name = "lines"

    def __init__(self, settings):
        pass

    def items(self, cursor):
        for number in range(3):
            yield {"kind": "question", "id": f"q{number}", "question": "Where do I park?"}
        yield {"kind": "complete"}


class Loud:
    """Likes what is loud."""

    name = "loud"

    def __init__(self, settings):
        pass

    def read(self, answer):
        return 2.0 if "!" in answer.text else -1.0


class Closed(Place):
    def settings(self):
        return {}

    def close(self):
        print("the place was closed")


@pytest.fixture
def lines_place(tmp_path):
    return Closed(tmp_path)


@hookimpl
def heed_data_sources():
    return [Lines]


@hookimpl
def heed_reward_signals():
    return [Loud]
'''


def run(pytester: pytest.Pytester, line: str, *options: str) -> pytest.RunResult:
    pytester.makepyfile(test_lines=f"{PLUGIN}\n{line}\n")
    return pytester.runpytest_inprocess("-p", "no:cacheprovider", *options)


@pytest.mark.parametrize(
    "place", ["{}", "lambda folder: {'x': str(folder)}", "Closed", "'lines_place'"]
)
def test_a_place_is_settings_a_function_a_class_or_a_fixture(
    pytester: pytest.Pytester, place: str
) -> None:
    some = "ids_are or removed_item"
    result = run(pytester, f"TestLines = source_tests(Lines, {place})", "-rs", "-k", some)
    result.assert_outcomes(passed=2, skipped=1, deselected=len(SOURCE_CHECKS) - 3)
    result.stdout.fnmatch_lines(["*give the place a method remove() that removes one item*"])


def test_a_place_is_closed_after_each_check(pytester: pytest.Pytester) -> None:
    result = run(pytester, "TestLines = source_tests(Lines, Closed)", "-s", "-k", "ids_are")
    assert result.stdout.str().count("the place was closed") == 2


def test_a_fault_is_told_with_the_promise_and_without_a_trace(pytester: pytest.Pytester) -> None:
    result = run(pytester, "TestLoud = signal_tests(Loud)", "-k", "range or settings_explain")
    result.assert_outcomes(failed=1, skipped=1)
    result.stdout.fnmatch_lines(
        ["A reading is in [[]-1, 1].", "Here: 'In the garden!' reads 2.0; bring it into *"]
    )
    assert "Traceback" not in result.stdout.str()
    assert "signal_checks.py" not in result.stdout.str()


def test_classes_of_other_kinds_are_checked_as_classes(pytester: pytest.Pytester) -> None:
    result = run(pytester, "TestLoud = plugin_tests(Loud, 'heed_redactors')")
    result.assert_outcomes(passed=3, failed=1, skipped=4)
    result.stdout.fnmatch_lines(["*has no function heed_redactors() marked*"])
