"""A job that fails in the middle of a round leaves the others, and the engine, as they were."""

from __future__ import annotations

from typing import Any

import pytest

from rlhf_engine.answer_events import Ended, Event, Failed
from rlhf_engine.answer_job import Job
from rlhf_engine.answer_rounds import AnswerRounds
from rlhf_engine.backbone import Backbone
from rlhf_engine.errors import EngineError, GenerationError
from rlhf_engine.plan import LoraPlan
from rlhf_engine.records import Prompt, SamplingSettings
from rlhf_engine.serving_engine import Request
from tests.tiny import tireless_base

PROMPT = Prompt("p1", "How many days?")
ADAPTERS = {"zero": None, "one": "policy"}


class Stop(str):
    """A stop text that nobody can read any more once it is `torn`."""

    torn = False

    def __len__(self) -> int:
        if self.torn:
            raise ValueError("it is torn")
        return super().__len__()


class Room:
    """The rounds of an engine, with what became of each job."""

    def __init__(self, backbone: Backbone) -> None:
        self.rounds = AnswerRounds(backbone, 1024, 8, self._over)
        self.events: dict[Job, list[Event]] = {}
        self.over: list[tuple[Job, EngineError | None]] = []

    def admit(self, tokens: int, versions: tuple[str, ...], stop: tuple[str, ...] = ()) -> Job:
        settings = SamplingSettings(0.0, max_new_tokens=tokens, stop=stop)
        request = Request(PROMPT, versions, tuple(range(len(versions))), settings, 384)
        events: list[Event] = []
        job = Job(request, events.append, lambda: None)
        self.events[job] = events
        self.rounds.admit(job)
        return job

    def go_on(self, times: int = 1) -> None:
        for _ in range(times):
            self.rounds.go_on(ADAPTERS)

    def failed(self, job: Job) -> bool:
        """Whether the job has failed, and its listener and the engine heard so once."""
        told = [event for event in self.events[job] if isinstance(event, Failed)]
        errors = [error for each, error in self.over if each is job]
        return len(told) == len(errors) == 1 and isinstance(errors[0], GenerationError)

    def answered(self, job: Job) -> int:
        """How many answers of the job are complete; -1 while the engine has not heard its end."""
        if (job, None) not in self.over:
            return -1
        return sum(isinstance(event, Ended) for event in self.events[job])

    def _over(self, job: Job, error: EngineError | None) -> None:
        self.over.append((job, error))
        job.close(error)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    made = Backbone.load(tireless_base(tmp_path_factory.mktemp("base")))
    made.new_adapter("policy", LoraPlan(rank=4))
    return made


@pytest.fixture
def room(backbone: Backbone) -> Room:
    return Room(backbone)


def test_one_prompt_a_round_is_rendered(
    room: Room, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered: list[None] = []
    apply_template = backbone.tokenizer.apply_chat_template

    def counted(*args: Any, **more: Any) -> Any:
        rendered.append(None)
        return apply_template(*args, **more)

    monkeypatch.setattr(backbone.tokenizer, "apply_chat_template", counted)
    jobs = [room.admit(4, ("zero",)) for _ in range(3)]
    for done in range(4):
        assert len(rendered) == min(done, 3)
        room.go_on()
    room.go_on(3)
    assert [room.answered(job) for job in jobs] == [1, 1, 1]


def test_a_job_whose_rows_all_end_as_it_fails_is_over(room: Room) -> None:
    no_text: Any = 7
    job = room.admit(1, ("zero", "zero"), (no_text,))
    room.go_on()
    assert room.failed(job)
    assert (room.rounds.jobs, room.rounds.rows) == (0, 0)


def test_a_job_that_fails_beside_one_that_ends(room: Room) -> None:
    stop = Stop("never said")
    failing = room.admit(9, ("zero",), (stop,))
    room.go_on()
    ending = room.admit(2, ("zero",))
    room.go_on()
    stop.torn = True
    room.go_on()
    assert room.failed(failing)
    assert room.answered(ending) == 1
    assert (room.rounds.jobs, room.rounds.rows) == (0, 0)


def test_a_job_that_fails_in_one_version_leaves_its_other_version(room: Room) -> None:
    stop = Stop("never said")
    failing = room.admit(9, ("zero", "one"), (stop,))
    room.go_on(3)
    assert room.rounds.rows == 2
    stop.torn = True
    room.go_on()
    assert room.failed(failing)
    later = room.admit(2, ("zero", "one"))
    room.go_on(4)
    assert room.answered(later) == 2
