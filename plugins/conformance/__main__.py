"""Runs the checks that need no test data on one module, in a process of its own.

    python -m plugins.conformance < '{"target": "heed_notes", "options": {"dated": {}}}'

`target` is a module's name or "file:" and a path; `options` are those of reward signals, by
name, where an operator has set any. One JSON line comes out: for each class of the module its
hook and name, and for each check what became of it. What the plugin prints goes to stderr.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from plugins import hookspecs
from plugins.conformance.checking import Broken, Check, NotChecked
from plugins.conformance.plugin_class import CLASS_CHECKS, PluginClass
from plugins.conformance.signal_checks import SIGNAL_CHECKS
from plugins.conformance.signal_reading import SignalSubject

SIGNAL_HOOK = "heed_reward_signals"
HOOKS = tuple(name for name in vars(hookspecs) if name.startswith("heed_"))


def module_at(target: str) -> ModuleType:
    """The module, imported; raises whatever its import raises."""
    if not target.startswith("file:"):
        return importlib.import_module(target.partition(":")[0])
    path = Path(target.removeprefix("file:"))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def classes_of(module: ModuleType) -> Iterator[tuple[str, type[Any]]]:
    """Each class of the module, with its hook."""
    for hook in HOOKS:
        found = getattr(module, hook, None)
        yield from ((hook, cls) for cls in (found() if callable(found) else ()))


def results(
    hook: str, cls: type[Any], options: Mapping[str, Mapping[str, Any]]
) -> Iterator[dict[str, str]]:
    """What became of each check of a class: "kept", "broken" or "skipped", and why."""
    plugin = PluginClass(cls, hook)
    yield from (_result(check, plugin) for check in CLASS_CHECKS)
    if hook == SIGNAL_HOOK:
        signal = SignalSubject(cls, hook, options.get(getattr(cls, "name", ""), {}))
        try:
            signal.validated(signal.settings)
        except ValidationError:
            return
        yield from (_result(check, signal) for check in SIGNAL_CHECKS)


def _result(check: Check[Any], subject: object) -> dict[str, str]:
    told = {"check": check.name, "sentence": check.sentence}
    try:
        check.run(subject)
    except NotChecked as reason:
        return {**told, "outcome": "skipped", "text": str(reason)}
    except Broken as broken:
        return {**told, "outcome": "broken", "text": str(broken)}
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a plugin raises
        return {**told, "outcome": "broken", "text": _raised(error)}
    return {**told, "outcome": "kept", "text": ""}


def _raised(error: BaseException) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    told = " ".join(str(error).split())
    return f"raised {type(error).__name__}: {told} ({Path(last.filename).name}:{last.lineno})"


def report(target: str, options: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """All of it; "error" where the module cannot be loaded."""
    try:
        found = list(classes_of(module_at(target)))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - as above
        return {"classes": [], "error": _raised(error)}
    told: Sequence[dict[str, Any]] = [
        {
            "hook": hook,
            "name": str(getattr(cls, "name", "")),
            "checks": list(results(hook, cls, options)),
        }
        for hook, cls in found
    ]
    return {
        "classes": told,
        "error": "" if told else f"no hook answers a class: {', '.join(HOOKS)}",
    }


def main() -> None:
    """Read what to check from stdin, and write the report to stdout."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    asked = json.load(sys.stdin)
    with out:
        json.dump(report(asked["target"], asked.get("options", {})), out)


if __name__ == "__main__":
    main()
