"""Puts plugins through the checks of the contract that need no test data.

Each plugin is checked in a process of its own (plugins/conformance/__main__.py), which is
ended at a limit, so that one that hangs or exits is told of like any other.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from service.errors import HeedError
from service.plugin_finding import Found
from service.plugin_host import PluginHost
from service.settings import Settings

LIMIT_S = 120.0
_LONGEST_TOLD = 500


@dataclass(frozen=True, slots=True)
class CheckedClass:
    """A class of a plugin: how many checks it kept, and the broken ones with what to mend."""

    hook: str
    name: str
    kept: int
    broken: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CheckedPlugin:
    """What became of one plugin. `error` says why it could not be checked at all."""

    name: str
    classes: tuple[CheckedClass, ...] = ()
    error: str = ""

    @property
    def fine(self) -> bool:
        """Whether there is nothing to mend."""
        return not self.error and not any(found.broken for found in self.classes)


def check_plugin(
    found: Found, options: Mapping[str, Mapping[str, Any]], limit_s: float = LIMIT_S
) -> CheckedPlugin:
    """Check one plugin; `options` are those of reward signals, by the class's name."""
    if found.error:
        return CheckedPlugin(found.name, error=found.error)
    asked = json.dumps({"target": found.target, "options": options})
    process = subprocess.Popen(
        # A folder `plugins` where Heed was started must not be taken for our package.
        [sys.executable, "-P", "-m", "plugins.conformance"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(asked, timeout=limit_s)
    except subprocess.TimeoutExpired:
        _end(process)
        return CheckedPlugin(found.name, error=f"was not done after {limit_s:.0f} s, and was ended")
    try:
        return _checked(found.name, json.loads(out))
    except ValueError:
        last = next(reversed(err.split("\n")[-2:-1]), "") or "it printed nothing"
        told = f"its process ended with code {process.returncode}: {last[:_LONGEST_TOLD]}"
        return CheckedPlugin(found.name, error=told)


def wrong_settings(host: PluginHost, settings: Settings) -> list[str]:
    """What is wrong with the options that the settings give to plugins."""
    makers: list[Callable[[], object]] = [
        *(partial(host.data_source, entry) for entry in settings.sources),
        *(partial(host.reward_signals, [entry]) for entry in settings.signals),
        *(partial(host.observer, entry) for entry in settings.observers),
        *(partial(host.redactor, entry) for entry in settings.redactors),
        *(partial(host.reranker, entry) for entry in settings.rerankers),
    ]
    return [told for told in map(_told_of, makers) if told]


def _told_of(make: Callable[[], object]) -> str:
    try:
        make()
    except HeedError as error:
        return str(error)
    return ""


def _checked(name: str, report: Mapping[str, Any]) -> CheckedPlugin:
    classes = tuple(
        CheckedClass(
            told["hook"],
            told["name"],
            sum(check["outcome"] == "kept" for check in told["checks"]),
            tuple(_told(check) for check in told["checks"] if check["outcome"] == "broken"),
        )
        for told in report["classes"]
    )
    return CheckedPlugin(name, classes, report["error"])


def _told(check: Mapping[str, str]) -> str:
    return f"{check['check']}: {check['text']}"[:_LONGEST_TOLD]


def _end(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
