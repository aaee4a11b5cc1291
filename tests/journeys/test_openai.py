"""The OpenAI-compatible API, asked by the real `openai` client."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam
from sqlalchemy import Engine
from sqlmodel import col, select

from rlhf_engine.prompt_length import count_prompt_tokens
from rlhf_engine.records import Prompt, from_json
from service import policies
from service.database import session
from service.settings import Settings
from service.tables import (
    Alias,
    Candidate,
    Comparison,
    GoldAnswer,
    Person,
    PolicyVersion,
    Thumb,
    Turn,
)
from tests.journeys.conftest import LEAVE, ONE_DATABASE
from tests.journeys.server import Served, eventually, serving
from tests.tiny import tireless_base
from tests.versions import register, store_version

pytestmark = ONE_DATABASE

QUESTION = "How many days of annual leave do I have?"
ASKED: list[ChatCompletionMessageParam] = [{"role": "user", "content": QUESTION}]


def client(served: Served, key: str = "a-key-of-mine", **more: Any) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{served.url}/v1", api_key=key, max_retries=0, timeout=60.0, **more
    )


@pytest.fixture
def mine(served: Served) -> Iterator[openai.OpenAI]:
    with client(served) as opened:
        yield opened


def candidates(engine: Engine) -> list[Candidate]:
    with session(engine) as opened:
        return list(opened.exec(select(Candidate).order_by(col(Candidate.side))))


def the_turn(engine: Engine) -> Turn:
    with session(engine) as opened:
        return opened.exec(select(Turn)).one()


def test_an_answer_is_stored_like_the_pages_and_named_by_its_id(
    served: Served, mine: openai.OpenAI
) -> None:
    answer = mine.chat.completions.create(model="heed", messages=ASKED)
    (stored,) = candidates(served.engine)
    turn = the_turn(served.engine)
    (choice,) = answer.choices
    assert answer.object == "chat.completion"
    assert answer.id == f"chatcmpl-{stored.id}"
    assert (choice.message.role, choice.message.content) == ("assistant", stored.text)
    assert choice.finish_reason == stored.finish_reason
    assert answer.model == answer.system_fingerprint == stored.version_id
    assert [passage["text"] for passage in turn.prompt["passages"]] == [LEAVE]
    assert answer.usage is not None
    prompt = from_json(Prompt, turn.prompt)
    assert answer.usage.prompt_tokens == count_prompt_tokens(
        Path(served.settings.base_policy), prompt
    )
    assert answer.usage.completion_tokens == len(stored.token_ids)
    assert answer.usage.total_tokens == (
        answer.usage.prompt_tokens + answer.usage.completion_tokens
    )


def test_a_stream_says_what_is_stored_and_ends_with_the_usage(
    served: Served, mine: openai.OpenAI
) -> None:
    chunks = list(
        mine.chat.completions.create(
            model="live", messages=ASKED, stream=True, stream_options={"include_usage": True}
        )
    )
    (stored,) = candidates(served.engine)
    *pieces, last = chunks
    assert {chunk.id for chunk in chunks} == {f"chatcmpl-{stored.id}"}
    assert {chunk.model for chunk in chunks} == {stored.version_id}
    assert pieces[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in pieces) == stored.text
    reasons = [chunk.choices[0].finish_reason for chunk in pieces]
    assert reasons == [None] * (len(pieces) - 1) + [stored.finish_reason]
    assert all(chunk.usage is None for chunk in pieces)
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == len(stored.token_ids)


def test_a_stream_without_options_tells_no_usage(mine: openai.OpenAI) -> None:
    chunks = list(mine.chat.completions.create(model="heed", messages=ASKED, stream=True))
    assert all("usage" not in chunk.model_fields_set for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")


def test_the_same_seed_gives_the_same_answers_streamed_or_not(mine: openai.OpenAI) -> None:
    def texts(seed: int, **more: Any) -> list[str | None]:
        answer = mine.chat.completions.create(model="heed", messages=ASKED, seed=seed, n=2, **more)
        return [choice.message.content for choice in answer.choices]

    first = texts(7)
    assert texts(7) == first
    assert texts(8)[0] == first[1]
    streamed = ["", ""]
    for chunk in mine.chat.completions.create(
        model="heed", messages=ASKED, seed=7, n=2, stream=True
    ):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == first
    assert first[0] != first[1]


def test_several_answers_carry_their_own_ids(served: Served, mine: openai.OpenAI) -> None:
    answer = mine.chat.completions.create(model="heed", messages=ASKED, n=3)
    stored = candidates(served.engine)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    ids = [(choice.model_extra or {})["id"] for choice in answer.choices]
    assert ids == [f"chatcmpl-{row.id}" for row in stored]
    assert [choice.message.content for choice in answer.choices] == [row.text for row in stored]
    assert answer.id == f"chatcmpl-{the_turn(served.engine).id}"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == sum(len(row.token_ids) for row in stored)


def test_sampling_follows_the_request_and_is_stored(served: Served, mine: openai.OpenAI) -> None:
    answer = mine.chat.completions.create(
        model="heed", messages=ASKED, temperature=0, top_p=0.5, max_completion_tokens=5, stop="§§"
    )
    (stored,) = candidates(served.engine)
    assert stored.settings["temperature"] == 0
    assert stored.settings["top_p"] == 0.5
    assert stored.settings["max_new_tokens"] == 5
    assert list(stored.settings["stop"]) == ["§§"]
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 5


def test_no_more_tokens_than_the_settings_allow(served: Served, mine: openai.OpenAI) -> None:
    mine.chat.completions.create(model="heed", messages=ASKED, max_tokens=4000)
    assert candidates(served.engine)[0].settings["max_new_tokens"] == 24


def test_an_answer_ends_before_a_stop_text(mine: openai.OpenAI) -> None:
    def ask(stop: str | None) -> Any:
        return mine.chat.completions.create(
            model="heed", messages=ASKED, seed=3, temperature=1.0, stop=stop
        ).choices[0]

    whole = ask(None).message.content
    middle = whole[len(whole) // 2 : len(whole) // 2 + 2]
    stopped = ask(middle)
    assert stopped.message.content == whole[: whole.index(middle)].rstrip()
    assert stopped.finish_reason == "stop"


def test_log_probabilities_come_with_each_token(served: Served, mine: openai.OpenAI) -> None:
    answer = mine.chat.completions.create(
        model="heed", messages=ASKED, logprobs=True, top_logprobs=3, temperature=0
    )
    told = answer.choices[0].logprobs
    assert told is not None
    assert told.content is not None
    (stored,) = candidates(served.engine)
    assert len(told.content) == len(stored.token_ids)
    for token in told.content:
        assert -9999 <= token.logprob <= 0
        likely = [entry.logprob for entry in token.top_logprobs]
        assert len(likely) == 3
        assert likely == sorted(likely, reverse=True)
        assert math.isclose(token.logprob, likely[0], abs_tol=1e-5), "greedy takes the likeliest"
        assert bytes(token.bytes or []).decode() == token.token
    assert "".join(token.token for token in told.content) == answer.choices[0].message.content
    chunks = mine.chat.completions.create(
        model="heed", messages=ASKED, logprobs=True, temperature=0, stream=True
    )
    parts = [chunk.choices[0].logprobs for chunk in chunks if chunk.choices[0].logprobs]
    streamed = [entry.logprob for part in parts for entry in part.content or []]
    assert streamed == pytest.approx([entry.logprob for entry in told.content])


def test_messages_become_instructions_history_and_question(
    served: Served, mine: openai.OpenAI
) -> None:
    mine.chat.completions.create(
        model="heed",
        messages=[
            {"role": "system", "content": "Answer in German."},
            {"role": "assistant", "content": "How can I help?"},
            {"role": "user", "content": [{"type": "text", "text": "Who signs?"}]},
            {"role": "assistant", "content": "Your manager.", "refusal": None},
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": "I mean leave."},
            {"role": "user", "content": QUESTION},
        ],
    )
    turn = the_turn(served.engine)
    assert turn.question == turn.prompt["question"] == f"I mean leave.\n\n{QUESTION}"
    assert turn.prompt["instructions"] == "Answer in German.\n\nBe brief."
    assert turn.prompt["history"] == [
        {"question": "", "answer": "How can I help?"},
        {"question": "Who signs?", "answer": "Your manager."},
    ]


def test_an_answer_can_be_sent_back_as_it_was_received(served: Served, mine: openai.OpenAI) -> None:
    answer = mine.chat.completions.create(model="heed", messages=ASKED, seed=3)
    message = answer.choices[0].message
    assert message.content
    again: list[Any] = [*ASKED, message, {"role": "user", "content": "And when do they end?"}]
    mine.chat.completions.create(model="heed", messages=again)
    with session(served.engine) as opened:
        newest = opened.exec(select(Turn).order_by(col(Turn.created_at).desc())).first()
    assert newest is not None
    assert newest.prompt["history"] == [{"question": QUESTION, "answer": message.content}]


def test_models_are_the_aliases_and_the_loaded_versions(
    served: Served, mine: openai.OpenAI
) -> None:
    listed = {model.id: model.model_dump() for model in mine.models.list()}
    with session(served.engine) as opened:
        base = opened.exec(select(PolicyVersion)).one()
    assert list(listed) == ["heed", "live", base.id]
    for entry in listed.values():
        assert (entry["object"], entry["version"], entry["number"]) == ("model", base.id, 0)
        assert entry["aliases"] == ["live"]
    for name in ("heed", "live", base.id, "v0"):
        assert mine.models.retrieve(name).model_dump()["version"] == base.id
        answer = mine.chat.completions.create(model=name, messages=ASKED, max_tokens=1)
        assert answer.model == base.id


def test_an_alias_that_stands_for_a_loaded_version_can_be_asked(
    served: Served, mine: openai.OpenAI
) -> None:
    with session(served.engine) as opened:
        base = opened.exec(select(PolicyVersion)).one()
        opened.add(Alias(name="previous", version_id=base.id))
    names = ["heed", "live", "previous", base.id]
    eventually(lambda: [model.id for model in mine.models.list()] == names)
    answer = mine.chat.completions.create(model="previous", messages=ASKED, max_tokens=1)
    assert answer.model == base.id


def test_each_key_is_a_visitor_of_their_own_and_none_is_stored(served: Served) -> None:
    keys = ("first-key", "second-key")
    answers = []
    for key in keys:
        with client(served, key) as opened:
            answers.append(opened.chat.completions.create(model="heed", messages=ASKED).id)
            opened.models.list()
    with session(served.engine) as opened_session:
        people = [person for person in opened_session.exec(select(Person)) if person.token_hash]
        assert len(people) == 2
        assert not any(key in person.model_dump_json() for person in people for key in keys)
    with client(served, keys[1]) as other, pytest.raises(openai.NotFoundError):
        say(other, type="thumb", id=answers[0], value="up")
    cookie = {"cookie": f"heed_session={keys[0]}"}
    assert httpx.get(f"{served.url}/api/conversations", headers=cookie).status_code == 401
    header = {"authorization": f"Bearer {keys[0]}"}
    shown = httpx.get(f"{served.url}/api/conversations", headers=header).json()
    assert [row["title"] for row in shown["conversations"]] == [QUESTION]


def say(opened: openai.OpenAI, **body: Any) -> dict[str, Any]:
    given: dict[str, Any] = opened.post("/feedback", body=body, cast_to=httpx.Response).json()
    return given


def test_feedback_names_the_answer_by_its_id(served: Served, mine: openai.OpenAI) -> None:
    answer = mine.chat.completions.create(model="heed", messages=ASKED)
    thumb = say(mine, type="thumb", id=answer.id, value="down", reason="wrong", comment="Not so.")
    assert (thumb["object"], thumb["type"]) == ("feedback", "thumb")
    with pytest.raises(openai.ConflictError):
        say(mine, type="thumb", id=answer.id, value="up")
    say(mine, type="thumb", id=answer.id, value="up", replaces=thumb["id"])
    correction = say(mine, type="correction", id=answer.id, answer="28 days.")
    (stored,) = candidates(served.engine)
    with session(served.engine) as opened:
        first = opened.get_one(Thumb, thumb["id"])
        gold = opened.get_one(GoldAnswer, correction["id"])
        assert len(opened.exec(select(Thumb)).all()) == 2
    assert (first.candidate_id, first.value) == (stored.id, -1)
    assert (first.reason, first.comment) == ("wrong", "Not so.")
    assert (gold.candidate_id, gold.answer, gold.state) == (stored.id, "28 days.", "proposed")


def test_two_answers_of_a_completion_are_compared(served: Served, mine: openai.OpenAI) -> None:
    answer = mine.chat.completions.create(model="heed", messages=ASKED, n=2)
    given = say(mine, type="comparison", id=answer.id, choice="B", strength="much")
    with session(served.engine) as opened:
        row = opened.get_one(Comparison, given["id"])
    ids = [(choice.model_extra or {})["id"] for choice in answer.choices]
    assert [f"chatcmpl-{row.candidate_a_id}", f"chatcmpl-{row.candidate_b_id}"] == ids
    assert (row.choice, row.strength) == ("B", "much")
    by_choice = say(mine, type="comparison", id=ids[0], choice="tie", replaces=given["id"])
    with session(served.engine) as opened:
        assert opened.get_one(Comparison, by_choice["id"]).turn_id == row.turn_id
    with pytest.raises(openai.BadRequestError, match="id of one choice"):
        say(mine, type="thumb", id=answer.id, value="up")
    say(mine, type="thumb", id=ids[1], value="up")
    with client(served, "a-strangers-key") as stranger, pytest.raises(openai.NotFoundError):
        say(stranger, type="thumb", id=answer.id, value="up")


@pytest.mark.parametrize("count", [1, 3])
def test_other_than_two_answers_are_not_compared(mine: openai.OpenAI, count: int) -> None:
    answer = mine.chat.completions.create(model="heed", messages=ASKED, n=count, max_tokens=2)
    with pytest.raises(openai.BadRequestError, match="not two to compare"):
        say(mine, type="comparison", id=answer.id, choice="A")


def test_what_no_database_keeps_is_refused(served: Served, mine: openai.OpenAI) -> None:
    answer = mine.chat.completions.create(model="heed", messages=ASKED, max_tokens=1)
    thumb = {"type": "thumb", "id": answer.id, "value": "up"}
    for change in ({"id": "\x00"}, {"replaces": "\x00"}):
        # PostgreSQL cannot even look for it.
        with pytest.raises((openai.NotFoundError, openai.BadRequestError)):
            say(mine, **{**thumb, **change})
    for role in ("system", "user", "assistant"):
        wrong: list[Any] = [{"role": role, "content": "a\x00b"}, *ASKED]
        with pytest.raises(openai.BadRequestError, match="no text"):
            mine.chat.completions.create(model="heed", messages=wrong)
    with pytest.raises(openai.BadRequestError, match="no text"):
        say(mine, **thumb, comment="a\x00b")


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """A base policy that never ends an answer by itself at a low temperature."""
    return tireless_base(tmp_path / "endless")


@pytest.mark.usefixtures("handbook")
def test_a_client_that_leaves_frees_its_place_at_once(
    make_settings: Callable[..., Settings], engine: Engine, endless: Path
) -> None:
    long = {"max_new_tokens": 600, "temperature": 0.3}
    with serving(make_settings(base_policy=str(endless), answers=long), engine) as served:

        def leases() -> int:
            versions = served.visitor().get("/api/policies").json()["versions"]
            return sum(version["leases"] for version in versions)

        for stream, patience in itertools.product((True, False), (0.0, 0.3)):
            leave(served, stream, patience)
            eventually(lambda: leases() == 0, 5)
        with client(served) as opened:
            chunks = opened.chat.completions.create(model="heed", messages=ASKED, stream=True)
            next(iter(chunks))
            assert leases() == 1
            chunks.close()
            eventually(lambda: leases() == 0, 5)
    lengths = [len(row.token_ids) for row in candidates(engine)]
    assert all(length < 600 for length in lengths), "an answer went on to its end"


@pytest.mark.usefixtures("handbook")
@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_that_is_stopped_on_the_page_is_not_taken_for_a_whole_one(
    make_settings: Callable[..., Settings], engine: Engine, endless: Path, stream: bool
) -> None:
    long = {"max_new_tokens": 900, "temperature": 0.3}
    settings = make_settings(base_policy=str(endless), answers=long)

    def ask(opened: openai.OpenAI) -> None:
        asked = opened.chat.completions.create(model="heed", messages=ASKED, stream=stream)
        for chunk in asked if stream else ():
            assert chunk.choices[0].finish_reason is None

    with serving(settings, engine) as served, client(served).with_options(max_retries=2) as opened:
        with ThreadPoolExecutor(1) as pool:
            heard = pool.submit(ask, opened)
            eventually(lambda: turns(engine), 10)
            stop = f"{served.url}/api/turns/{turns(engine)[0]}/stop"
            key = {"authorization": "Bearer a-key-of-mine"}
            assert httpx.post(stop, headers=key, json={}).json() == {"stopped": True}
            with pytest.raises(openai.APIError, match="stopped on the page") as refused:
                heard.result(timeout=30)
        assert isinstance(refused.value, openai.ConflictError) is not stream
    assert len(turns(engine)) == 1, "the client asked again"


def turns(engine: Engine) -> list[str]:
    with session(engine) as opened:
        return list(opened.exec(select(Turn.id)))


def leave(served: Served, stream: bool, patience_s: float) -> None:
    """Send a question and close the connection after a while."""
    host, port = served.url.removeprefix("http://").split(":")
    body = json.dumps({"messages": ASKED, "stream": stream}).encode()
    with socket.create_connection((host, int(port))) as opened:
        opened.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer k\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
            % (host.encode(), len(body), body)
        )
        time.sleep(patience_s)


@pytest.mark.usefixtures("handbook")
def test_a_server_that_cannot_answer_yet_says_when_to_come_back(
    make_settings: Callable[..., Settings], engine: Engine
) -> None:
    settings = make_settings(base_policy="not a hub name")
    with serving(settings, engine, until_ready=False) as served, client(served) as opened:
        for ask in (
            lambda: opened.chat.completions.create(model="heed", messages=ASKED),
            lambda: opened.chat.completions.create(model="v0", messages=ASKED, stream=True),
            opened.models.list,
        ):
            with pytest.raises(openai.InternalServerError) as refused:
                ask()
            assert refused.value.status_code == 503
            assert refused.value.response.headers["retry-after"]
            assert refused.value.type == "server_error"


@pytest.mark.usefixtures("handbook")
def test_too_much_is_refused_with_when_to_come_back(
    make_settings: Callable[..., Settings], engine: Engine, endless: Path
) -> None:
    limits = {"max_new_tokens": 900, "temperature": 0.3, "max_waiting": 2, "max_per_person": 1}
    settings = make_settings(base_policy=str(endless), answers=limits)
    with serving(settings, engine) as served, contextlib.ExitStack() as stack:

        def begin(key: str) -> None:
            opened = stack.enter_context(client(served, key))
            chunks = opened.chat.completions.create(model="heed", messages=ASKED, stream=True)
            stack.callback(chunks.close)
            next(iter(chunks))

        begin("first")
        with pytest.raises(openai.RateLimitError) as mine_alone:
            begin("first")
        assert int(mine_alone.value.response.headers["retry-after"]) > 0
        assert mine_alone.value.code == "rate_limit_exceeded"
        with ThreadPoolExecutor(24) as pool:
            asked = [pool.submit(begin, f"key-{number}") for number in range(24)]
            refused = [error for future in asked if (error := future.exception())]
        assert refused
        for error in refused:
            assert isinstance(error, openai.InternalServerError)
            assert error.status_code == 503
            assert int(error.response.headers["retry-after"]) > 0
            assert (error.type, error.code) == ("server_error", "service_unavailable")


def test_a_version_beside_the_live_one_is_asked_by_each_of_its_names(
    served: Served, mine: openai.OpenAI, tmp_path: Path
) -> None:
    settings = served.settings
    base = Path(settings.base_policy)
    folders = [store_version(base, settings.policies, tmp_path, seed) for seed in (1, 2)]
    with session(served.engine) as opened:
        loaded, unloaded = (register(opened, folder) for folder in folders)
    with session(served.engine) as opened:
        policies.set_candidate(opened, loaded.id, "a test")
    eventually(lambda: "candidate" in {model.id for model in mine.models.list()})
    listed = {model.id: model.model_dump() for model in mine.models.list()}
    assert list(listed)[:3] == ["heed", "live", "candidate"]
    assert listed["candidate"]["version"] == loaded.id
    assert listed[loaded.id]["aliases"] == ["candidate"]
    assert unloaded.id not in listed
    for name in ("candidate", f"v{loaded.number}", loaded.id):
        answer = mine.chat.completions.create(model=name, messages=ASKED, max_tokens=2)
        assert answer.model == loaded.id
    assert {row.version_id for row in candidates(served.engine)} == {loaded.id}
    live = mine.chat.completions.create(model="live", messages=ASKED, max_tokens=2)
    assert live.model != loaded.id
    with pytest.raises(openai.NotFoundError, match=f"ask one of .*candidate, v{loaded.number}"):
        mine.chat.completions.create(model=f"v{unloaded.number}", messages=ASKED)
