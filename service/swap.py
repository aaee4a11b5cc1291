"""The swap: a requested version is loaded beside the live one, tried, and made live.

One thread of the server does it, and also follows an alias that another process moved.
Where no server lives, `promote_directly` moves the alias after verifying the files.
"""

from __future__ import annotations

import threading

import structlog
from sqlalchemy import Engine
from sqlmodel import col, select

import rlhf_engine
from service import policies
from service.database import session
from service.errors import ConflictError, HeedError, NotFoundError
from service.serving import Serving
from service.settings import Settings
from service.tables import PolicyVersion, Promotion

POLL_S = 0.5
RETRY_S = 10.0
STOP_S = 10.0

log = structlog.get_logger(__name__)


class Swapper:
    """The thread that brings versions into service, from the base policy at the start on."""

    def __init__(self, database: Engine, settings: Settings, serving: Serving) -> None:
        self._database, self._settings, self._serving = database, settings, serving
        self._unloadable: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="swapper", daemon=True)

    def start(self) -> None:
        """Begin in the background; `serving.ready` tells when questions are answered."""
        self._thread.start()

    def stop(self) -> None:
        """Begin nothing new; wait a little for what is under way (fetching may take long)."""
        self._stop.set()
        self._thread.join(STOP_S)

    def _run(self) -> None:
        while not self._stop.is_set() and not self._opened():
            self._stop.wait(RETRY_S)
        while not self._stop.wait(POLL_S):
            try:
                self.look()
            except (HeedError, rlhf_engine.EngineError, OSError) as error:
                log.warning("swap_not_looked_for", error=str(error), next="tries again")

    def look(self) -> None:
        """Do what is due: requested promotions, an alias moved elsewhere, unused versions."""
        with session(self._database) as opened:
            waiting = select(Promotion).where(Promotion.state == "requested")
            requested = opened.exec(waiting.order_by(col(Promotion.created_at))).all()
        for promotion in requested:
            self._promote(promotion)
        with session(self._database) as opened:
            live, previous = policies.live_version(opened), policies.aliased(opened, "previous")
        if live.id != self._serving.live_id:
            self._follow(live)
        self._serving.retire_unused({live.id} | ({previous.id} if previous else set()))

    def _opened(self) -> bool:
        try:
            self._open()
        except (HeedError, rlhf_engine.EngineError, OSError) as error:
            self._serving.waits_for = f"the base policy cannot be loaded: {error}"
            log.warning("base_not_loaded", error=str(error), next=f"tries again in {RETRY_S} s")
            return False
        return True

    def _open(self) -> None:
        settings = self._settings
        base = rlhf_engine.fetch_base(
            settings.base_policy, settings.base_cache, settings.base_revision, self._tell_progress
        )
        with session(self._database) as opened:
            version_0 = policies.register_base(opened, settings, base)
        self._serving.waits_for = "the base policy is still loading"
        if self._serving.base is None:
            self._serving.open(base)
        self._load_live(version_0)

    def _tell_progress(self, note: str, done: int, total: int) -> None:
        share = f" ({done * 100 // total}%)" if total else ""
        self._serving.waits_for = f"the base policy is being fetched: {note}{share}"

    def _load_live(self, version_0: PolicyVersion) -> None:
        """Serve the live version, or the best earlier one that still loads: better than none."""
        with session(self._database) as opened:
            live, previous = policies.live_version(opened), policies.aliased(opened, "previous")
        for version in (live, previous, version_0):
            if version is not None and self._loads(version):
                self._serving.make_live(version.id)
                log.info("serving", version=version.id, number=version.number)
                break
        if previous is not None and self._serving.live_id == live.id:
            self._loads(previous)

    def _follow(self, version: PolicyVersion) -> None:
        if version.id not in self._unloadable and self._loads(version):
            self._serving.make_live(version.id)
            log.info("swapped", version=version.id, number=version.number, by="another process")

    def _loads(self, version: PolicyVersion) -> bool:
        try:
            self._serving.load(version.id, version.number)
        except (rlhf_engine.EngineError, OSError) as error:
            self._unloadable.add(version.id)
            log.warning(
                "version_not_loaded",
                version=version.id,
                number=version.number,
                error=str(error),
                next="restore its folder, or roll back",
            )
            return False
        return True

    def _promote(self, promotion: Promotion) -> None:
        with session(self._database) as opened:
            version = opened.get_one(PolicyVersion, promotion.version_id)
        log.info("swap_began", promotion=promotion.id, version=version.id, number=version.number)
        try:
            self._serving.load(version.id, version.number)
            self._serving.try_out(version.id)
        except Exception as error:  # noqa: BLE001 - whatever a new version does, the live one stays
            _refuse(self._database, promotion.id, f"version {version.number}: {error}")
            return
        if _moved(self._database, promotion.id):
            self._serving.make_live(version.id)
            log.info("swapped", version=version.id, number=version.number, by=promotion.by)


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
    _moved(engine, promotion_id)


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
