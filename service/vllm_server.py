"""One vLLM server, asked over HTTP. Which servers are used is vllm_servers.py's to know."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import httpx

from rlhf_engine.errors import (
    BasePolicyError,
    EngineError,
    GenerationError,
    PolicyVersionError,
    QueueFullError,
)
from rlhf_engine.records import SamplingSettings
from service.settings import VllmSettings
from service.vllm_wire import DONE, ToldToken, completion_request, error_message, read_chunk

CONNECT_S = 5.0
PROBE_TEXT = "Who signs my travel expenses? <0>\n\u65e5\u672c\u8a9e"
PROBE = SamplingSettings(temperature=0.0, max_new_tokens=1)
BUSY = (429, 503)
GATEWAY = (502, 504)
SLOTS = re.compile(r'vllm:lora_requests_info\{[^}]*max_lora="(\d+)"')


class ServerUnusableError(GenerationError):
    """This server cannot be used now; another one may do."""


class VllmServer:
    """One server. Made and used in one event loop."""

    def __init__(self, url: str, settings: VllmSettings) -> None:
        self.url = url.rstrip("/")
        self.jobs = 0
        """Questions that it has been given and that are not over."""
        self.context = 0
        """Most tokens that it reads, question and answer, once `check` has found it."""
        self._base, self._slots = settings.model, settings.max_loras
        key = settings.key()
        self._client = httpx.AsyncClient(
            base_url=self.url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(settings.timeout_s, connect=min(CONNECT_S, settings.timeout_s)),
            limits=httpx.Limits(max_connections=None),
        )

    async def close(self) -> None:
        """Hang up."""
        await self._client.aclose()

    async def healthy(self) -> bool:
        """Whether it says that it works."""
        with contextlib.suppress(ServerUnusableError):
            return (await self._ask("GET", "/health")).status_code == 200
        return False

    async def check(self, tokenizer: Any) -> None:
        """Find out whether it serves the base policy, and has room for enough versions.

        ServerUnusableError where it cannot be asked, BasePolicyError where it has to be started
        otherwise.
        """
        served = await self._models()
        if self._base not in served:
            raise BasePolicyError(
                f"the vLLM server {self.url} serves {', '.join(sorted(served)) or 'nothing'}, not "
                f"{self._base!r}; set vllm.model, or start it with --served-model-name"
            )
        self.context = int(served[self._base].get("max_model_len") or 0)
        await self._check_tokens(tokenizer)
        await self.probe(self._base, tokenizer.eos_token_id)
        await self._check_slots()

    async def load(self, name: str, folder: str, eos_id: int) -> None:
        """Have it load an adapter and answer one token with it. ServerUnusableError where it is
        busy or cannot be reached, PolicyVersionError, and the adapter is not left there, where
        it does not."""
        body = {"lora_name": name, "lora_path": folder}
        response = await self._ask("POST", "/v1/load_lora_adapter", body)
        if response.status_code in (*BUSY, *GATEWAY):
            raise self._unusable(f"status {response.status_code}")
        if response.status_code != 200 and not await self._has(name, folder):
            raise PolicyVersionError(
                f"the vLLM server {self.url} does not load version {name} from {folder}: "
                f"{_message(response)}; {_advice(response)}"
            )
        try:
            await self.probe(name, eos_id)
        except ServerUnusableError:
            raise
        except QueueFullError as error:
            raise self._unusable(str(error)) from error
        except EngineError as error:
            await self.unload(name)
            raise PolicyVersionError(
                f"version {name} does not answer on the vLLM server {self.url}: {error}"
            ) from error

    async def unload(self, name: str) -> bool:
        """Have it forget an adapter; whether it said that it has none of that name now."""
        with contextlib.suppress(ServerUnusableError):
            response = await self._ask("POST", "/v1/unload_lora_adapter", {"lora_name": name})
            return response.status_code in (200, 404)
        return False

    async def probe(self, model: str, eos_id: int) -> None:
        """Have it answer one token; raises what `answer` raises, or GenerationError."""
        body = completion_request(model, [eos_id], 0, PROBE, eos_id)
        async with aclosing(self.answer(body)) as tokens:
            async for _ in tokens:
                return
        raise GenerationError("it answers without a token")

    async def answer(self, body: dict[str, Any]) -> AsyncGenerator[ToldToken, None]:
        """The tokens of one answer, as they come. Close it to have the server end it.

        ServerUnusableError where the server cannot be reached, does not have the version or
        breaks off, QueueFullError where it is busy, WrongVersionError, and GenerationError.
        """
        try:
            async with self._client.stream("POST", "/v1/completions", json=body) as response:
                if response.status_code != 200:
                    await response.aread()
                    raise self._refusal(response)
                async with aclosing(_events(response)) as events:
                    async for data in events:
                        for token in read_chunk(data, body["model"], body["logprobs"]):
                            yield token
        except httpx.HTTPError as error:
            raise self._unusable(f"it broke off: {error!r}") from error

    async def _models(self) -> dict[str, dict[str, Any]]:
        """What it serves, by name."""
        response = await self._ask("GET", "/v1/models")
        cards = _json(response).get("data")
        if response.status_code != 200 or not isinstance(cards, list):
            raise self._unusable(f"it does not tell its models: {_message(response)}")
        return {card["id"]: card for card in cards}

    async def _has(self, name: str, folder: str) -> bool:
        """Whether it holds this adapter already, from the same folder: as after a restart."""
        return (await self._models()).get(name, {}).get("root") == folder

    async def _check_tokens(self, tokenizer: Any) -> None:
        """Another tokenizer would make nonsense of every prompt. Where the route is closed off,
        the name must do."""
        body = {"model": self._base, "prompt": PROBE_TEXT, "add_special_tokens": False}
        response = await self._ask("POST", "/tokenize", body)
        if response.status_code != 200:
            return
        if _json(response).get("tokens") != tokenizer.encode(PROBE_TEXT, add_special_tokens=False):
            raise BasePolicyError(
                f"the vLLM server {self.url} splits text into other tokens than the base policy; "
                "start it with the folder of the base policy that Heed uses"
            )

    async def _check_slots(self) -> None:
        """Two versions that share a slot wait for each other."""
        response = await self._ask("GET", "/metrics")
        found = SLOTS.search(response.text) if response.status_code == 200 else None
        if found and int(found[1]) < self._slots:
            raise BasePolicyError(
                f"the vLLM server {self.url} has --max-loras {found[1]}, vllm.max_loras is "
                f"{self._slots}; start it with --max-loras {self._slots}"
            )

    async def _ask(self, method: str, path: str, body: Any = None) -> httpx.Response:
        try:
            return await self._client.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise self._unusable(repr(error)) from error

    def _refusal(self, response: httpx.Response) -> EngineError:
        status, said = response.status_code, _message(response)
        if status in BUSY:
            return QueueFullError(f"the vLLM server is busy ({said}); try again in a moment")
        if status in (400, 413, 422):
            return GenerationError(f"the vLLM server refuses the question: {said}")
        return self._unusable(f"status {status}: {said}")

    def _unusable(self, why: str) -> ServerUnusableError:
        return ServerUnusableError(f"the vLLM server {self.url} cannot be used: {why}")


async def _events(response: httpx.Response) -> AsyncGenerator[str, None]:
    """The data of each event. Lines end with a line feed alone: httpx's own lines would also end
    at characters that JSON holds as they are."""
    waiting = b""
    async for piece in response.aiter_bytes():
        *lines, waiting = (waiting + piece).split(b"\n")
        for line in lines:
            data = line.strip().removeprefix(b"data:").strip().decode("utf-8", "replace")
            if data == DONE:
                return
            if data and line.startswith(b"data:"):
                yield data


def _message(response: httpx.Response) -> str:
    if response.status_code in (401, 403):
        return "the API key is not accepted; set vllm.api_key"
    body = _json(response)
    return error_message(body) if body else response.text[:200]


def _json(response: httpx.Response) -> dict[str, Any]:
    """The body, empty where it is no JSON object."""
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _advice(response: httpx.Response) -> str:
    if response.status_code == 404 and "error" not in response.text:
        return "start it with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"
    return "no server keeps it; see its log, --max-lora-rank and vllm.policies_path"
