"""The scheduler: wakes at the due times and does what is due, once, whoever else wakes too.

APScheduler only wakes. Each due time is a row that one scheduler claims (leases.py),
so two schedulers never do the same one twice, and a due time that passed while
nothing ran is done once at the next start.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import structlog
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.combining import OrTrigger
from apscheduler.triggers.cron import CronTrigger
from sqlalchemy import Engine
from sqlmodel import select

import rlhf_engine
from service import cleanup, evidence, leases, training
from service.database import session
from service.embedding import embedding
from service.errors import HeedError, SettingsError
from service.passage_vectors import embed_pending, is_pending
from service.plugin_host import PluginHost
from service.plugin_state import open_host
from service.settings import Settings
from service.sync import sync_all
from service.tables import JobRun, now

JOB_LEASE_S = 2 * 3600
"""After this long a claimed job that never finished may be claimed again."""

EMBED_S = 50.0
"""How long vectors are made at a time; the rest is for the next minute, whoever claims it."""

_LOOK_BACK = tuple(timedelta(days=days) for days in (0.05, 1.5, 8, 32, 367, 1500))
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_WEEKDAY = f"[0-7]|{'|'.join(_WEEKDAYS)}"
_WEEKDAYS_PART = re.compile(f"({_WEEKDAY})(?:-({_WEEKDAY}))?(?:/([1-9][0-9]*))?")

log = structlog.get_logger(__name__)


class Scheduler:
    """The scheduled jobs of one process. `clock` tells the time (UTC); tests give their own."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        holder: str,
        host: PluginHost | None = None,
        clock: Callable[[], datetime] = now,
    ) -> None:
        self._engine, self._settings, self._holder, self._clock = engine, settings, holder, clock
        self._host = host or open_host(settings, engine)
        self._stop = threading.Event()
        self._triggers = _triggers(settings)
        self._jobs: dict[str, Callable[[], None]] = {
            "sync": self._sync,
            "train": self._train,
            "cleanup": self._cleanup,
            "embed": self._embed,
        }
        self._waker = BackgroundScheduler(
            timezone=UTC,
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
        )

    def start(self) -> None:
        """Begin to wake at the due times, and do in the background what was missed."""
        for job, trigger in self._triggers.items():
            self._waker.add_job(self.wake, trigger, args=[job], id=job)
        self._waker.add_job(self.catch_up, id="catch_up")
        self._waker.start()

    def stop(self) -> None:
        """Wake no more; a job that is being done is waited for, a sync ends at its next item."""
        self._stop.set()
        self._waker.shutdown()
        self._host.flush()

    def due(self, job: str) -> datetime | None:
        """The latest due time that is not in the future; None for a job without a schedule."""
        trigger = self._triggers.get(job)
        return last_due(trigger, self._clock()) if trigger else None

    def wake(self, job: str) -> bool:
        """Do the job if its latest due time is not done or being done; tells whether it did."""
        slot = self.due(job)
        try:
            if slot is None or not self._has_work(job) or not self._claim(job, slot):
                return False
            error = self._do(job)
            with session(self._engine) as opened:
                leases.finish_job(opened, job, slot, self._holder, error)
        except HeedError as failure:
            log.warning("job_not_done", job=job, error=str(failure), next="next due time")
            return False
        return error is None

    def catch_up(self) -> None:
        """Do once what was missed while nothing ran. The first start ever misses nothing: it
        only notes the due times before it."""
        for job in self._triggers:
            if self._is_known(job):
                self.wake(job)
                continue
            slot = self.due(job)
            if slot is not None and self._claim(job, slot):
                with session(self._engine) as opened:
                    leases.finish_job(opened, job, slot, self._holder, None)

    def _has_work(self, job: str) -> bool:
        """Vectors are looked after each minute, and a minute without work leaves no row."""
        folder = self._settings.retrieval.embeddings
        if job != "embed" or folder is None:
            return True
        try:
            return is_pending(self._engine, rlhf_engine.sentence_model_id(folder))
        except rlhf_engine.SentenceModelError as error:
            log.warning("job_not_done", job=job, error=str(error), next="next due time")
            return False

    def _claim(self, job: str, slot: datetime) -> bool:
        with session(self._engine) as opened:
            return leases.claim_job(opened, job, slot, self._holder, JOB_LEASE_S)

    def _is_known(self, job: str) -> bool:
        with session(self._engine) as opened:
            return opened.exec(select(JobRun).where(JobRun.job == job).limit(1)).first() is not None

    def _do(self, job: str) -> str | None:
        log.info("job_started", job=job)
        try:
            self._jobs[job]()
        except (HeedError, rlhf_engine.EngineError, OSError) as error:
            log.warning("job_failed", job=job, error=str(error), next="next due time")
            return str(error)
        log.info("job_done", job=job)
        return None

    def _sync(self) -> None:
        sync_all(self._engine, self._host, self._settings, stop=self._stop)

    def _train(self) -> None:
        start_if_enough(self._engine, self._settings)

    def _embed(self) -> None:
        folder = self._settings.retrieval.embeddings
        if folder is not None:
            embed_pending(self._engine, embedding(folder), self._stop.is_set, EMBED_S)

    def _cleanup(self) -> None:
        cleanup.clean_up(self._engine, self._clock())


def start_if_enough(engine: Engine, settings: Settings) -> str | None:
    """Queue a training run if there are enough new comparisons and none is at work.

    Returns the run's id, or None where nothing was started.
    """
    least = settings.training.min_new_comparisons
    with session(engine) as opened:
        fresh = evidence.new_comparisons(opened)
        busy = training.run_at_work(opened)
        if fresh < least or busy is not None:
            log.info("no_training", new_comparisons=fresh, needed=least, busy=busy is not None)
            return None
        reason = f"{fresh} new comparisons since the last snapshot (at least {least} are asked for)"
        return training.start_run(opened, settings, "scheduler", reason).id


def last_due(trigger: BaseTrigger, at: datetime) -> datetime | None:
    """The latest due time at or before `at`; None if there was none in the last four years."""
    for span in _LOOK_BACK:
        latest: datetime | None = None
        due: datetime | None = trigger.get_next_fire_time(None, at - span)
        while due is not None and due <= at:
            latest = due
            due = trigger.get_next_fire_time(due, due + timedelta(seconds=1))
        if latest is not None:
            return latest.astimezone(UTC)
    return None


def next_due(settings: Settings, job: str, at: datetime) -> datetime | None:
    """The next due time after `at`; None for a job without a schedule."""
    trigger = _triggers(settings).get(job)
    due: datetime | None = trigger.get_next_fire_time(None, at) if trigger else None
    return due.astimezone(UTC) if due else None


def cron(setting: str, expression: str) -> BaseTrigger:
    """The trigger of a cron expression in UTC; SettingsError, naming `setting`, if it is none.

    As in cron, weekdays count from Sunday (0, also 7), and of a day and a weekday that are both
    limited either is enough.
    """
    try:
        return _trigger(expression.split())
    except ValueError as error:
        raise SettingsError(
            f"setting {setting} is {expression!r}: {error}; "
            'write five fields: minute, hour, day, month, weekday, as in "0 2 * * *"'
        ) from error


def next_sync(settings: Settings) -> datetime | None:
    """When all sources are synced next; None without a schedule."""
    if not settings.sync_schedule:
        return None
    due: datetime | None = cron("sync_schedule", settings.sync_schedule).get_next_fire_time(
        None, now()
    )
    return due.astimezone(UTC) if due else None


def _triggers(settings: Settings) -> dict[str, BaseTrigger]:
    expressions = {
        "sync": ("sync_schedule", settings.sync_schedule),
        "train": ("training.schedule", settings.training.schedule),
        "cleanup": ("cleanup_schedule", settings.cleanup_schedule),
        "embed": ("retrieval.embeddings", "* * * * *" if settings.retrieval.embeddings else None),
    }
    return {job: cron(name, text) for job, (name, text) in expressions.items() if text}


def _trigger(fields: list[str]) -> BaseTrigger:
    if len(fields) != 5:
        raise ValueError(f"it has {len(fields)} fields")
    minute, hour, day, month, weekday = fields
    names = _weekdays_by_name(weekday)
    if day.startswith("*") or weekday.startswith("*"):
        return _of_days(minute, hour, day, month, names)
    either = ((day, "*"), ("*", names))
    return OrTrigger([_of_days(minute, hour, on, month, at) for on, at in either])


def _of_days(*fields: str) -> CronTrigger:
    return CronTrigger.from_crontab(" ".join(fields), timezone=UTC)


def _weekdays_by_name(field: str) -> str:
    """Weekdays as names: cron counts from Sunday, APScheduler from Monday."""
    days = [day for part in field.split(",") for day in _weekdays(part)]
    return ",".join(_WEEKDAYS[day % 7] for day in days)


def _weekdays(part: str) -> range:
    """The days of one part of a weekday field: "1", "mon-fri", "1-5/2", "*/2", "1/2"."""
    found = _WEEKDAYS_PART.fullmatch(part.lower().replace("*", "0-6"))
    if found is None:
        raise ValueError(f"{part!r} is no weekday; 0 and 7 are Sunday, 6 is Saturday")
    begin, end, step = found.groups()
    first = last = _day(begin)
    if end is not None:
        last = 7 if end == "sun" and first > 0 else _day(end)
    elif step is not None:
        last = max(first, 6)
    if first > last:
        raise ValueError(f"{part!r} ends before it begins; 0 and 7 are Sunday, 6 is Saturday")
    return range(first, last + 1, int(step or 1))


def _day(text: str) -> int:
    return _WEEKDAYS.index(text) if text in _WEEKDAYS else int(text)
