"""The swap: a requested version is loaded beside the live one, tried, and made live.

Two threads of the server do it. The loader reads, verifies and tries versions, which takes
its time; the follower moves between versions that are in memory, so that a rollback waits
for nothing. Both follow the alias rows, whoever moved them. Where no server lives,
`promote_directly` moves the alias after verifying the files.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from time import monotonic

import structlog
from sqlalchemy import Engine
from sqlmodel import col, select

import rlhf_engine
from service import observing, policies
from service.database import session
from service.errors import ConflictError, HeedError, NotFoundError
from service.serving import Serving
from service.settings import Settings
from service.tables import PolicyVersion, Promotion

POLL_S = 0.25
"""How soon what another process asked for is seen; this process wakes the threads itself."""

RETRY_S = 10.0
UNLOADABLE_S = 60.0
"""How long a version that could not be loaded is left alone."""

STOP_S = 10.0

log = structlog.get_logger(__name__)


class Swapper:
    """The threads that bring versions into service, from the base policy at the start on."""

    def __init__(self, database: Engine, settings: Settings, serving: Serving) -> None:
        self._database, self._settings, self._serving = database, settings, serving
        self._moving = threading.Lock()
        """Held from reading or moving the live alias until the serving follows it."""
        self._loading: str | None = None
        self._failed_at: dict[str, float] = {}
        self._tried: set[str] = set()
        self._stop, self._opened = threading.Event(), threading.Event()
        self._wake_ups = (threading.Event(), threading.Event())
        works = (("loader", self._run_loader), ("follower", self._run_follower))
        self._threads = [
            threading.Thread(target=work, name=f"swap-{name}", daemon=True) for name, work in works
        ]

    def start(self) -> None:
        """Begin in the background; `serving.ready` tells when questions are answered."""
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """Look at once: a row was written."""
        for wake_up in self._wake_ups:
            wake_up.set()

    def stop(self) -> None:
        """Begin nothing new; wait a little for what is under way (fetching may take long)."""
        self._stop.set()
        self._opened.set()
        self.wake()
        for thread in self._threads:
            thread.join(STOP_S)

    def _run_loader(self) -> None:
        while not self._stop.is_set() and not self._opens():
            self._stop.wait(RETRY_S)
        self._opened.set()
        self._repeat(self._load_wanted, self._wake_ups[0], RETRY_S)

    def _run_follower(self) -> None:
        self._opened.wait()
        self._repeat(self._follow, self._wake_ups[1], POLL_S)

    def _repeat(self, look: Callable[[], None], wake_up: threading.Event, wait_s: float) -> None:
        while not self._stop.is_set():
            try:
                look()
            except (HeedError, rlhf_engine.EngineError, OSError) as error:
                log.warning("swap_not_looked_for", error=str(error), next="tries again")
            wake_up.wait(wait_s)
            wake_up.clear()

    # The follower's work: nothing here reads a file or asks the engine for an answer.

    def _follow(self) -> None:
        requested = self._requested()
        for promotion, version in requested:
            if self._is_warm(version):
                self._move(promotion, version)
        with self._moving:
            with session(self._database) as opened:
                named = policies.all_aliased(opened)
            self._point(named)
        kept = {version.id for version in named.values()}
        self._serving.retire_unused(kept | {self._loading or ""})
        self._tried &= self._serving.loaded()
        if requested or kept - self._serving.loaded() or self._untried(named):
            self._wake_ups[0].set()

    def _point(self, named: Mapping[str, PolicyVersion]) -> None:
        loaded, live = self._serving.loaded(), named["live"]
        if live.id != self._serving.live_id and live.id in loaded:
            self._serving.make_live(live.id)
            log.info("swapped", version=live.id, number=live.number, by="another process")
        for name, usable in (("previous", loaded), ("candidate", loaded & self._tried)):
            found = named.get(name)
            self._serving.point(name, found.id if found and found.id in usable else None)

    def _untried(self, named: Mapping[str, PolicyVersion]) -> bool:
        return "candidate" in named and named["candidate"].id not in self._tried

    def _is_warm(self, version: PolicyVersion) -> bool:
        """Whether it was live before and is still in memory: nothing is left to find out."""
        return version.state == "retired" and version.id in self._serving.loaded()

    def _move(self, promotion: Promotion, version: PolicyVersion) -> None:
        with self._moving:
            if _moved(self._database, promotion.id):
                self._serving.make_live(version.id)
                log.info("swapped", version=version.id, number=version.number, by=promotion.by)
                observing.tell_promoted(self._settings, self._database, promotion)

    # The loader's work.

    def _opens(self) -> bool:
        try:
            self._open()
        except (HeedError, rlhf_engine.EngineError, OSError) as error:
            self._serving.waits_for = f"the base policy cannot be loaded: {error}"
            log.warning("base_not_loaded", error=str(error), next=f"tries again in {RETRY_S} s")
            return False
        return True

    def _open(self) -> None:
        settings = self._settings
        self._serving.prepare()
        base = rlhf_engine.fetch_base(
            settings.base_policy,
            settings.base_cache,
            settings.base_revision,
            self._tell_progress,
            check=False,
        )
        self._serving.waits_for = "the base policy is still loading"
        # The engine checks it, before it is kept as version 0.
        if self._serving.base is None:
            self._serving.open(base)
        with session(self._database) as opened:
            version_0 = policies.register_base(opened, settings, base)
        self._serve_best(version_0)

    def _tell_progress(self, note: str, done: int, total: int) -> None:
        share = f" ({done * 100 // total}%)" if total else ""
        self._serving.waits_for = f"the base policy is being fetched: {note}{share}"

    def _serve_best(self, version_0: PolicyVersion) -> None:
        """Serve the live version, or the best earlier one that still loads: better than none."""
        with session(self._database) as opened:
            live, previous = policies.live_version(opened), policies.aliased(opened, "previous")
        for version in (live, previous, version_0):
            if version is not None and self._loads(version):
                self._serving.make_live(version.id)
                log.info("serving", version=version.id, number=version.number)
                break

    def _load_wanted(self) -> None:
        """Load what the aliases name, so that the follower can; then do what is requested."""
        if not self._reopens():
            return
        with session(self._database) as opened:
            named = policies.all_aliased(opened)
        for version in named.values():
            if version.id not in self._serving.loaded():
                self._loads(version)
        if self._untried(named) and named["candidate"].id in self._serving.loaded():
            self._try_candidate(named["candidate"])
        for promotion, version in self._requested():
            if not self._is_warm(version):
                self._promote(promotion, version)

    def _reopens(self) -> bool:
        """Replace an engine whose process has ended; whether there is one."""
        try:
            self._serving.reopen()
        except (rlhf_engine.EngineError, OSError) as error:
            log.warning("engine_not_started", error=str(error), next=f"again in {RETRY_S} s")
            self._stop.wait(RETRY_S)
            return False
        return True

    def _loads(self, version: PolicyVersion) -> bool:
        if self._is_left_alone(version):
            return False
        try:
            self._serving.load(version.id, version.number)
        except (rlhf_engine.EngineError, OSError) as error:
            self._leave_alone(version, error, "restore its folder, or roll back")
            return False
        self._wake_ups[1].set()
        return True

    def _try_candidate(self, version: PolicyVersion) -> None:
        """Canary answers come from a candidate once it has answered the smoke questions."""
        if self._is_left_alone(version):
            return
        try:
            self._serving.try_out(version.id)
        except (HeedError, rlhf_engine.EngineError) as error:
            self._leave_alone(version, error, "heed candidate --clear, or train again")
            return
        self._tried.add(version.id)
        self._wake_ups[1].set()

    def _is_left_alone(self, version: PolicyVersion) -> bool:
        return monotonic() < self._failed_at.get(version.id, -math.inf) + UNLOADABLE_S

    def _leave_alone(self, version: PolicyVersion, error: Exception, what_next: str) -> None:
        self._failed_at[version.id] = monotonic()
        log.warning(
            "version_not_usable",
            version=version.id,
            number=version.number,
            error=str(error),
            next=what_next,
        )

    def _promote(self, promotion: Promotion, version: PolicyVersion) -> None:
        log.info("swap_began", promotion=promotion.id, version=version.id, number=version.number)
        # Else the follower would retire it before it is live.
        self._loading = version.id
        try:
            self._serving.load(version.id, version.number)
            self._serving.try_out(version.id)
        except Exception as error:  # noqa: BLE001 - whatever a new version does, the live one stays
            _refuse(self._database, promotion.id, f"version {version.number}: {error}")
            with session(self._database) as opened:
                policies.clear_candidate(opened, version.id, "it cannot go live")
        else:
            self._move(promotion, version)
        finally:
            self._loading = None

    def _requested(self) -> list[tuple[Promotion, PolicyVersion]]:
        """Promotions that wait, the oldest first, with their versions."""
        waiting = (
            select(Promotion, PolicyVersion)
            .join(PolicyVersion, col(Promotion.version_id) == col(PolicyVersion.id))
            .where(Promotion.state == "requested")
        )
        with session(self._database) as opened:
            return [*opened.exec(waiting.order_by(col(Promotion.created_at))).all()]


def promote_directly(engine: Engine, settings: Settings, promotion_id: str) -> None:
    """Carry out a requested promotion where no server lives; its row tells how it ended.

    The version's files are verified; a server that starts later loads it, or falls back.
    NotFoundError for an unknown promotion.
    """
    with session(engine) as opened:
        promotion = opened.get(Promotion, promotion_id)
    if promotion is None:
        raise NotFoundError(f"there is no promotion {promotion_id}")
    try:
        base = rlhf_engine.fetch_base(
            settings.base_policy, settings.base_cache, settings.base_revision
        )
        rlhf_engine.PolicyVersionFolder.open(settings.policies / promotion.version_id, base)
    except rlhf_engine.EngineError as error:
        _refuse(engine, promotion_id, str(error))
        return
    if _moved(engine, promotion_id):
        observing.tell_promoted(settings, engine, promotion)


def _moved(engine: Engine, promotion_id: str) -> bool:
    try:
        with session(engine) as opened:
            policies.move_alias(opened, opened.get_one(Promotion, promotion_id))
    except ConflictError as error:
        _refuse(engine, promotion_id, str(error))
        return False
    return True


def _refuse(engine: Engine, promotion_id: str, error: str) -> None:
    try:
        with session(engine) as opened:
            policies.refuse(opened, promotion_id, error)
    except ConflictError:
        log.info("promotion_decided_elsewhere", promotion=promotion_id)
