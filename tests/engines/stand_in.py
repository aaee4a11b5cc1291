"""A server with the part of vLLM's HTTP interface that Heed uses, answering with a tiny policy.

It keeps what vLLM 0.32 was seen to do: adapters by name, a name that is taken refused, answers
streamed under the model's name with tokens as ids, an answer ended when its asker hangs up.
`faults` makes it fail as servers do.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from rlhf_engine.backbone import Backbone, read_adapter
from rlhf_engine.decoding import Decoder, Drawn
from rlhf_engine.policy_version import MANIFEST
from rlhf_engine.records import SamplingSettings
from rlhf_engine.serving_adapters import drop, install, read_verified
from tests.journeys.server import eventually

CONTEXT = 1024


@dataclass
class Faults:
    """What goes wrong. `load`, `ask`: a status instead of doing it; `answer_as`: a name in place
    of the model's; `break_after`: tokens after which the connection is dropped; `splits`: it has
    another tokenizer; `pause_s`: seconds between two tokens."""

    load: int | None = None
    ask: int | None = None
    answer_as: str | None = None
    break_after: int | None = None
    splits: bool = False
    pause_s: float = 0.0


class StandIn:
    """One server. `adapters` are the folders of those loaded, by name; `asked` counts answers."""

    def __init__(self, base: Path, max_loras: int = 4, api_key: str | None = None) -> None:
        self.base, self.max_loras, self.api_key = base, max_loras, api_key
        self.adapters: dict[str, str] = {}
        self.faults = Faults()
        self.asked = self.answering = 0
        self._port = 0
        self._computing = threading.Lock()
        self._backbone = Backbone.load(base)
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Listen; at its former address where it was stopped."""
        config = uvicorn.Config(
            self._app,
            port=self._port,
            interface="asgi3",
            log_config=None,
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
        server = self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=server.run, name="stand-in")
        self._thread.start()
        eventually(lambda: server.started)
        self._port = server.servers[0].sockets[0].getsockname()[1]

    def stop(self) -> None:
        """Go, as a server that is restarted: its adapters are forgotten."""
        assert self._server is not None
        assert self._thread is not None
        self._server.should_exit = True
        self._thread.join()
        for name in list(self.adapters):
            self._forget(name)

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while (part := await receive())["type"] == "http.request":
            body += part.get("body", b"")
            if not part.get("more_body"):
                break
        path, asked = scope["path"], json.loads(body) if body else {}
        given = dict(scope["headers"]).get(b"authorization", b"").decode()
        if path.startswith("/v1/") and self.api_key and given != f"Bearer {self.api_key}":
            await _reply(send, 401, {"error": "Unauthorized"})
        elif path == "/v1/completions":
            await self._complete(asked, receive, send)
        else:
            await _reply(send, *await asyncio.to_thread(self._manage, path, asked))

    def _manage(self, path: str, asked: dict[str, Any]) -> tuple[int, Any]:
        if path == "/health":
            return 200, ""
        if path == "/v1/models":
            base = {"id": "base", "root": str(self.base), "max_model_len": CONTEXT}
            adapters = [{"id": name, "root": root} for name, root in self.adapters.items()]
            return 200, {"data": [base, *adapters]}
        if path == "/metrics":
            labels = f'max_lora="{self.max_loras}",running_lora_adapters=""'
            return (
                200,
                f"# TYPE vllm:lora_requests_info gauge\nvllm:lora_requests_info{{{labels}}} 1",
            )
        if path == "/tokenize":
            ids = self._backbone.tokenizer.encode(asked["prompt"], add_special_tokens=False)
            return 200, {"tokens": ids[::-1] if self.faults.splits else ids}
        if path == "/v1/load_lora_adapter":
            return self._load(asked["lora_name"], asked["lora_path"])
        if asked["lora_name"] not in self.adapters:
            return _error(404, "cannot be found")
        self._forget(asked["lora_name"])
        return 200, "Success"

    def _load(self, name: str, folder: str) -> tuple[int, Any]:
        if self.faults.load:
            return _error(self.faults.load, "the adapter cannot be read")
        if name in self.adapters:
            return _error(400, f"The lora adapter '{name}' has already been loaded.")
        try:
            whole = (Path(folder) / MANIFEST).is_file()
            files = read_verified(Path(folder), self.base)[1] if whole else None
            files = files or read_adapter(Path(folder))
            with self._computing:
                install(self._backbone, name, files)
        except Exception as error:  # noqa: BLE001 - as vLLM: whatever is wrong is a 500
            return _error(500, str(error))
        self.adapters[name] = folder
        return 200, "Success"

    def _forget(self, name: str) -> None:
        del self.adapters[name]
        with self._computing:
            drop(self._backbone, name)

    async def _complete(self, asked: dict[str, Any], receive: Any, send: Any) -> None:
        model = asked["model"]
        if self.faults.ask:
            await _reply(send, *_error(self.faults.ask, "not now"))
            return
        if model != "base" and model not in self.adapters:
            await _reply(send, *_error(404, f"The model `{model}` does not exist."))
            return
        self.asked += 1
        self.answering += 1
        answering = asyncio.ensure_future(self._stream(asked, send))
        leaving = asyncio.ensure_future(receive())
        try:
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                await answering
        finally:
            self.answering -= 1
            answering.cancel()
            leaving.cancel()

    async def _stream(self, asked: dict[str, Any], send: Any) -> None:
        kind = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": kind})
        decoder = await asyncio.to_thread(self._begin, asked)
        count = 0
        while not decoder.done:
            if count == self.faults.break_after:
                raise ConnectionError("dropped, as asked for")
            (drawn,) = await asyncio.to_thread(self._step, decoder)
            count += 1
            await asyncio.sleep(self.faults.pause_s)
            await _event(send, json.dumps(self._chunk(asked, drawn, decoder), ensure_ascii=False))
        await _event(send, "[DONE]")
        await send({"type": "http.response.body", "body": b""})

    def _begin(self, asked: dict[str, Any]) -> Decoder:
        settings = SamplingSettings(
            asked["temperature"], asked["top_p"], asked["max_tokens"], (), asked["logprobs"]
        )
        name = None if asked["model"] == "base" else asked["model"]
        decoder = Decoder(self._backbone, name, plain=True)
        with self._computing:
            decoder.admit(asked["prompt"], [asked["seed"]], settings)
        return decoder

    def _step(self, decoder: Decoder) -> list[Drawn]:
        with self._computing:
            return decoder.step()

    def _chunk(self, asked: dict[str, Any], drawn: Drawn, decoder: Decoder) -> dict[str, Any]:
        likely = {
            drawn.token_id: drawn.plain,
            **{each.token_id: each.logprob for each in drawn.top},
        }
        reason = None
        if decoder.done:
            reason = "stop" if drawn.token_id in asked["stop_token_ids"] else "length"
        return {
            "model": self.faults.answer_as or asked["model"],
            "choices": [
                {
                    "index": 0,
                    # Characters that some readers take for the end of a line.
                    "text": self._backbone.tokenizer.decode([drawn.token_id]) + "\u2028\x85",
                    "finish_reason": reason,
                    "logprobs": {
                        "tokens": [f"token_id:{drawn.token_id}"],
                        "token_logprobs": [drawn.plain],
                        "top_logprobs": [
                            {f"token_id:{each}": value for each, value in likely.items()}
                        ],
                    },
                }
            ],
        }


@contextmanager
def standing_in(base: Path, **more: Any) -> Iterator[StandIn]:
    """A server that runs until the block ends."""
    server = StandIn(base, **more)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _error(status: int, message: str) -> tuple[int, Any]:
    return status, {"error": {"message": message, "code": status}}


async def _event(send: Any, data: str) -> None:
    body = f"data: {data}\n\n".encode()
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def _reply(send: Any, status: int, body: Any) -> None:
    kind = b"text/plain" if isinstance(body, str) else b"application/json"
    headers = [(b"content-type", kind)]
    text = body if isinstance(body, str) else json.dumps(body)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
