"""The demonstration: the whole loop on a small company's questions, step by step.

Each step does what is missing and no more, so that a second go continues where the
first one stopped. The page answers from the base policy as soon as that is there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine
from sqlmodel import Session, col, func, select

import rlhf_engine
from service import policies, training
from service.commands import terminal
from service.commands.maintenance import fetch_with_progress
from service.database import migrate, open_database, session
from service.demo import configuration, console, engine_job, pairs, progress_file, report, sizing
from service.demo.memory import PeakMemory
from service.demo.server import DemoServer
from service.errors import TrainingRunError
from service.plugin_state import open_host
from service.sync import sync_source
from service.tables import GateReport, GoldAnswer, PolicyVersion, TrainingRun

LEAST_QUESTIONS = 12
SEED = 17
BY = "demonstration"

CYCLE_1, CYCLE_2 = "cycle 1", "cycle 2"
STEPS = (
    "base policy",
    "data",
    "speed and sizes",
    "server",
    "cycle 1: SFT",
    "answer pairs",
    "votes",
    "cycle 2: reward model and PPO",
    "tables",
)


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asked for. `minutes` is the time for all steps together."""

    home: Path
    port: int = 8321
    handbook: Path | None = None
    minutes: float = 25.0
    once: bool = False


class Demo:
    """One go of the demonstration."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.home = options.home.resolve()
        self.work = self.home / "demo"
        data = str(options.handbook.resolve()) if options.handbook else "company"
        self.done = progress_file.read(self.home, data)
        self.settings = configuration.first_settings(self.home, options.port, options.handbook)
        self.database: Engine
        self.base: Path
        self._base_ready_at = 0.0
        self.memory = PeakMemory(self.done.peak)
        self.server = DemoServer(options.port, self.home / "server.log")

    def run(self) -> None:
        """Every step, then the page until Ctrl-C (unless only once). TrainingRunError where the
        page's port is taken."""
        self.server.require_free_port()
        self.memory.start()
        try:
            self.prepare()
            self._serve()
            self._train()
            answers = self._gather()
            self.memory.stop()
            console.show_results(self.home, answers, self.done, STEPS)
            if not self.options.once:
                terminal.say(f"The page is at {self.server.url}; Ctrl-C ends the demonstration.")
                self.server.wait()
        finally:
            self.server.stop()

    def prepare(self) -> None:
        """Everything that comes before the page: base policy, data, sizes."""
        with self._step("base policy") as step:
            self.base = fetch_with_progress(self.settings, step)
        self._base_ready_at = time.monotonic()
        with self._step("data") as step:
            self.bring_data(step)
        with self._step("speed and sizes") as step:
            self._choose_sizes(step)
        self._show_sizes()

    def _serve(self) -> None:
        with self._step("server") as step:
            step("loading the base policy for the page", 0, 0, None)
            self.server.start()
            self.server.wait_until_ready()
        since = time.monotonic() - self._base_ready_at
        terminal.say(
            f"The page answers at {self.server.url} ({since:.0f} s after the base policy was "
            "there), while training goes on."
        )

    def _train(self) -> None:
        with self._step("cycle 1: SFT") as step:
            self.train_cycle(CYCLE_1, "the gold answers", step)
        with self._step("answer pairs") as step:
            self._draw_pairs(step)
        with self._step("votes") as step:
            self._vote(step)
        with self._step("cycle 2: reward model and PPO") as step:
            self.train_cycle(CYCLE_2, "simulated comparisons", step)

    def bring_data(self, step: terminal.OnStep) -> None:
        """Migrate and sync; TrainingRunError where there is too little to learn from."""
        self.database = open_database(self.settings.database)
        migrate(self.database)
        host = open_host(self.settings, self.database)
        for source in self.settings.sources:
            step(f"reading {source.name}", 0, 0, None)
            found = sync_source(self.database, host, source)
            if found.error is not None:
                raise TrainingRunError(found.error)
            terminal.say(
                f"  {source.name}: {found.added} added, {found.changed} changed, "
                f"{found.unchanged} as before, {len(found.rejected)} left out"
            )
        questions = self._questions()
        self._keep(questions=questions)
        if questions < LEAST_QUESTIONS:
            raise TrainingRunError(
                f"{questions} questions with answers were found; at least {LEAST_QUESTIONS} are "
                "needed to learn from. In a handbook they are headings that end in a question mark"
            )

    def _questions(self) -> int:
        wanted = (GoldAnswer.purpose == "training", GoldAnswer.state == "accepted")
        with session(self.database) as opened:
            return opened.exec(select(func.count()).select_from(GoldAnswer).where(*wanted)).one()

    def _choose_sizes(self, step: terminal.OnStep) -> None:
        if self.done.sizes is None:
            step("measuring how fast this machine is", 0, 0, None)
            speed = engine_job.measure(
                self.work, self.base, self.settings.training.threads, self.settings.dtype
            )
            sizes = sizing.choose(speed, self._learnt_questions(), self.seconds_left())
            self._keep(speed=speed, sizes=sizes)
        sizes, speed = self._sizes()
        self.settings = configuration.sized_settings(
            self.home, self.options.port, self.options.handbook, sizes, speed
        )

    def _learnt_questions(self) -> int:
        kept = 1 - self.settings.training.held_out_percent / 100
        return round(self.done.questions * kept)

    def _sizes(self) -> tuple[sizing.Sizes, sizing.Speed]:
        if self.done.sizes is None or self.done.speed is None:
            raise TrainingRunError("the sizes were not chosen yet")
        return self.done.sizes, self.done.speed

    def _resize(self) -> None:
        """Choose what follows the first cycle by the pace that one showed."""
        sizes, speed = self._sizes()
        if self.done.resized:
            return
        estimated = sizing.estimate(sizes, speed, self._learnt_questions())["cycle 1: SFT"]
        pace = self.done.took_s.get("cycle 1: SFT", estimated) / estimated
        chosen = sizing.choose(
            speed,
            self._learnt_questions(),
            self.seconds_left(),
            steps=sizing.AFTER_CYCLE_1,
            slowness=max(1.0, pace) * sizing.MARGIN,
            like=sizes,
        )
        self._keep(sizes=chosen, resized=True)
        self.settings = configuration.sized_settings(
            self.home, self.options.port, self.options.handbook, chosen, speed
        )
        if chosen != sizes:
            terminal.say(f"The first cycle took {pace:.1f} times what was estimated; sizes now:")
            self._show_sizes()

    def train_cycle(self, name: str, reason: str, step: terminal.OnStep) -> None:
        """Start, resume or watch the run of this cycle until its gate has spoken."""
        with session(self.database) as opened:
            known = self.done.runs.get(name)
            run = opened.get(TrainingRun, known) if known else _begun(opened, reason)
            if run is None:
                run = training.start_run(opened, self.settings, BY, reason, self._plan())
            elif run.state in training.RESUMABLE:
                training.resume_run(opened, run.id)
            run_id = run.id
        self._keep(runs={**self.done.runs, name: run_id})

        def told(progress: rlhf_engine.Progress) -> None:
            what = f"{progress.stage}: {progress.note or 'at work'}"
            self.memory.during = f"{name}, {what}"
            step(what, progress.step, progress.total, progress.left_s)

        ended = training.follow(self.database, self.settings, run_id, BY, told)
        if ended.state not in ("promoted", "refused", "awaiting_approval"):
            raise TrainingRunError(
                f"{name} is {ended.state}: {ended.error or 'no reason was given'}. "
                "Run the demo again: it goes on from the last finished stage"
            )
        with session(self.database) as opened:
            gate = opened.exec(select(GateReport).where(GateReport.run_id == run_id)).first()
        terminal.say(f"  {gate.sentence if gate else ''}\n  {name} is {ended.state}".lstrip("\n"))
        if ended.error:
            terminal.say(f"  {ended.error}")

    def _plan(self) -> dict[str, object]:
        sizes, speed = self._sizes()
        return sizing.plan_values(sizes, speed.dtype)

    def _draw_pairs(self, step: terminal.OnStep) -> None:
        self._resize()
        sizes, _ = self._sizes()
        snapshot, plan = self._first_cycle()
        drawn = pairs.draw_pairs(
            self.database,
            self.settings,
            self.work,
            self._sft_version(),
            pairs.choose_demonstrations(snapshot, sizes.pairs, SEED),
            plan,
            _with_time_left(step, "answers (simulated questions)"),
        )
        terminal.say(f"  {drawn} questions with two answers each, labelled simulated")

    def _vote(self, step: terminal.OnStep) -> None:
        step("simulated voter at work", 0, 0, None)
        snapshot, _ = self._first_cycle()
        golds = {item.prompt.question: item.answer for item in snapshot.demonstrations}
        cast = pairs.cast_votes(self.database, golds, SEED)
        terminal.say(f"  {cast} simulated votes cast, one in ten wrong on purpose")

    def _first_cycle(self) -> tuple[rlhf_engine.Snapshot, rlhf_engine.RunPlan]:
        run = self._run_folder(CYCLE_1)
        return rlhf_engine.Snapshot.open(run.stage_path("snapshot")), run.plan()

    def _sft_version(self) -> PolicyVersion:
        with session(self.database) as opened:
            run = opened.get_one(TrainingRun, self.done.runs[CYCLE_1])
            version = opened.get(PolicyVersion, run.candidate_id or "")
            return version or policies.live_version(opened)

    def _run_folder(self, name: str) -> rlhf_engine.RunFolder:
        with session(self.database) as opened:
            return rlhf_engine.RunFolder(
                Path(opened.get_one(TrainingRun, self.done.runs[name]).folder)
            )

    def _gather(self) -> list[report.Answers]:
        with self._step("tables") as step:
            step("loading the reward model", 0, 0, None)
            told = _with_time_left(step, "scoring the answers to the exam")
            return report.gather(self.work, self._run_folder(CYCLE_2), told)

    def _show_sizes(self) -> None:
        console.show_sizes(*self._sizes(), self._learnt_questions())

    def seconds_left(self) -> float:
        """Of the time that was asked for, over all goes."""
        return self.options.minutes * 60 - sum(self.done.took_s.values())

    @contextmanager
    def _step(self, name: str) -> Iterator[terminal.OnStep]:
        number = STEPS.index(name) + 1
        terminal.say(f"[{number}/{len(STEPS)}] {name}{self._time_left_from(name)}")
        began = time.monotonic()
        self.memory.during = name
        try:
            with terminal.steps() as step:
                yield step
            if name not in self.done.finished:
                self._keep(finished=(*self.done.finished, name))
        finally:
            spent = self.done.took_s.get(name, 0.0) + time.monotonic() - began
            self._keep(took_s={**self.done.took_s, name: spent}, peak=self.memory.peak)

    def _time_left_from(self, name: str) -> str:
        if self.done.sizes is None or self.done.speed is None:
            return ""
        costs = sizing.estimate(self.done.sizes, self.done.speed, self._learnt_questions())
        left = sum(
            cost
            for step, cost in costs.items()
            if step_of(step) >= STEPS.index(name) and STEPS[step_of(step)] not in self.done.finished
        )
        return f" (about {terminal.duration(left)} left in all)" if left else ""

    def _keep(self, **changes: object) -> None:
        self.done = progress_file.keep(self.home, self.done, **changes)


def step_of(estimated: str) -> int:
    """Which step of the demonstration an estimate belongs to."""
    whole = estimated if estimated in STEPS else "cycle 2: reward model and PPO"
    return STEPS.index(whole)


def _begun(opened: Session, reason: str) -> TrainingRun | None:
    """The unfinished run that an earlier go started for this reason, and ended before it could
    keep which."""
    unfinished = (*training.AT_WORK, *training.RESUMABLE)
    query = select(TrainingRun).where(
        TrainingRun.requested_by == BY,
        TrainingRun.reason == reason,
        col(TrainingRun.state).in_(unfinished),
    )
    return opened.exec(query.order_by(col(TrainingRun.created_at).desc())).first()


def _with_time_left(step: terminal.OnStep, what: str) -> Callable[[int, int], None]:
    began = time.monotonic()

    def told(done: int, total: int) -> None:
        left = (time.monotonic() - began) / done * (total - done) if done else None
        step(what, done, total, left)

    return told
