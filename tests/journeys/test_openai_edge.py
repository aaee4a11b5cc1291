"""What the OpenAI-compatible API refuses, and how: always in the form its clients read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.database import migrate, open_database
from service.web.openai_request import NEUTRAL, ChatRequest
from tests.journeys.conftest import settings_for
from tests.journeys.server import PATIENCE_S, Served, serving
from tests.journeys.test_openai import ASKED, client, say

CHAT, FEEDBACK = "/v1/chat/completions", "/v1/feedback"


@pytest.fixture(scope="module")
def served(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for all requests: no test looks at its rows."""
    home = tmp_path_factory.mktemp("openai")
    engine = open_database(f"sqlite:///{home}/heed.db")
    migrate(engine)
    with serving(
        settings_for(engine, base, home, answers={"max_new_tokens": 4}), engine
    ) as running:
        yield running
    engine.dispose()


@pytest.fixture(scope="module")
def mine(served: Served) -> Iterator[openai.OpenAI]:
    with client(served) as opened:
        yield opened


@pytest.fixture(scope="module")
def raw(served: Served) -> Iterator[httpx.Client]:
    """A client that sends whatever it is given."""
    headers = {"authorization": "Bearer a-key", "content-type": "application/json"}
    with httpx.Client(base_url=served.url, headers=headers, timeout=PATIENCE_S) as opened:
        yield opened


def assert_refused(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    (error,) = response.json().values()
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert error["type"]
    assert "Traceback" not in response.text
    return dict(error)


@pytest.mark.parametrize("name", ["candidate", "v7", "gpt-5", "0" * 16, "", "heed/../x", "\x00"])
def test_a_version_that_is_not_loaded_is_not_found(mine: openai.OpenAI, name: str) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        mine.chat.completions.create(model=name, messages=ASKED)
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")
    assert "ask one of heed, live, v0" in refused.value.message


def test_what_cannot_be_followed_is_refused(mine: openai.OpenAI) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"tools": [tool]}, "tools"),
        ({"response_format": schema}, "response_format"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"extra_body": {"top_k": 5}}, "top_k"),
        ({"temperature": 3}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 17}, "n"),
        ({"seed": -1}, "seed"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": ""}, "stop"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages"),
        ({"messages": [{"role": "user", "content": "a" * 4001}]}, "messages"),
        ({"messages": [{"role": "user", "content": "x" * 3900}]}, "messages"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [picture]}]}, "messages[0].content"),
        ({"messages": [*ASKED, {"role": "tool", "content": "x"}]}, "messages[1]"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ]
    for change, param in wrong:
        with pytest.raises(openai.BadRequestError) as refused:
            mine.chat.completions.create(**{"model": "heed", "messages": ASKED, **change})
        assert refused.value.param == param, change
        assert refused.value.type == "invalid_request_error"


def test_what_asks_for_nothing_is_accepted(mine: openai.OpenAI) -> None:
    answer = mine.chat.completions.create(
        model="heed",
        messages=ASKED,
        max_tokens=1,
        user="u-1",
        metadata={"team": "people"},
        store=True,
        tools=[],
        tool_choice="none",
        response_format={"type": "text"},
        frequency_penalty=0,
        presence_penalty=0.0,
        logit_bias={},
        service_tier="auto",
    )
    assert answer.choices


@pytest.mark.parametrize("header", [None, "", "Bearer", "Basic YTpi", "Bearer " + "k" * 300])
def test_who_has_no_key_is_told_how_to_send_one(served: Served, header: str | None) -> None:
    headers = {} if header is None else {"authorization": header}
    for method, path in (("GET", "models"), ("POST", "chat/completions"), ("POST", "feedback")):
        response = httpx.request(
            method, f"{served.url}/v1/{path}", headers=headers, json={"messages": ASKED}
        )
        assert response.status_code == 401, path
        assert response.headers["www-authenticate"] == "Bearer"
        assert response.json()["error"]["code"] == "invalid_api_key"


def test_the_client_knows_a_missing_key(served: Served) -> None:
    headers = {"Authorization": "none"}
    with (
        client(served, default_headers=headers) as opened,
        pytest.raises(openai.AuthenticationError),
    ):
        opened.models.list()


def test_feedback_on_nothing_is_not_found(mine: openai.OpenAI) -> None:
    for body in (
        {"type": "thumb", "value": "up"},
        {"type": "correction", "answer": "x"},
        {"type": "comparison", "choice": "A"},
    ):
        with pytest.raises(openai.NotFoundError):
            say(mine, id="chatcmpl-none", **body)
    with pytest.raises(openai.BadRequestError):
        say(mine, type="star", id="chatcmpl-none")


def test_wrong_input_has_a_code(mine: openai.OpenAI) -> None:
    answer = mine.chat.completions.create(model="heed", messages=ASKED)
    with pytest.raises(openai.BadRequestError) as refused:
        say(mine, type="thumb", id=answer.id, value="up", reason="x" * 101)
    assert refused.value.code == "invalid_value"


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 400, "the body is empty; send a JSON object"),
        (b"{", 400, "Input data was truncated"),
        (b"[]", 400, "Expected `object`, got `array`"),
        (b"{}", 400, "messages: required, but missing"),
        (b'{"messages": [{"role": "user"}], "top_k": 1}', 400, "top_k: unknown parameter"),
        (b'{"messages": [{"content": "x"}]}', 400, "messages[0].role: required, but missing"),
        (b'{"messages": "\xff"}', 400, "UTF-8"),
        (b'{"messages": ' + b"[" * 20_000 + b"]" * 20_000 + b"}", 400, "nested"),
        (b'{"user": "' + b"a" * 70_000 + b'"}', 413, ""),
    ],
)
def test_a_body_that_cannot_be_read_is_refused_in_openais_form(
    raw: httpx.Client, body: bytes, status: int, message: str
) -> None:
    assert message in assert_refused(raw.post(CHAT, content=body), status)["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("POST", "/v1/completions", 404),
        ("GET", "/v1/models/gpt-5", 404),
        ("GET", "/v1", 404),
        ("GET", CHAT, 405),
        ("POST", "/v1/models", 405),
        ("DELETE", "/v1/models/heed", 405),
    ],
)
def test_what_is_not_there_is_refused_in_openais_form(
    raw: httpx.Client, method: str, path: str, status: int
) -> None:
    content = b"{}" if method == "POST" else None
    error = assert_refused(raw.request(method, path, content=content), status)
    assert error["code"] == ("model_not_found" if "gpt" in path else "unknown_url")


def test_elsewhere_errors_are_problem_documents(raw: httpx.Client) -> None:
    for path in ("/nothing", "/v1x", "/api/nothing"):
        assert raw.get(path).headers["content-type"] == "application/problem+json", path


def test_a_write_that_another_site_could_make_is_refused_in_openais_form(
    raw: httpx.Client,
) -> None:
    assert_refused(raw.post(CHAT, content=b"x", headers={"content-type": "text/plain"}), 415)
    assert_refused(raw.post(CHAT, json={}, headers={"origin": "https://elsewhere.example"}), 403)
    assert_refused(raw.get("/v1/models", headers={"host": "elsewhere.example"}), 421)


def test_what_the_page_of_the_api_shows_works(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "api.md").read_text("utf-8")
    shown = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(shown) == 2
    names: dict[str, Any] = {}
    for code in shown:
        exec(code.replace("http://127.0.0.1:8321", served.url), names)
    names["client"].close()
    assert names["answer"].model in capsys.readouterr().out


any_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
any_message = st.dictionaries(
    st.sampled_from(["role", "content", "name", "refusal", "tool_calls", "audio", "else"]),
    any_json
    | st.sampled_from(["user", "assistant", "system", "developer", "tool"])
    | st.just([{"type": "text", "text": "x"}]),
    max_size=4,
)
any_parameters = st.dictionaries(
    st.sampled_from([*ChatRequest.__struct_fields__, "top_k"]),
    any_json | st.sampled_from([*sum(NEUTRAL.values(), ())]) | st.floats(0, 2) | st.integers(0, 3),
    max_size=4,
)
many = settings(max_examples=60, deadline=None)


def assert_sound(response: httpx.Response) -> None:
    """An answer, or a refusal that says what was wrong with the request."""
    if response.status_code != 200:
        assert response.status_code in (400, 404), response.text
        assert_refused(response, response.status_code)


@many
@given(body=any_parameters, messages=st.lists(any_message, max_size=3) | any_json | st.just(ASKED))
def test_no_parameters_break_the_server(raw: httpx.Client, body: Any, messages: Any) -> None:
    assert_sound(raw.post(CHAT, content=json.dumps({"messages": messages, **body})))


@many
@given(
    body=st.dictionaries(
        st.sampled_from(["type", "id", "value", "choice", "answer", "reason", "replaces"]),
        any_json | st.sampled_from(["thumb", "comparison", "correction", "up", "A", "tie", "much"]),
        max_size=5,
    )
)
def test_no_feedback_breaks_the_server(raw: httpx.Client, body: Any) -> None:
    assert_sound(raw.post(FEEDBACK, content=json.dumps(body)))


@many
@given(body=st.binary(max_size=60), path=st.sampled_from([CHAT, FEEDBACK]))
def test_no_bytes_break_the_server(raw: httpx.Client, body: bytes, path: str) -> None:
    assert_sound(raw.post(path, content=body))


@many
@given(at=st.integers(0, 60), put=st.binary(min_size=1, max_size=3))
def test_no_slip_in_a_sound_body_breaks_the_server(raw: httpx.Client, at: int, put: bytes) -> None:
    body = json.dumps({"messages": ASKED, "max_tokens": 1}).encode()
    assert_sound(raw.post(CHAT, content=body[:at] + put + body[at + len(put) :]))


@many
@given(name=st.text(min_size=1, max_size=40))
def test_no_name_of_a_model_breaks_the_server(raw: httpx.Client, name: str) -> None:
    assert_sound(raw.post(CHAT, content=json.dumps({"messages": ASKED, "model": name})))
    assert_sound(raw.get(httpx.URL(raw.base_url, raw_path=b"/v1/models/" + quoted(name))))


def quoted(name: str) -> bytes:
    return "".join(f"%{byte:02x}" for byte in name.encode("utf-8", "replace")).encode()
