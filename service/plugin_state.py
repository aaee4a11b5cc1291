"""Keeps how plugins are doing, and switches off those that keep failing.

Calls are written by a thread of their own: a plugin may be called while its caller holds the
database's only write lock. Failures that only the read place or the settings are to blame for
are kept, but switch nothing off.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

import structlog
from sqlalchemy import Engine, case, update
from sqlmodel import Session, col, select

from service import audit, notices
from service.database import changed_rows, insert_unless_there, open_database, session
from service.errors import HeedError
from service.plugin_host import PluginHost
from service.plugin_hosted import Called
from service.plugin_tables import PluginState
from service.roles import may
from service.settings import Settings
from service.tables import Person, now

PAGE = "/plugins"

log = structlog.get_logger(__name__)


class PluginBook:
    """The states of all plugins. `failures` in a row of one switch it off."""

    def __init__(self, database: Engine, failures: int) -> None:
        self._database = database
        self._failures = failures
        self._waiting: deque[Called] = deque()
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="plugin-state")

    def record(self, called: Called) -> None:
        """Note a call, soon."""
        self._waiting.append(called)
        self._writer.submit(self._write)

    def flush(self) -> None:
        """Wait until every call so far is noted."""
        self._writer.submit(self._write).result()

    def why_off(self, plugin: str) -> str | None:
        """Why the plugin is switched off; None where it is on."""
        with session(self._database) as opened:
            state = opened.get(PluginState, plugin)
        return None if state is None or state.is_on else state.off_reason

    def _write(self) -> None:
        calls = [self._waiting.popleft() for _ in range(len(self._waiting))]
        if not calls:
            return
        try:
            # Of its own, since the last calls are noted while the service is ending.
            database = open_database(self._database.url.render_as_string(hide_password=False))
            try:
                with session(database) as opened:
                    note_all(opened, calls, self._failures)
            finally:
                database.dispose()
        except HeedError as error:
            log.warning("plugin_calls_not_kept", count=len(calls), error=str(error), next="none")


def open_host(settings: Settings, database: Engine) -> PluginHost:
    """The plugins of this deployment, whose calls are noted and whose switches hold."""
    book = PluginBook(database, settings.plugin_limits.failures)
    host = PluginHost.load(settings, book.record, book.why_off)
    host.flush = book.flush
    return host


def note(opened: Session, called: Called) -> None:
    """Add a call to its plugin's state."""
    insert_unless_there(opened, PluginState(name=called.plugin))
    slower = col(PluginState.slowest_s) < called.seconds
    values = {
        "calls": col(PluginState.calls) + 1,
        "seconds": col(PluginState.seconds) + called.seconds,
        "slowest_s": case((slower, called.seconds), else_=col(PluginState.slowest_s)),
        "slowest_call": case((slower, called.method), else_=col(PluginState.slowest_call)),
        "peak_mb": case(
            (col(PluginState.peak_mb) < called.peak_mb, called.peak_mb),
            else_=col(PluginState.peak_mb),
        ),
        "called_at": now(),
    }
    if called.error is not None:
        values |= {"last_error": called.error, "failed_at": now()}
    if called.its_fault:
        values["failures"] = col(PluginState.failures) + 1
        values["failures_in_a_row"] = col(PluginState.failures_in_a_row) + 1
    elif called.error is None:
        values["failures_in_a_row"] = 0
    opened.execute(update(PluginState).where(col(PluginState.name) == called.plugin).values(values))


def note_all(opened: Session, calls: Iterable[Called], failures: int) -> None:
    """Add calls that were made elsewhere, in their order."""
    for called in calls:
        note(opened, called)
        switch_off_failing(opened, called.plugin, failures)


def switch_off_failing(opened: Session, plugin: str, failures: int) -> None:
    """Switch a plugin off after so many failures in a row, and tell every operator."""
    reason = f"it failed {failures} times in a row"
    failing = (
        col(PluginState.name) == plugin,
        col(PluginState.is_on),
        col(PluginState.failures_in_a_row) >= failures,
    )
    values = {"is_on": False, "off_reason": reason, "switched_by": None, "switched_at": now()}
    if not changed_rows(opened.execute(update(PluginState).where(*failing).values(values))):
        return
    log.warning("plugin_switched_off", plugin=plugin, next="mend it, then switch it on at /plugins")
    audit.record(opened, None, "plugin.failed", f"plugin:{plugin}")
    text = f"The plugin {plugin} was switched off: {reason}. The page Plugins shows its last error."
    about = f"plugin-off:{plugin}:{now().isoformat()}"
    for person in opened.exec(select(Person).where(Person.kind == "person")):
        if may(person.role, "operator"):
            notices.tell(opened, person.id, about, text, PAGE)


def switch(opened: Session, plugin: str, on: bool, by: Person | str) -> None:
    """Switch a plugin on or off by hand; switched on, its failures in a row count anew."""
    name = by.name if isinstance(by, Person) else by
    insert_unless_there(opened, PluginState(name=plugin))
    values = {
        "is_on": on,
        "off_reason": None if on else f"{name} switched it off",
        "switched_by": name,
        "switched_at": now(),
        "failures_in_a_row": 0,
    }
    opened.execute(update(PluginState).where(col(PluginState.name) == plugin).values(values))
    audit.record(opened, by, "plugin.on" if on else "plugin.off", f"plugin:{plugin}")


def states(opened: Session) -> Mapping[str, PluginState]:
    """Every state by the plugin's name."""
    return {state.name: state for state in opened.exec(select(PluginState))}


def reasons_off(opened: Session) -> dict[str, str]:
    """Why each plugin that is switched off is."""
    return {
        name: state.off_reason or "" for name, state in states(opened).items() if not state.is_on
    }
