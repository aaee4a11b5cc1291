"""A real server for the journeys: uvicorn in a thread on a free port, and a browser-like client."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import uvicorn
from sqlalchemy import Engine

from service.app import create_app
from service.serving import EngineFactory
from service.settings import Settings

PATIENCE_S = 60.0


@dataclass
class Stream:
    """What one question's stream brought, by kind of event."""

    turn: dict[str, Any] = field(default_factory=dict)
    pieces: dict[str, str] = field(default_factory=dict)
    ends: dict[str, dict[str, Any]] = field(default_factory=dict)
    last: str = ""
    error: str | None = None

    def take(self, name: str, data: dict[str, Any]) -> None:
        self.last = name
        if name == "turn":
            self.turn = data
        elif name == "token":
            self.pieces[data["side"]] = self.pieces.get(data["side"], "") + data["text"]
        elif name == "end":
            self.ends[data["side"]] = data
        elif name == "error":
            self.error = data["detail"]


class Visitor(httpx.Client):
    """Somebody at the page, with a session of their own."""

    def events(self, question: str, **more: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        """Ask and yield each event of the stream as it comes."""
        with self.stream("POST", "/api/ask", json={"question": question, **more}) as response:
            if response.status_code != 200:
                response.read()
                response.raise_for_status()
            waiting = ""
            for text in response.iter_text():
                *blocks, waiting = (waiting + text).split("\n\n")
                for block in blocks:
                    _number, name, data = block.split("\n")
                    yield name.removeprefix("event: "), json.loads(data.removeprefix("data: "))

    def ask(self, question: str, **more: Any) -> Stream:
        """Ask and read the stream to its end."""
        stream = Stream()
        for name, data in self.events(question, **{"compare": False, **more}):
            stream.take(name, data)
        return stream


class Served:
    """A running server, or what one would serve. `engine` is the test's own connection to its
    database."""

    def __init__(
        self, url: str, settings: Settings, engine: Engine, server: uvicorn.Server | None = None
    ) -> None:
        self.url, self.settings, self.engine = url, settings, engine
        self._running = server
        self._visitors: list[Visitor] = []

    @property
    def _server(self) -> uvicorn.Server:
        assert self._running is not None, "no server runs here"
        return self._running

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """What the server runs on."""
        loop: asyncio.AbstractEventLoop = self._server.servers[0].get_loop()
        return loop

    @property
    def listening(self) -> socket.socket:
        """Where it takes connections."""
        return socket.socket(fileno=os.dup(self._server.servers[0].sockets[0].fileno()))

    @property
    def held_back(self) -> list[int]:
        """Bytes that wait in the server, of each connection that takes no more for now."""
        connections: list[Any] = list(self._server.server_state.connections)
        return [
            each.transport.get_write_buffer_size()
            for each in connections
            if each.flow is not None and each.flow.write_paused
        ]

    def visitor(self) -> Visitor:
        """A new visitor, who has opened the page."""
        visitor = Visitor(base_url=self.url, timeout=PATIENCE_S)
        visitor.headers["sec-fetch-site"] = "same-origin"
        self._visitors.append(visitor)
        visitor.get("/api/me").raise_for_status()
        return visitor

    def cut(self) -> None:
        """Break every connection, as a network that fails."""

        def abort() -> None:
            for connection in list(self._server.server_state.connections):
                connection.transport.abort()

        self.loop.call_soon_threadsafe(abort)

    def close(self) -> None:
        for visitor in self._visitors:
            visitor.close()


@contextmanager
def serving(
    settings: Settings,
    engine: Engine,
    *,
    until_ready: bool = True,
    engine_factory: EngineFactory | None = None,
) -> Iterator[Served]:
    """Serve until the block ends; by default begin when questions are answered."""
    app = create_app(settings, engine_factory=engine_factory)
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, ws="none")
    )
    thread = threading.Thread(target=server.run, name="server")
    thread.start()
    try:
        eventually(lambda: server.started or not thread.is_alive())
        assert server.started, "the server did not start; its log says why"
        port = server.servers[0].sockets[0].getsockname()[1]
        served = Served(f"http://127.0.0.1:{port}", settings, engine, server)
        if until_ready:
            eventually(lambda: httpx.get(f"{served.url}/health/ready").status_code == 200)
        yield served
        served.close()
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), "the server did not stop"


def eventually(holds: Any, timeout_s: float = PATIENCE_S) -> Any:
    """Look until `holds()` is true and return what it gave; fail after `timeout_s` seconds."""
    began = time.monotonic()
    while not (found := holds()):
        assert time.monotonic() - began < timeout_s, f"not within {timeout_s} s"
        time.sleep(0.02)
    return found
