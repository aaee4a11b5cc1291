"""The swap: a requested version is loaded beside the live one, tried, and made live.

Two threads of the server do it. The loader reads, verifies and tries versions, which takes
its time; the follower moves between versions that are in memory and were tried here, so
that a rollback waits for nothing. Both follow the alias rows, whoever moved them. Where no
server lives, `promote_directly` moves the alias after verifying the files.
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
"""How soon is tried again what the engine could not do just now."""
UNUSABLE_S = 60.0
"""How long a version that could not be loaded, or failed its try-out, is left alone."""
PATIENCE_S = 150.0
"""How long a promotion is tried again that the engine cannot do; a run waits a little longer for
its own (run_outcome.py)."""

STOP_S = 10.0

FAILED_HERE = "not used here until then; heed rollback, heed candidate --clear, or train again"

log = structlog.get_logger(__name__)


class Swapper:
    """The threads that bring versions into service, from the base policy at the start on."""

    def __init__(self, database: Engine, settings: Settings, serving: Serving) -> None:
        self._database, self._settings, self._serving = database, settings, serving
        self._moving = threading.Lock()
        """Held from reading or moving the live alias until the serving follows it."""
        self._loading: str | None = None
        self._tried: set[str] = set()
        """Versions that answered the smoke questions here, or were live here."""
        self._live_here: str | None = None
        """The version that was made live last, whatever became of the engine."""
        self._again_at: dict[str, float] = {}
        """Until when a version or a promotion is left alone."""
        self._put_off_at: dict[str, float] = {}
        """When a promotion was put off first."""
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
            except Exception as error:  # noqa: BLE001 - without its threads no version goes live
                log.warning("swap_not_looked_for", error=repr(error), next="tries again")
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
        kept = {version.id for version in named.values()} | {self._loading or ""}
        self._serving.retire_unused(kept)
        # A version that an alias names stays tried while a new engine loads it again.
        self._tried &= self._serving.loaded() | kept
        if requested or self._unready(named):
            self._wake_ups[0].set()

    def _point(self, named: Mapping[str, PolicyVersion]) -> None:
        usable, live = self._usable(), named["live"]
        if live.id != self._serving.live_id and live.id in usable:
            self._make_live(live)
            log.info("swapped", version=live.id, number=live.number, by="another process")
        for name in ("previous", "candidate"):
            found = named.get(name)
            self._serving.point(name, found.id if found and found.id in usable else None)

    def _usable(self) -> set[str]:
        return self._serving.loaded() & self._tried

    def _unready(self, named: Mapping[str, PolicyVersion]) -> list[PolicyVersion]:
        """Versions that an alias names and that are still to be loaded or tried, the live first."""
        usable = self._usable()
        found = [named[name] for name in policies.ALIASES if name in named]
        return [version for version in found if version.id not in usable]

    def _is_warm(self, version: PolicyVersion) -> bool:
        """Whether it was live before, and is in memory and tried: nothing is left to find out."""
        return version.state == "retired" and version.id in self._usable()

    def _make_live(self, version: PolicyVersion) -> None:
        self._serving.make_live(version.id)
        self._tried.add(version.id)
        self._live_here = version.id

    def _move(self, promotion: Promotion, version: PolicyVersion) -> None:
        with self._moving:
            if _moved(self._database, promotion.id):
                self._make_live(version)
                log.info("swapped", version=version.id, number=version.number, by=promotion.by)
                observing.tell_promoted(self._settings, self._database, promotion)

    # The loader's work.

    def _opens(self) -> bool:
        try:
            self._open()
        except Exception as error:  # noqa: BLE001 - without its threads no version goes live
            self._serving.waits_for = f"the base policy cannot be loaded: {error}"
            log.warning("base_not_loaded", error=repr(error), next=f"tries again in {RETRY_S} s")
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
            policies.register_base(opened, settings, base)
        self._serve_best()

    def _tell_progress(self, note: str, done: int, total: int) -> None:
        share = f" ({done * 100 // total}%)" if total else ""
        self._serving.waits_for = f"the base policy is being fetched: {note}{share}"

    def _serve_best(self) -> None:
        """Serve the version that was live here, the live one, or the best earlier one that still
        loads, those first that were tried: better than none."""
        with session(self._database) as opened:
            found = (
                opened.get(PolicyVersion, self._live_here or ""),
                policies.live_version(opened),
                policies.aliased(opened, "previous"),
                policies.find_version(opened, "0"),
            )
        known = [version for version in found if version is not None]
        for version in sorted(known, key=lambda version: version.id not in self._tried):
            # Else the follower would retire it before it is live.
            self._loading = version.id
            if self._loads(version):
                self._make_live(version)
                log.info("serving", version=version.id, number=version.number)
                break
        self._loading = None

    def _load_wanted(self) -> None:
        """Load and try what the aliases name, so that the follower can use it; then do what is
        requested."""
        if not self._reopens():
            return
        if self._serving.live_id is None:
            self._serve_best()
        with session(self._database) as opened:
            named = policies.all_aliased(opened)
        for version in self._unready(named):
            if self._loads(version):
                self._try_out(version)
        for promotion, version in self._requested():
            waits = self._is_warm(version) or self._is_left_alone(promotion.id)
            if not waits and not self._stop.is_set():
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
        if self._is_left_alone(version.id):
            return False
        try:
            self._serving.load(version.id, version.number)
        except (rlhf_engine.EngineError, OSError) as error:
            self._leave_alone(version, error, "restore its folder, or roll back")
            return False
        self._wake_ups[1].set()
        return True

    def _try_out(self, version: PolicyVersion) -> None:
        """An alias stands for a version once it has answered the smoke questions here."""
        if version.id in self._tried:
            return
        try:
            self._serving.try_out(version.id)
        except (HeedError, rlhf_engine.EngineError) as error:
            self._leave_alone(version, error, FAILED_HERE)
            return
        self._tried.add(version.id)
        self._wake_ups[1].set()

    def _is_left_alone(self, what: str) -> bool:
        return monotonic() < self._again_at.get(what, -math.inf)

    def _leave_alone(self, version: PolicyVersion, error: Exception, what_next: str) -> None:
        passing = self._is_passing(error)
        again_s = RETRY_S if passing else UNUSABLE_S
        self._again_at[version.id] = monotonic() + again_s
        again = f"tries again in {again_s:.0f} s"
        log.warning(
            "version_not_usable",
            version=version.id,
            number=version.number,
            error=str(error),
            next=again if passing else f"{again}; {what_next}",
        )

    def _is_passing(self, error: Exception) -> bool:
        """Whether the version is not at fault; a server that stops breaks off what it tries."""
        return self._stop.is_set() or self._serving.is_passing(error)

    def _promote(self, promotion: Promotion, version: PolicyVersion) -> None:
        log.info("swap_began", promotion=promotion.id, version=version.id, number=version.number)
        # Else the follower would retire it before it is live.
        self._loading = version.id
        try:
            self._serving.load(version.id, version.number)
            self._serving.try_out(version.id)
        except Exception as error:  # noqa: BLE001 - whatever a new version does, the live one stays
            if self._is_passing(error):
                self._put_off(promotion, version, error)
            else:
                self._turn_down(promotion, version, error)
        else:
            self._tried.add(version.id)
            self._move(promotion, version)
        finally:
            self._loading = None

    def _put_off(self, promotion: Promotion, version: PolicyVersion, error: Exception) -> None:
        """Leave it requested, since the version is not at fault; refuse it in the end."""
        began = self._put_off_at.setdefault(promotion.id, monotonic())
        if monotonic() - began < PATIENCE_S or self._stop.is_set():
            self._again_at[promotion.id] = monotonic() + RETRY_S
            log.warning(
                "promotion_put_off",
                promotion=promotion.id,
                version=version.id,
                error=str(error),
                next="it stays requested and is tried again",
            )
            return
        told = (
            f"version {version.number} could not be tried for {PATIENCE_S:.0f} s, which says "
            f"nothing about it: {error}; ask again when the engine can be asked"
        )
        _refuse(self._database, promotion.id, told)

    def _turn_down(self, promotion: Promotion, version: PolicyVersion, error: Exception) -> None:
        if _refuse(self._database, promotion.id, f"version {version.number}: {error}"):
            with session(self._database) as opened:
                policies.clear_candidate(opened, version.id, "it cannot go live")
        else:
            self._leave_alone(version, error, FAILED_HERE)

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


def _refuse(engine: Engine, promotion_id: str, error: str) -> bool:
    """False where another process decided it."""
    try:
        with session(engine) as opened:
            policies.refuse(opened, promotion_id, error)
    except ConflictError:
        log.info("promotion_decided_elsewhere", promotion=promotion_id, error=error)
        return False
    return True
