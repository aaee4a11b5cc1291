"""What crash.py kills: a version published and promoted, with and without a server, in a
process of its own; and the look at what is left."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from sqlalchemy import Engine, event
from sqlmodel import col, select

import rlhf_engine
from service import policies
from service.database import migrate, open_database, session
from service.serving import Serving
from service.settings import AnswerSettings, Settings, TrainingSettings
from service.swap import Swapper, promote_directly
from service.tables import Alias, PolicyVersion, Promotion
from tests.benchmarks.resume_kills import Kill, Watch, limit_at, stop_at
from tests.tiny import tiny_base
from tests.versions import write_adapter

Way = Literal["without a server", "by the server"]
WAYS: tuple[Way, ...] = ("without a server", "by the server")
WRITES = ("INSERT", "UPDATE", "DELETE")
WAIT_S = 60.0


class Home:
    """One deployment below a folder: base policy, settings, database, adapters to publish."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.adapter = folder, folder / "adapter"

    @property
    def settings(self) -> Settings:
        """Quick answers of the tiny policy; nothing is scheduled."""
        return Settings(
            home=self.folder / "home",
            base_policy=str(self.folder / "base"),
            threads=1,
            dtype="float32",
            sync_schedule=None,
            cleanup_schedule=None,
            training=TrainingSettings(schedule=None),
            answers=AnswerSettings(max_new_tokens=8),
        )

    def make(self) -> None:
        """The base policy as version 0, and the adapter that others are varied from."""
        base = tiny_base(self.folder / "base")
        write_adapter(base, self.adapter, seed=1)
        with opened(self.settings) as database:
            migrate(database)
            with session(database) as rows:
                policies.register_base(rows, self.settings, base)

    def publish(self, number: int, way: Way, count: Callable[[], None]) -> None:
        """Store, register and promote a version that was never there before; `count` is called
        when the steps begin that are to be counted."""
        adapter = self._variant(number)
        if way == "without a server":
            with opened(self.settings) as database:
                count()
                promote_directly(database, self.settings, self._request(database, adapter))
            return
        with opened(self.settings) as database:
            serving = Serving(self.settings)
            swapper = Swapper(database, self.settings, serving)
            swapper.start()
            _until(lambda: serving.ready and not _waiting(database))
            count()
            promotion = self._request(database, adapter)
            swapper.wake()
            _until(lambda: _ended(database, promotion))
            swapper.stop()
            serving.close(0)

    def _variant(self, number: int) -> Path:
        """The adapter with other weights; outside what is counted and killed."""
        folder = self.folder / "variants" / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        weights = load_file(self.adapter / "adapter_model.safetensors")
        draws = torch.Generator().manual_seed(number)
        changed = {
            name: value + 0.01 * torch.randn(value.shape, generator=draws)
            for name, value in weights.items()
        }
        save_file(changed, folder / "adapter_model.safetensors", {"format": "pt"})
        config = (self.adapter / "adapter_config.json").read_bytes()
        (folder / "adapter_config.json").write_bytes(config)
        return folder

    def _request(self, database: Engine, adapter: Path) -> str:
        settings = self.settings
        version = rlhf_engine.PolicyVersionFolder.store(
            adapter, self.folder / "base", settings.policies, {}
        )
        with session(database) as rows:
            policies.register_candidate(rows, version, "ppo", None, None, None, {})
            policies.set_candidate(rows, version.id, "crash")
        with session(database) as rows:
            return policies.request_promotion(rows, version.id, "crash", "a benchmark").id

    def look(self) -> str:
        """The live version's id, after it was loaded and answered; ValueError says what is torn."""
        with opened(self.settings) as database, session(database) as rows:
            named = [row.version_id for row in rows.exec(select(Alias).where(Alias.name == "live"))]
            state = PolicyVersion.state == "live"
            live = [row.id for row in rows.exec(select(PolicyVersion).where(state))]
            done = rows.exec(
                select(Promotion.version_id)
                .where(Promotion.state == "done")
                .order_by(col(Promotion.finished_at).desc())
            ).first()
        if len(named) != 1 or named != live or done not in (None, *named):
            raise ValueError(f"aliases {named}, states {live}, last promotion {done}")
        self._answers(named[0])
        return named[0]

    def _answers(self, version_id: str) -> None:
        serving = Serving(self.settings)
        serving.open(self.folder / "base")
        try:
            serving.load(version_id, 0)
            serving.try_out(version_id)
        finally:
            serving.close(0)


def killed_publish(home: Home, number: int, way: Way, kill: Kill, tells: int) -> None:
    """Publish until the kill: at a step, inside a file, or `after_s` seconds from the first step
    on. A step is a write to a policy's file, a statement that writes rows, or a commit of some."""

    def on_step(step: int, name: str) -> None:
        if kill.how == "write":
            stop_at(step, kill, tells)
        elif kill.how == "cut":
            limit_at(step, Path(name), kill)

    def begin() -> None:
        watch_steps(home, on_step)
        if kill.after_s:
            threading.Timer(kill.after_s, os.write, (tells, b"!")).start()

    home.publish(number, way, begin)


def trace(home: Home, number: int, way: Way, told: Path) -> None:
    """An uninterrupted publish; writes its steps, their seconds and the loaded modules."""
    steps: list[str] = []
    began = [0.0]

    def begin() -> None:
        watch_steps(home, lambda _, name: steps.append(name))
        began[0] = time.monotonic()

    home.publish(number, way, begin)
    seconds = time.monotonic() - began[0]
    told.write_text(json.dumps([steps, seconds, sorted(sys.modules)]))


def watch_steps(home: Home, on_step: Callable[[int, str], None]) -> None:
    """Number each step before it happens, from now on."""
    lock, count = threading.Lock(), 0

    def take(name: str) -> None:
        nonlocal count
        with lock:
            count += 1
            number = count
        on_step(number, name)

    def statement(connection: Any, _cursor: Any, text: str, *_: Any) -> None:
        if text.startswith(WRITES):
            connection.info["wrote"] = True
            take(" ".join(text.split()[:3]))

    def commit(connection: Any) -> None:
        if connection.info.pop("wrote", False):
            take("COMMIT")

    policies_folder = home.settings.policies.absolute()
    sys.addaudithook(Watch(policies_folder, lambda _, name: take(str(policies_folder / name))))
    event.listen(Engine, "before_cursor_execute", statement)
    event.listen(Engine, "commit", commit)


@contextmanager
def opened(settings: Settings) -> Any:
    """The database of this process alone: a connection does not outlive a fork."""
    database = open_database(settings.database)
    try:
        yield database
    finally:
        database.dispose()


def _waiting(database: Engine) -> bool:
    with session(database) as rows:
        waiting = select(Promotion.id).where(Promotion.state == "requested")
        return rows.exec(waiting).first() is not None


def _ended(database: Engine, promotion_id: str) -> bool:
    with session(database) as rows:
        return rows.get_one(Promotion, promotion_id).state != "requested"


def _until(holds: Callable[[], bool]) -> None:
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > WAIT_S:
            raise TimeoutError(f"not within {WAIT_S} s")
        time.sleep(0.01)
