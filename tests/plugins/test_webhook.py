"""A webhook posts what happened, signed; what the receiver does not take is told."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

import pytest

from plugins.contract import FinishedRun, OptionsError, PluginError, Promotion
from plugins.webhook import Webhook
from service.plugin_fields import checked
from tests.plugins.http_receiver import receiving

PROMOTION = Promotion("v2", "v1", "the gate", "It is better.")
RUN = FinishedRun("r1", "refused", {"win_rate": 0.4})


def webhook(**options: Any) -> Webhook:
    return Webhook(checked(Webhook.Settings, options))


def test_promotions_and_runs_are_posted_as_json() -> None:
    with receiving() as receiver:
        observer = webhook(url=receiver.url)
        observer.promoted(PROMOTION)
        observer.run_finished(RUN)
    bodies = [json.loads(body) for _, body in receiver.posts]
    assert bodies == [
        {
            "event": "promoted",
            "version": "v2",
            "previous": "v1",
            "by": "the gate",
            "reason": "It is better.",
        },
        {"event": "run_finished", "run": "r1", "outcome": "refused", "figures": {"win_rate": 0.4}},
    ]
    assert all("X-Heed-Signature" not in headers for headers, _ in receiver.posts)


def test_a_secret_signs_each_post_and_is_not_sent() -> None:
    with receiving() as receiver:
        webhook(url=receiver.url, secret="tell nobody").promoted(PROMOTION)
    [(headers, body)] = receiver.posts
    expected = hmac.new(b"tell nobody", body, hashlib.sha256).hexdigest()
    assert headers["X-Heed-Signature"] == f"sha256={expected}"
    assert b"tell nobody" not in body
    assert "tell nobody" not in str(headers)


def test_each_kind_can_be_left_out() -> None:
    with receiving() as receiver:
        observer = webhook(url=receiver.url, promotions=False)
        observer.promoted(PROMOTION)
        assert receiver.posts == []
        webhook(url=receiver.url, runs=False).run_finished(RUN)
        assert receiver.posts == []
        observer.run_finished(RUN)
        assert len(receiver.posts) == 1


@pytest.mark.parametrize("status", [302, 404, 500])
def test_a_receiver_that_refuses_is_told(status: int) -> None:
    with receiving() as receiver:
        receiver.status = status
        with pytest.raises(PluginError, match=f"answered {status}; check the option url"):
            webhook(url=receiver.url).promoted(PROMOTION)


def test_a_receiver_that_is_gone_is_told() -> None:
    with receiving() as receiver:
        url = receiver.url
    with pytest.raises(PluginError, match="could not be reached"):
        webhook(url=url).promoted(PROMOTION)


@pytest.mark.parametrize("url", ["", "ftp://example.com", "example.com/hook", "http://"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(OptionsError, match="give an address like"):
        webhook(url=url)
