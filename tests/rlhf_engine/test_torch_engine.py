"""The serving engine: versions side by side, streams that nothing disturbs."""

from __future__ import annotations

import json
import queue
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rlhf_engine.backbone import Backbone
from rlhf_engine.errors import (
    BasePolicyError,
    Cancelled,
    GenerationError,
    PolicyVersionError,
    QueueFullError,
)
from rlhf_engine.generation import generate
from rlhf_engine.plan import LoraPlan
from rlhf_engine.policy_version import PolicyVersionFolder
from rlhf_engine.records import Prompt, PromptPassage, SampledAnswer, SamplingSettings
from rlhf_engine.streamed_text import StreamedText
from rlhf_engine.torch_engine import Ended, Failed, Token, TorchEngine
from tests.tiny import tiny_base, tiny_tokenizer

PROMPT = Prompt("p1", "How many days of annual leave do I have?")
OTHER = Prompt("p2", "Where do I report a lost laptop?", (PromptPassage("d", "IT", "Call us."),))
GREEDY = SamplingSettings(temperature=0.0, max_new_tokens=24)
SAMPLED = SamplingSettings(temperature=1.0, max_new_tokens=24)
LONG = SamplingSettings(temperature=0.0, max_new_tokens=400)
WAIT_S = 60


def store_version(base: Path, policies: Path, seed: int, value: float | None = None) -> Any:
    """A version with random adapter weights, or with one value everywhere."""
    backbone = Backbone.load(base)
    backbone.new_adapter("a", LoraPlan(rank=4))
    generator = torch.Generator().manual_seed(seed)
    for parameter in backbone.adapter_parameters("a"):
        drawn = torch.randn(parameter.shape, generator=generator) * 0.3
        parameter.data.copy_(drawn if value is None else torch.full_like(drawn, value))
    adapter = policies.parent / f"adapter-{seed}-{value}"
    backbone.save_adapter("a", adapter)
    return PolicyVersionFolder.store(adapter, base, policies, {"seed": seed})


class Stored:
    """A base policy with version 0 and two adapters, stored once for all tests."""

    def __init__(self, root: Path) -> None:
        self.base = tiny_base(root / "base")
        self.policies = root / "policies"
        self.zero = PolicyVersionFolder.store(None, self.base, self.policies, {})
        self.one = store_version(self.base, self.policies, 1)
        self.two = store_version(self.base, self.policies, 2)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    return Stored(tmp_path_factory.mktemp("stored"))


@pytest.fixture
def engine(stored: Stored) -> Iterator[TorchEngine]:
    made = TorchEngine(stored.base, dtype="float32", threads=1, max_waiting=2, max_rows=3)
    made.start()
    for version in (stored.zero, stored.one):
        made.load(version)
    yield made
    made.stop()


class Listener:
    """Collects a job's events; `first_token` is set when text has come."""

    def __init__(self) -> None:
        self.events: queue.Queue[Any] = queue.Queue()
        self.first_token = threading.Event()
        self.pieces: dict[int, str] = {}
        self.answers: dict[int, SampledAnswer] = {}
        self.error: Exception | None = None

    def __call__(self, event: Any) -> None:
        self.events.put(event)
        if isinstance(event, Token):
            self.first_token.set()

    def wait(self, rows: int = 1) -> Listener:
        while self.error is None and len(self.answers) < rows:
            event = self.events.get(timeout=WAIT_S)
            if isinstance(event, Token):
                assert event.row not in self.answers
                self.pieces[event.row] = self.pieces.get(event.row, "") + event.text
            elif isinstance(event, Ended):
                self.answers[event.row] = event.answer
            elif isinstance(event, Failed):
                self.error = event.error
        return self


def ask(
    engine: TorchEngine,
    version: Any,
    prompt: Prompt = PROMPT,
    settings: SamplingSettings = GREEDY,
    seeds: tuple[int, ...] = (1,),
    **more: Any,
) -> Listener:
    listener = Listener()
    engine.submit(version.id, prompt, list(seeds), settings, listener, **more)
    return listener


def in_training(stored: Stored, version: Any, settings: SamplingSettings) -> SampledAnswer:
    """The same answer from the decoding that training uses."""
    backbone, adapter = Backbone.load(stored.base), None
    if not version.is_base:
        adapter = "policy"
        backbone.add_adapter(adapter, version.path)
    answers = generate(backbone, adapter, [PROMPT], [1], settings, max_prompt_tokens=384)
    return answers[0]


def test_each_version_answers_as_in_training(engine: TorchEngine, stored: Stored) -> None:
    texts = set()
    for version in (stored.zero, stored.one):
        served = ask(engine, version).wait().answers[0]
        trained = in_training(stored, version, GREEDY)
        assert served.token_ids == trained.token_ids
        assert served.logprobs == pytest.approx(trained.logprobs, abs=1e-5)
        texts.add(served.text)
    assert len(texts) == 2


def test_the_pieces_joined_are_the_answer(engine: TorchEngine, stored: Stored) -> None:
    listener = ask(engine, stored.one, settings=SAMPLED, seeds=(3, 4, 5)).wait(rows=3)
    for row, answer in listener.answers.items():
        assert listener.pieces.get(row, "") == answer.text
        assert answer.prompt_id == "p1"
        assert len(answer.token_ids) == len(answer.logprobs) <= SAMPLED.max_new_tokens
    assert [listener.answers[row].seed for row in range(3)] == [3, 4, 5]


def test_the_same_request_gives_the_same_tokens_beside_others(
    engine: TorchEngine, stored: Stored
) -> None:
    alone = ask(engine, stored.one, settings=SAMPLED, seeds=(7, 8)).wait(rows=2).answers
    others = ask(engine, stored.zero, OTHER, LONG)
    beside = ask(engine, stored.one, settings=SAMPLED, seeds=(7, 8)).wait(rows=2).answers
    assert beside == alone
    assert others.wait().error is None
    assert alone[0].token_ids != alone[1].token_ids


def test_a_stop_text_ends_an_answer_before_it(engine: TorchEngine, stored: Stored) -> None:
    whole = ask(engine, stored.one, settings=SAMPLED).wait().answers[0]
    stop = whole.text[len(whole.text) // 2 :][:2]
    stopping = replace(SAMPLED, stop=("never said", stop))
    listener = ask(engine, stored.one, settings=stopping).wait()
    answer = listener.answers[0]
    assert answer.finish_reason == "stop"
    assert answer.text == whole.text[: whole.text.index(stop)].rstrip()
    assert listener.pieces[0] == answer.text
    assert answer.token_ids == whole.token_ids[: len(answer.token_ids)]
    assert len(answer.token_ids) < len(whole.token_ids)


def test_what_may_begin_a_stop_text_is_held_back() -> None:
    tokenizer = tiny_tokenizer()
    ids = tokenizer.encode("Ask the desk, then wait.")
    told, text = [], StreamedText(tokenizer, ["then go"])
    for end in range(1, len(ids) + 1):
        told.append(text.piece(ids[:end], ended=end == len(ids)))
        assert not text.told.endswith(("then", "then "))
    assert "".join(told) == "Ask the desk, then wait."
    assert not text.stopped


def test_rows_of_one_job_can_have_different_versions(engine: TorchEngine, stored: Stored) -> None:
    pair = ask(engine, stored.zero, seeds=(1, 1), versions=[stored.one.id, stored.zero.id]).wait(
        rows=2
    )
    assert pair.answers[0].token_ids == in_training(stored, stored.one, GREEDY).token_ids
    assert pair.answers[1].token_ids == in_training(stored, stored.zero, GREEDY).token_ids


def test_loading_and_retiring_do_not_touch_running_answers(
    engine: TorchEngine, stored: Stored
) -> None:
    undisturbed = {
        version.id: ask(engine, version, settings=LONG).wait().answers[0].token_ids
        for version in (stored.zero, stored.one)
    }
    running = {
        version.id: ask(engine, version, settings=LONG) for version in (stored.zero, stored.one)
    }
    for listener in running.values():
        assert listener.first_token.wait(WAIT_S)
    assert not engine.retire(stored.one.id)
    engine.load(stored.two)
    assert all(version in engine.loaded() for version in running)
    for version_id, listener in running.items():
        assert listener.wait().answers[0].token_ids == undisturbed[version_id]

    engine.stop(WAIT_S)
    assert engine.stats().using == {stored.zero.id: 0, stored.one.id: 0, stored.two.id: 0}


def test_a_retired_version_is_gone_and_can_come_back(engine: TorchEngine, stored: Stored) -> None:
    before = ask(engine, stored.one).wait().answers[0]
    for _ in range(3):
        assert engine.retire(stored.one.id)
        assert engine.loaded() == {stored.zero.id}
        with pytest.raises(PolicyVersionError, match="is not loaded"):
            ask(engine, stored.one)
        engine.load(stored.one)
    assert ask(engine, stored.one).wait().answers[0] == before


def test_the_version_in_use_last_can_be_retired(engine: TorchEngine, stored: Stored) -> None:
    engine.load(stored.two)
    alone = ask(engine, stored.one).wait().answers[0]
    ask(engine, stored.two).wait()
    assert engine.retire(stored.two.id)
    assert ask(engine, stored.one).wait().answers[0] == alone
    assert engine.loaded() == {stored.zero.id, stored.one.id}


def test_the_base_weights_are_in_memory_once(engine: TorchEngine, stored: Stored) -> None:
    backbone = engine._backbone
    assert backbone is not None
    size = sum(parameter.numel() for parameter in Backbone.load(stored.base).model.parameters())
    engine.load(stored.two)
    base = [p.numel() for name, p in backbone.model.named_parameters() if "lora_" not in name]
    assert sum(base) == size
    adapter = sum(p.numel() for p in backbone.adapter_parameters(stored.two.id))
    with_two = sum(p.numel() for p in backbone.model.parameters())
    engine.retire(stored.two.id)
    ask(engine, stored.zero).wait()
    assert sum(p.numel() for p in backbone.model.parameters()) == with_two - adapter


def test_a_full_queue_refuses_and_cancelling_makes_room(
    engine: TorchEngine, stored: Stored
) -> None:
    listeners = [Listener() for _ in range(4)]
    jobs = [
        engine.submit(stored.zero.id, PROMPT, [1, 2], LONG, listeners[0]),
        engine.submit(stored.zero.id, PROMPT, [1], LONG, listeners[1]),
    ]
    for listener in listeners[:2]:
        assert listener.first_token.wait(WAIT_S)
    assert engine.stats().rows == 3
    jobs += [
        engine.submit(stored.zero.id, PROMPT, [1], GREEDY, listener) for listener in listeners[2:]
    ]
    with pytest.raises(QueueFullError, match="2 questions wait already"):
        ask(engine, stored.zero)

    jobs[0].cancel()
    jobs[3].cancel()
    assert isinstance(listeners[0].wait().error, Cancelled)
    assert isinstance(listeners[3].wait().error, Cancelled)
    assert listeners[2].wait().error is None
    assert listeners[1].wait().error is None
    assert ask(engine, stored.zero).wait().error is None
    assert sum(engine.stats().using.values()) == 0


def test_a_listener_that_raises_loses_only_its_own_job(engine: TorchEngine, stored: Stored) -> None:
    heard = threading.Event()

    def broken(_event: Any) -> None:
        heard.set()
        raise ValueError("gone")

    job = engine.submit(stored.zero.id, PROMPT, [1], LONG, broken)
    assert heard.wait(WAIT_S)
    assert ask(engine, stored.zero).wait().error is None
    assert job.cancelled
    assert job.over


def test_a_prompt_that_cannot_be_answered_loses_only_its_own_job(tmp_path: Path) -> None:
    """A base policy that computes no numbers for prompts with a smile in them."""
    base = tiny_base(tmp_path / "base")
    weights = load_file(base / "model.safetensors")
    (*_, smile) = tiny_tokenizer().encode("🙂", add_special_tokens=False)
    weights["model.embed_tokens.weight"][smile] = float("nan")
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    zero = PolicyVersionFolder.store(None, base, tmp_path / "policies", {})
    engine = TorchEngine(base, dtype="float32", threads=1, max_rows=4)
    engine.start()
    engine.load(zero)
    try:
        alone = ask(engine, zero, OTHER, LONG).wait().answers[0]
        beside = ask(engine, zero, OTHER, LONG)
        assert beside.first_token.wait(WAIT_S)
        error = ask(engine, zero, Prompt("p3", "🙂"), seeds=(1, 2)).wait(rows=2).error
        assert isinstance(error, GenerationError)
        assert "not finite" in str(error)
        assert beside.wait().answers[0] == alone
        assert engine.retire(zero.id)
    finally:
        engine.stop()


def test_a_version_that_cannot_be_loaded_changes_nothing(
    engine: TorchEngine, stored: Stored, tmp_path: Path
) -> None:
    damaged = store_version(stored.base, tmp_path / "policies", 9, value=float("nan"))
    with pytest.raises(PolicyVersionError, match="not finite"):
        engine.load(damaged)
    with pytest.raises(PolicyVersionError, match="trained on base policy"):
        engine.load(store_version(tiny_base(tmp_path / "other", seed=3), tmp_path / "p", 9))
    adapter = tmp_path / "other-rank"
    shutil.copytree(stored.one.path, adapter)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "r": 7}))
    with pytest.raises(PolicyVersionError, match="does not fit"):
        engine.load(PolicyVersionFolder.store(adapter, stored.base, tmp_path / "policies", {}))
    changed = store_version(stored.base, tmp_path / "policies", 10)
    (changed.path / "adapter_model.safetensors").unlink()
    with pytest.raises(PolicyVersionError, match="lacks"):
        engine.load(changed)
    assert engine.loaded() == {stored.zero.id, stored.one.id}
    assert ask(engine, stored.one).wait().error is None


def test_an_answer_longer_than_the_context_is_refused(engine: TorchEngine, stored: Stored) -> None:
    too_long = SamplingSettings(max_new_tokens=2000)
    error = ask(engine, stored.zero, settings=too_long).wait().error
    assert isinstance(error, GenerationError)
    assert "shorter answer" in str(error)
    long_prompt = Prompt("p", "What is the limit for a hotel? " * 300)
    assert ask(engine, stored.zero, long_prompt, max_prompt_tokens=5000).wait().error is None


def test_stopping_lets_answers_end_within_the_time_given(stored: Stored) -> None:
    engine = TorchEngine(stored.base, dtype="float32", threads=1)
    with pytest.raises(GenerationError, match="not running"):
        ask(engine, stored.zero)
    engine.start()
    engine.load(stored.zero)
    listeners = [ask(engine, stored.zero) for _ in range(3)]
    engine.stop(drain_s=WAIT_S)
    assert [listener.wait().error for listener in listeners] == [None, None, None]
    with pytest.raises(GenerationError, match="not running"):
        ask(engine, stored.zero)
    with pytest.raises(GenerationError, match="not running"):
        engine.load(stored.one)


def test_stopping_at_once_tells_whoever_waits(engine: TorchEngine, stored: Stored) -> None:
    listeners = [ask(engine, stored.zero, settings=LONG) for _ in range(2)]
    assert listeners[0].first_token.wait(WAIT_S)
    engine.stop(drain_s=0.0)
    for listener in listeners:
        assert "stopped before" in str(listener.wait().error)
    assert not engine.stats().ready


def test_a_base_policy_that_cannot_be_used_stops_the_start(tmp_path: Path) -> None:
    engine = TorchEngine(tmp_path / "missing")
    with pytest.raises(BasePolicyError, match="is no folder"):
        engine.start()
    engine.stop()


@pytest.mark.parametrize(
    "text", ["日本語 and 🙂🙂 text", "Grüße  aus\n\nZürich ", "plain words.", "🙂", " - a\n - b"]
)
def test_a_character_of_several_tokens_comes_whole(text: str) -> None:
    tokenizer = tiny_tokenizer()
    ids = tokenizer.encode(text, add_special_tokens=False)
    stream = StreamedText(tokenizer)
    pieces = [
        stream.piece(ids[: count + 1], ended=count + 1 == len(ids)) for count in range(len(ids))
    ]
    assert "".join(pieces) == text.strip()
    assert not any("\ufffd" in piece for piece in pieces)
