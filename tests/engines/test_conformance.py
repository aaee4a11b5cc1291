"""What every serving engine does, whichever it is."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from rlhf_engine.answer_events import Ended, Event, Token
from rlhf_engine.errors import Cancelled, GenerationError, PolicyVersionError, QueueFullError
from rlhf_engine.records import Exchange, Prompt, SamplingSettings
from rlhf_engine.serving_engine import ServingEngine, generate
from tests.engines.conftest import MAX_ACTIVE, MAX_WAITING, Kind
from tests.engines.listening import (
    GREEDY,
    LONG,
    OTHER,
    PROMPT,
    SAMPLED,
    WAIT_S,
    Listener,
    answer,
    ask,
)
from tests.engines.stored import UNSOUND, Stored
from tests.journeys.server import eventually


def idle(engine: ServingEngine) -> bool:
    stats = engine.stats()
    return not (stats.active or stats.rows or stats.waiting or any(stats.using.values()))


def test_a_handle_is_the_versions_id_and_loading_again_changes_nothing(
    engine: ServingEngine, stored: Stored
) -> None:
    before = answer(engine, stored.one.id)
    assert engine.load(stored.two) == stored.two.id
    assert engine.load(stored.one) == stored.one.id
    assert engine.loaded() == {stored.zero.id, stored.one.id, stored.two.id}
    assert answer(engine, stored.one.id) == before


def test_a_retired_version_is_gone_and_can_come_back(engine: ServingEngine, stored: Stored) -> None:
    before = answer(engine, stored.one.id)
    for _ in range(3):
        assert eventually(lambda: engine.retire(stored.one.id))
        assert engine.loaded() == {stored.zero.id}
        with pytest.raises(PolicyVersionError, match="is not loaded"):
            ask(engine, stored.one.id)
        assert engine.load(stored.one) == stored.one.id
    assert answer(engine, stored.one.id) == before


def test_an_unknown_handle_is_refused(engine: ServingEngine, stored: Stored) -> None:
    with pytest.raises(PolicyVersionError, match="is not loaded"):
        ask(engine, stored.two.id)
    with pytest.raises(PolicyVersionError, match="is not loaded"):
        ask(engine, stored.one.id, seeds=(1, 2), versions=[stored.one.id, "0123456789abcdef"])
    assert idle(engine)


def test_seeds_and_versions_must_go_together(engine: ServingEngine, stored: Stored) -> None:
    for seeds, versions in (((), []), ((1, 2), [stored.one.id]), (range(100), None)):
        with pytest.raises(GenerationError, match="give as many of both"):
            ask(engine, stored.one.id, seeds=seeds, versions=versions)
    assert idle(engine)


@pytest.mark.parametrize("how", UNSOUND)
def test_an_unsound_version_is_refused_and_nothing_changes(
    engine: ServingEngine, stored: Stored, how: str
) -> None:
    before = answer(engine, stored.one.id)
    unsound = stored.unsound(how)
    for _ in range(2):
        with pytest.raises(PolicyVersionError):
            engine.load(unsound)
    assert engine.loaded() == {stored.zero.id, stored.one.id}
    assert answer(engine, stored.one.id) == before


def test_tokens_come_in_order_and_their_texts_joined_are_the_answer(
    engine: ServingEngine, stored: Stored
) -> None:
    listener = ask(engine, stored.one.id, settings=SAMPLED, seeds=(3, 4, 5)).wait(rows=3)
    assert sorted(listener.answers) == [0, 1, 2]
    for row, found in listener.answers.items():
        assert listener.text(row) == found.text
        assert tuple(token.token_id for token in listener.tokens[row]) == found.token_ids
        assert tuple(token.logprob for token in listener.tokens[row]) == found.logprobs
        assert found.prompt_id == "p1"
        assert found.seed == 3 + row
        assert 1 <= len(found.token_ids) <= SAMPLED.max_new_tokens
    assert listener.nothing_more()


def test_logprobs_are_finite_and_the_greedy_token_is_the_likeliest(
    engine: ServingEngine, stored: Stored
) -> None:
    listener = ask(engine, stored.one.id, settings=replace(GREEDY, top_logprobs=4)).wait()
    for token in listener.tokens[0]:
        values = [likely.logprob for likely in token.top]
        assert len(values) == len({likely.token_id for likely in token.top}) == 4
        assert all(math.isfinite(value) and value <= 0 for value in (*values, token.logprob))
        assert values == sorted(values, reverse=True)
        assert token.top[0].token_id == token.token_id
        assert token.top[0].logprob == pytest.approx(token.logprob, abs=1e-6)
        assert sum(math.exp(value) for value in values) <= 1.001
    assert all(token.top == () for token in ask(engine, stored.one.id).wait().tokens[0])


def test_logprobs_are_the_policys_own_at_any_temperature(
    engine: ServingEngine, stored: Stored
) -> None:
    cool = replace(SAMPLED, temperature=0.3, top_p=0.9, max_new_tokens=1, top_logprobs=1)
    greedy = ask(engine, stored.one.id, settings=replace(GREEDY, max_new_tokens=1, top_logprobs=1))
    (first,) = greedy.wait().tokens[0]
    (drawn,) = ask(engine, stored.one.id, settings=cool).wait().tokens[0]
    assert drawn.top[0].token_id == first.token_id
    assert drawn.top[0].logprob == pytest.approx(first.logprob, abs=1e-4)


def test_the_same_seed_gives_the_same_tokens_and_another_seed_others(
    engine: ServingEngine, stored: Stored
) -> None:
    rows = ask(engine, stored.one.id, settings=SAMPLED, seeds=(7, 8, 7)).wait(rows=3).answers
    assert rows[0].token_ids == rows[2].token_ids != rows[1].token_ids
    again = answer(engine, stored.one.id, settings=SAMPLED, seeds=(8,))
    assert again.token_ids == rows[1].token_ids
    assert answer(engine, stored.zero.id, settings=SAMPLED, seeds=(7,)) != rows[0]


def test_the_same_request_gives_the_same_tokens_beside_others(
    engine: ServingEngine, stored: Stored
) -> None:
    alone = ask(engine, stored.one.id, settings=SAMPLED, seeds=(7, 8)).wait(rows=2).answers
    others = [ask(engine, stored.zero.id, OTHER, LONG), ask(engine, stored.one.id, OTHER, LONG)]
    for other in others:
        assert other.first_token.wait(WAIT_S)
    beside = ask(engine, stored.one.id, settings=SAMPLED, seeds=(7, 8)).wait(rows=2).answers
    for other in others:
        other.job.cancel()
    assert [beside[row].token_ids for row in (0, 1)] == [alone[row].token_ids for row in (0, 1)]


def test_greedy_answers_do_not_depend_on_the_seed(engine: ServingEngine, stored: Stored) -> None:
    rows = ask(engine, stored.one.id, seeds=(1, 2)).wait(rows=2).answers
    assert rows[0].token_ids == rows[1].token_ids


@pytest.mark.parametrize("tiny", [{"temperature": 1e-40}, {"top_p": 1e-50}])
def test_however_little_is_left_to_chance_it_is_the_likeliest_token(
    engine: ServingEngine, stored: Stored, tiny: dict[str, float]
) -> None:
    greedy = answer(engine, stored.one.id)
    beside = ask(engine, stored.one.id, OTHER, LONG)
    assert beside.first_token.wait(WAIT_S)
    found = answer(engine, stored.one.id, settings=replace(SAMPLED, **tiny))  # type: ignore[arg-type]
    assert found.token_ids == greedy.token_ids
    beside.job.cancel()
    assert isinstance(beside.wait().error, Cancelled)


@pytest.mark.parametrize("exchanges", [0, 1, 20])
@pytest.mark.parametrize("most", [384, 40])
def test_an_answer_tells_how_many_tokens_its_prompt_had(
    engine: ServingEngine, stored: Stored, exchanges: int, most: int
) -> None:
    history = (Exchange("Who signs my travel expenses?", "Your manager signs them."),) * exchanges
    prompt = replace(OTHER, history=history)
    listener = ask(
        engine,
        stored.zero.id,
        prompt,
        seeds=(1, 2, 3),
        versions=[stored.one.id, stored.zero.id, stored.one.id],
        max_prompt_tokens=most,
    ).wait(rows=3)
    assert listener.prompt_tokens == {engine.count_prompt_tokens(prompt, most)}


def test_an_answer_says_whether_it_ended_or_was_cut(engine: ServingEngine, stored: Stored) -> None:
    settings = replace(SAMPLED, temperature=1.3, max_new_tokens=60)
    rows = ask(engine, stored.zero.id, settings=settings, seeds=range(16)).wait(rows=16).answers
    stopped = [found for found in rows.values() if found.finish_reason == "stop"]
    cut = [found for found in rows.values() if found.finish_reason == "length"]
    assert stopped
    assert len({found.token_ids[-1] for found in stopped}) == 1, "the end-of-turn token"
    end = stopped[0].token_ids[-1]
    assert all(end not in found.token_ids[:-1] for found in stopped)
    assert all(len(found.token_ids) == 60 and end not in found.token_ids for found in cut)
    short = answer(engine, stored.zero.id, settings=replace(SAMPLED, max_new_tokens=1), seeds=(3,))
    assert len(short.token_ids) == 1


def test_a_stop_text_ends_an_answer_before_it(engine: ServingEngine, stored: Stored) -> None:
    whole = answer(engine, stored.one.id, settings=SAMPLED)
    stop = whole.text[len(whole.text) // 2 :][:2]
    stopping = replace(SAMPLED, stop=("never said", stop))
    listener = ask(engine, stored.one.id, settings=stopping).wait()
    found = listener.answers[0]
    assert found.finish_reason == "stop"
    assert found.text == whole.text[: whole.text.index(stop)].rstrip() == listener.text()
    assert found.token_ids == whole.token_ids[: len(found.token_ids)]
    assert len(found.token_ids) < len(whole.token_ids)
    assert eventually(lambda: idle(engine))


def test_rows_of_one_job_can_have_different_versions(engine: ServingEngine, stored: Stored) -> None:
    alone = [answer(engine, version.id) for version in (stored.one, stored.zero)]
    versions = [stored.one.id, stored.zero.id]
    pair = ask(engine, stored.zero.id, seeds=(1, 1), versions=versions).wait(rows=2).answers
    assert [pair[row].token_ids for row in (0, 1)] == [found.token_ids for found in alone]
    assert pair[0].logprobs != pytest.approx(pair[1].logprobs, abs=1e-3)
    for row in (0, 1):
        assert pair[row].logprobs == pytest.approx(alone[row].logprobs, abs=1e-3)


def test_cancelling_frees_the_rows_at_once(engine: ServingEngine, stored: Stored) -> None:
    listener = ask(engine, stored.one.id, settings=LONG, seeds=(1, 2))
    assert listener.first_token.wait(WAIT_S)
    drawn = engine.stats().tokens
    listener.job.cancel()
    assert isinstance(listener.wait(rows=2).error, Cancelled)
    assert eventually(lambda: idle(engine), timeout_s=5)
    assert engine.stats().tokens <= drawn + 20, "a step or two, not the answer's 400 tokens"
    listener.job.cancel()
    time.sleep(0.1)
    assert listener.nothing_more()


def test_cancelling_a_job_that_is_over_changes_nothing(
    engine: ServingEngine, stored: Stored
) -> None:
    listener = ask(engine, stored.one.id).wait()
    assert eventually(lambda: idle(engine))
    before = engine.stats()
    listener.job.cancel()
    answer(engine, stored.one.id)
    assert eventually(lambda: engine.stats().ended == before.ended + 1)
    assert engine.stats().failed == before.failed
    assert listener.nothing_more()


def test_a_full_queue_refuses_and_cancelling_makes_room(
    small: ServingEngine, stored: Stored
) -> None:
    running = [ask(small, stored.one.id, settings=LONG) for _ in range(MAX_ACTIVE)]
    for listener in running:
        assert listener.first_token.wait(WAIT_S)
    waiting = [ask(small, stored.one.id) for _ in range(MAX_WAITING)]
    assert small.stats().waiting == MAX_WAITING
    with pytest.raises(QueueFullError, match=f"{MAX_WAITING} questions wait already"):
        ask(small, stored.one.id)

    waiting[0].job.cancel()
    assert isinstance(waiting[0].wait().error, Cancelled)
    running[0].job.cancel()
    assert isinstance(running[0].wait().error, Cancelled)
    assert waiting[1].wait().error is None
    assert answer(small, stored.one.id).token_ids == waiting[1].answers[0].token_ids
    running[1].job.cancel()
    assert eventually(lambda: idle(small))


def test_a_version_in_use_is_not_retired(engine: ServingEngine, stored: Stored) -> None:
    listener = ask(engine, stored.one.id, settings=LONG)
    assert listener.first_token.wait(WAIT_S)
    assert engine.stats().using[stored.one.id] == 1
    assert not engine.retire(stored.one.id)
    assert stored.one.id in engine.loaded()
    assert engine.retire(stored.zero.id)
    listener.job.cancel()
    listener.wait()
    assert eventually(lambda: engine.retire(stored.one.id))
    assert engine.loaded() == set()


def test_versions_keep_apart_while_others_come_and_go(
    engine: ServingEngine, stored: Stored
) -> None:
    settings = replace(GREEDY, max_new_tokens=40)
    pair = (stored.zero.id, stored.one.id)
    alone = {handle: answer(engine, handle, settings=settings) for handle in pair}
    assert alone[pair[0]].token_ids != alone[pair[1]].token_ids
    stop = threading.Event()

    def come_and_go() -> int:
        rounds = 0
        while not stop.is_set():
            for version in (stored.two, stored.three):
                engine.load(version)
                answer(engine, version.id, settings=replace(GREEDY, max_new_tokens=2))
                assert eventually(partial(engine.retire, version.id))
            rounds += 1
        return rounds

    with ThreadPoolExecutor(1) as beside:
        rounds = beside.submit(come_and_go)
        try:
            for _ in range(3):
                running = {handle: ask(engine, handle, settings=settings) for handle in pair}
                for handle, listener in running.items():
                    found = listener.wait()
                    assert found.error is None
                    assert found.answers[0].token_ids == alone[handle].token_ids
        finally:
            stop.set()
        assert rounds.result() > 0


def test_many_threads_ask_at_once(engine: ServingEngine, stored: Stored) -> None:
    handles = [stored.zero.id, stored.one.id] * 3
    alone = {handle: answer(engine, handle) for handle in set(handles)}
    found: dict[int, Any] = {}

    def work(at: int) -> None:
        found[at] = answer(engine, handles[at])

    threads = [threading.Thread(target=work, args=(at,)) for at in range(len(handles))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert [found[at].token_ids for at in range(len(handles))] == [
        alone[handle].token_ids for handle in handles
    ]


def test_stopping_lets_answers_end_within_the_time_given(kind: Kind, stored: Stored) -> None:
    engine = kind.make(MAX_ACTIVE, MAX_WAITING)
    with pytest.raises(GenerationError, match="not running"):
        ask(engine, stored.zero.id)
    engine.start()
    assert engine.load(stored.zero) == stored.zero.id
    assert engine.stats().ready
    listeners = [ask(engine, stored.zero.id) for _ in range(MAX_WAITING)]
    engine.stop(drain_s=WAIT_S)
    for listener in listeners:
        assert listener.wait().error is None
    with pytest.raises(GenerationError, match="not running"):
        ask(engine, stored.zero.id)
    with pytest.raises(GenerationError, match="not running"):
        engine.load(stored.one)
    assert not engine.stats().ready
    engine.stop()


def test_stopping_at_once_tells_whoever_waits(small: ServingEngine, stored: Stored) -> None:
    listeners = [ask(small, stored.one.id, settings=LONG) for _ in range(MAX_ACTIVE)]
    for listener in listeners:
        assert listener.first_token.wait(WAIT_S)
    listeners.append(ask(small, stored.one.id))
    small.stop(drain_s=0.0)
    for listener in listeners:
        error = listener.wait().error
        assert isinstance(error, GenerationError)
        assert "stopped before" in str(error)
        assert listener.nothing_more()
    assert sum(small.stats().using.values()) == 0
    listeners[0].job.cancel()


def test_an_engine_is_started_once(engine: ServingEngine) -> None:
    with pytest.raises(GenerationError, match="make a new one"):
        engine.start()
    assert engine.stats().ready


async def heard(
    engine: ServingEngine, handle: str, settings: SamplingSettings, seeds: list[int]
) -> list[Event]:
    stream = generate(engine, handle, PROMPT, settings, seeds)
    return [event async for event in stream]


def test_generate_streams_the_answers(engine: ServingEngine, stored: Stored) -> None:
    listener = ask(engine, stored.one.id, settings=SAMPLED, seeds=(1, 2)).wait(rows=2)
    events = asyncio.run(heard(engine, stored.one.id, SAMPLED, [1, 2]))
    assert isinstance(events[-1], Ended)
    ended = {event.row: event.answer.token_ids for event in events if isinstance(event, Ended)}
    assert ended == {row: found.token_ids for row, found in listener.answers.items()}
    tokens = [e.token_id for e in events if isinstance(e, Token) and e.row == 0]
    assert tuple(tokens) == ended[0]


def test_closing_a_stream_cancels_its_job(engine: ServingEngine, stored: Stored) -> None:
    before = engine.stats().failed

    async def leave() -> None:
        async with aclosing(generate(engine, stored.one.id, PROMPT, LONG, [1])) as stream:
            async for _ in stream:
                return

    asyncio.run(leave())
    assert eventually(lambda: idle(engine), timeout_s=5)
    assert engine.stats().failed == before + 1


def test_generate_raises_what_goes_wrong(engine: ServingEngine, stored: Stored) -> None:
    with pytest.raises(PolicyVersionError, match="is not loaded"):
        asyncio.run(heard(engine, stored.two.id, GREEDY, [1]))
    with pytest.raises(GenerationError, match="shorter answer"):
        asyncio.run(heard(engine, stored.one.id, replace(GREEDY, max_new_tokens=2000), [1]))


def test_a_listener_that_raises_loses_only_its_own_job(
    engine: ServingEngine, stored: Stored
) -> None:
    heard = threading.Event()

    def broken(_event: Event) -> None:
        heard.set()
        raise ValueError("gone")

    beside = ask(engine, stored.zero.id)
    engine.submit(stored.one.id, PROMPT, [1], LONG, broken)
    assert heard.wait(WAIT_S)
    assert beside.wait().error is None
    assert answer(engine, stored.one.id)
    assert eventually(lambda: idle(engine), timeout_s=5)


def test_a_prompt_is_shortened_and_an_answer_that_is_too_long_refused(
    engine: ServingEngine, stored: Stored
) -> None:
    error = ask(engine, stored.zero.id, settings=replace(GREEDY, max_new_tokens=2000)).wait().error
    assert isinstance(error, GenerationError)
    assert "shorter answer" in str(error)
    long_prompt = Prompt("p", "What is the limit for a hotel? " * 300)
    found = ask(engine, stored.zero.id, long_prompt, max_prompt_tokens=5000).wait()
    assert found.error is None
    assert eventually(lambda: idle(engine))


def test_the_engine_counts_what_it_does(engine: ServingEngine, stored: Stored) -> None:
    before, first = engine.stats(), Listener()
    engine.submit(stored.one.id, PROMPT, [1, 2], GREEDY, first)
    first.wait(rows=2)
    assert eventually(lambda: idle(engine))
    stats = engine.stats()
    assert stats.ready
    assert (stats.ended, stats.failed) == (before.ended + 1, before.failed)
    drawn = sum(len(found.token_ids) for found in first.answers.values())
    assert stats.tokens == before.tokens + drawn
    assert stats.using == {stored.zero.id: 0, stored.one.id: 0}
