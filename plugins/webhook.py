"""An observer that tells another service what happens, by HTTP.

A POST of JSON: {"event": "promoted", "version": ..., "previous": ..., "by": ..., "reason": ...}
or {"event": "run_finished", "run": ..., "outcome": ..., "figures": {...}}. With a secret, the
header X-Heed-Signature is "sha256=" and the HMAC of the body in hexadecimal, so that the
receiver can tell who sent it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import json
from collections.abc import Sequence
from typing import Annotated
from urllib.parse import urlsplit

import httpx
from pydantic import AfterValidator, BaseModel, Field, SecretStr

from plugins.contract import FinishedRun, Observer, PluginError, Promotion
from plugins.hookspecs import hookimpl

TIMEOUT_S = 10.0


def _web_address(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme in ("http", "https") and parts.hostname:
        return value
    raise ValueError('give an address like "https://chat.example.com/hooks/heed"')


class Webhook:
    """Posts promotions and finished runs to an address of yours."""

    name = "webhook"

    class Settings(BaseModel):
        url: Annotated[str, AfterValidator(_web_address)] = Field(
            description="Where to post what happened."
        )
        secret: SecretStr | None = Field(
            default=None, description="Signs each post, so that the receiver knows who sent it."
        )
        promotions: bool = Field(default=True, description="Tell of versions that went live.")
        runs: bool = Field(default=True, description="Tell of training runs that ended.")

    def __init__(self, settings: Settings) -> None:
        self.url, self._secret = settings.url, settings.secret
        self._promotions, self._runs = settings.promotions, settings.runs

    def promoted(self, event: Promotion) -> None:
        """Tell of a promotion; PluginError where the receiver did not take it."""
        if self._promotions:
            self._post("promoted", event)

    def run_finished(self, event: FinishedRun) -> None:
        """Tell of a run; PluginError where the receiver did not take it."""
        if self._runs:
            self._post("run_finished", event)

    def _post(self, name: str, event: Promotion | FinishedRun) -> None:
        fields = {field.name: getattr(event, field.name) for field in dataclasses.fields(event)}
        body = json.dumps({"event": name, **fields}, default=dict).encode()
        headers = {"Content-Type": "application/json", "User-Agent": "heed"}
        if self._secret is not None:
            key = self._secret.get_secret_value().encode()
            headers["X-Heed-Signature"] = (
                f"sha256={hmac.new(key, body, hashlib.sha256).hexdigest()}"
            )
        try:
            answer = httpx.post(
                self.url, content=body, headers=headers, timeout=TIMEOUT_S, trust_env=False
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise PluginError(
                f"the webhook could not be reached ({error or type(error).__name__}); "
                "check the option url and whether the receiver runs"
            ) from error
        if answer.is_error or answer.is_redirect:
            raise PluginError(
                f"the webhook answered {answer.status_code}; check the option url, and what the "
                "receiver says of it"
            )


@hookimpl
def heed_observers() -> Sequence[type[Observer]]:
    """One observer."""
    return (Webhook,)
