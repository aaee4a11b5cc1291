"""A wiki over HTTP as the tutorial's source asks for it: pages, a token, throttling, outages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

from plugins.testing import Place

TOKEN = "xyzzy-4711"


class WikiServer(Place):
    """Five pages, two at a time."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.pages = {f"p{n}": {"title": f"Page {n}", "text": f"Text {n}."} for n in range(5)}
        self.token = TOKEN
        self.wait: int | None = None
        self.server: ThreadingHTTPServer | None = None

    def settings(self) -> Mapping[str, Any]:
        wiki = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, headers, body = wiki.answer(self.path, self.headers["Authorization"])
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None:
                """Nothing on stderr."""

        self.handler = Handler
        self.server = self.start(0)
        self.port = self.server.server_port
        return {"url": f"http://127.0.0.1:{self.port}", "token": TOKEN}

    def start(self, port: int) -> ThreadingHTTPServer:
        server = ThreadingHTTPServer(("127.0.0.1", port), self.handler)
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return server

    def answer(self, path: str, authorization: str) -> tuple[int, Mapping[str, str], bytes]:
        if authorization != f"Bearer {self.token}":
            return 401, {}, b""
        if self.wait is not None:
            return 429, {"Retry-After": str(self.wait)}, b""
        if not self.pages:
            return 200, {}, b"[]"
        after = parse_qs(urlsplit(path).query).get("after", [""])[0]
        ids = [identity for identity in sorted(self.pages) if identity > after][:2]
        return 200, {}, json.dumps([{"id": i, **self.pages[i]} for i in ids]).encode()

    def close(self) -> None:
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.server = None

    def add(self, text: str) -> str:
        identity = f"q{len(self.pages)}"
        self.pages[identity] = {"title": "Another", "text": text}
        return identity

    def change(self) -> str:
        self.pages["p1"]["text"] = "Now this."
        return "p1"

    def remove(self) -> str:
        del self.pages["p1"]
        return "p1"

    def empty(self) -> None:
        self.pages = {}

    def take_away(self) -> None:
        self.close()

    def throttle(self, seconds: int) -> None:
        self.wait = seconds

    def expire(self) -> None:
        self.token = "another"

    def recover(self) -> None:
        self.wait, self.token = None, TOKEN
        self.server = self.server or self.start(self.port)
