"""A rerank server is asked as vLLM and others want it, and a bad answer of it is told."""

from __future__ import annotations

import json
from typing import Any

import pytest

from plugins.contract import OptionsError, PluginError, ShownPassage
from plugins.rerank_server import RerankServer
from service.plugin_fields import checked
from tests.plugins.http_receiver import Receiver, receiving

PASSAGES = (ShownPassage("Taxis", "Ask first."), ShownPassage("Parking", "Behind the house."))
SCORES = {"results": [{"index": 1, "relevance_score": 0.9}, {"index": 0, "relevance_score": -2}]}


def rerank(receiver: Receiver, **options: Any) -> list[float]:
    given = {"url": receiver.url, "model": "cross", **options}
    reranker = RerankServer(checked(RerankServer.Settings, given))
    return list(reranker.rerank("Where do I park?", PASSAGES))


def test_scores_come_back_in_the_order_of_the_passages() -> None:
    with receiving() as receiver:
        receiver.answer = SCORES
        assert rerank(receiver, api_key="open sesame") == [-2.0, 0.9]
    [(headers, body)] = receiver.posts
    assert json.loads(body) == {
        "model": "cross",
        "query": "Where do I park?",
        "documents": ["Taxis\n\nAsk first.", "Parking\n\nBehind the house."],
    }
    assert headers["Authorization"] == "Bearer open sesame"


def test_nothing_is_asked_about_no_passages() -> None:
    with receiving() as receiver:
        settings = checked(RerankServer.Settings, {"url": receiver.url, "model": "cross"})
        assert list(RerankServer(settings).rerank("Where?", ())) == []
        assert receiver.posts == []


@pytest.mark.parametrize(
    "answer",
    [
        [],
        {},
        {"results": None},
        {"results": [{"index": 0, "relevance_score": 1}]},
        {"results": [{"index": 0}, {"index": 1}]},
        {"results": [{"index": n, "relevance_score": "NaN"} for n in range(2)]},
    ],
)
def test_an_answer_without_all_scores_is_told(answer: Any) -> None:
    with receiving() as receiver:
        receiver.answer = answer
        with pytest.raises(PluginError, match="holds no score for each passage"):
            rerank(receiver)


def test_a_server_that_refuses_or_is_gone_is_told() -> None:
    with receiving() as receiver:
        receiver.status = 401
        with pytest.raises(PluginError, match="answered 401; check the options url, model and"):
            rerank(receiver)
    with pytest.raises(PluginError, match="could not be reached"):
        rerank(receiver)


def test_options_are_checked() -> None:
    for options in ({"url": "localhost:8000", "model": "m"}, {"url": "http://a.b", "model": ""}):
        with pytest.raises(OptionsError):
            checked(RerankServer.Settings, options)
