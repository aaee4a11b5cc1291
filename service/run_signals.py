"""Reward signals in a training run, where no plugin may break the run.

A signal whose plugin fails abstains for that batch; after so many failures in a row it is left
alone for the rest of the run. What happened is left in the run folder, for the service to tell.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from pydantic import BaseModel, ConfigDict

from rlhf_engine.files import write_json
from service.errors import PluginFailure
from service.plugin_finding import find
from service.plugin_host import PluginHost
from service.plugin_hosted import Called, HostedSignal
from service.plugin_limits import PluginLimits
from service.settings import Settings, SignalSettings

if TYPE_CHECKING:
    from rlhf_engine import SignalInput

SIGNALS_FILE = "signals.json"
CALLS_FILE = "plugin_calls.json"

log = structlog.get_logger(__name__)


class _Signals(BaseModel):
    """The reward signals of a run, as the operator set them, and where their plugins are."""

    model_config = ConfigDict(extra="forbid")

    signals: tuple[SignalSettings, ...] = ()
    folder: Path | None = None
    loaded: tuple[str, ...] | None = None
    limits: PluginLimits = PluginLimits()
    off: dict[str, str] = {}


class RunSignal:
    """A signal that abstains where its plugin fails; `made` is None where it could not be made."""

    def __init__(self, settings: SignalSettings, made: HostedSignal | None, failures: int) -> None:
        self.name, self.weight = settings.name, settings.weight
        self._settings = settings
        self._made = made
        self._left = self._most = failures

    def read_batch(self, batch: Sequence[SignalInput]) -> Sequence[float | None]:
        """One reading for each answer as far as it counts, all None where the plugin fails."""
        nothing: list[float | None] = [None] * len(batch)
        if self._made is None or self._left <= 0:
            return nothing
        try:
            readings = self._made.read_batch(batch)
        except PluginFailure as failure:
            self._left -= 1
            told = "abstains from now on" if self._left <= 0 else "abstains for this batch"
            log.warning("signal_failed", signal=self.name, error=str(failure), next=told)
            return nothing
        self._left = self._most
        counted = self._settings.counted
        return [None if reading is None else counted(reading) for reading in readings]

    def close(self) -> None:
        """Let go of the plugin's process."""
        if self._made is not None:
            self._made.close()


class RunSignals:
    """The reward signals of one run, and what their plugins did."""

    def __init__(self, run_dir: Path) -> None:
        """Make the signals that the run folder names; SettingsError for wrong settings."""
        self._run_dir = run_dir
        self._calls: list[Called] = []
        given = _read(run_dir)
        host = PluginHost(
            find(given.folder, given.loaded), given.limits, self._calls.append, given.off.get
        )
        self.signals = [self._made(host, one, given.limits.failures) for one in given.signals]

    def close(self) -> None:
        """Leave what the plugins did in the run folder, and end their processes."""
        for signal in self.signals:
            signal.close()
        if self._calls:
            write_json(self._run_dir / CALLS_FILE, [call.plain() for call in self._calls[-1000:]])

    def _made(self, host: PluginHost, settings: SignalSettings, failures: int) -> RunSignal:
        made = None
        try:
            [made] = host.reward_signals([settings])
        except PluginFailure as failure:
            log.warning("signal_failed", signal=settings.name, error=str(failure), next="abstains")
        return RunSignal(settings, made, failures)


def write_signals(run_dir: Path, settings: Settings, off: dict[str, str] | None = None) -> None:
    """Leave the reward signals for the worker. `off` says why a plugin is switched off."""
    given = _Signals(
        signals=settings.signals,
        folder=settings.plugins_folder.resolve(),
        loaded=settings.plugins_loaded,
        limits=settings.plugin_limits,
        off=off or {},
    )
    write_json(run_dir / SIGNALS_FILE, given.model_dump(mode="json"))


def take_calls(run_dir: Path) -> list[Called]:
    """What the plugins did in a run; told once, then forgotten."""
    path = run_dir / CALLS_FILE
    try:
        calls = [Called(**row) for row in json.loads(path.read_text(encoding="utf-8"))]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError) as error:
        log.warning("plugin_calls_unreadable", path=str(path), error=str(error), next="left out")
        return []
    path.unlink(missing_ok=True)
    return calls


def _read(run_dir: Path) -> _Signals:
    path = run_dir / SIGNALS_FILE
    if not path.exists():
        return _Signals()
    given = json.loads(path.read_text(encoding="utf-8"))
    # A run that an earlier version began has the signals alone.
    return _Signals.model_validate({"signals": given} if isinstance(given, list) else given)
