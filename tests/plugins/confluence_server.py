"""A wiki over HTTP that answers as Confluence does: search by pages, restrictions, tokens,
throttling, outages."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

from plugins.testing import Place

TOKEN = "xyzzy-4711"
AT_ONCE = 2


class ConfluencePlace(Place):
    """Five pages of the space HR, two at a time; page 3 lies under page 2."""

    wrong: ClassVar[Sequence[Mapping[str, Any]]] = (
        {"url": "wiki.example.com"},
        {"spaces": []},
        {"spaces": ['HR" or space = "SECRET']},
        {"most_pages": 0},
    )

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.pages: dict[str, dict[str, Any]] = {}
        for number in range(1, 6):
            self.put(str(number), f"Page {number}", f"<h1>All</h1><p>Text {number}.</p>")
        self.pages["3"]["ancestors"] = ["2"]
        self.token, self.wait, self.queries = TOKEN, None, list[str]()
        self.fetched: list[str] = []
        self.server: ThreadingHTTPServer | None = None

    def put(self, identity: str, title: str, body: str) -> None:
        before = self.pages.get(identity, {})
        self.pages[identity] = {
            "title": title,
            "body": body,
            "version": before.get("version", 0) + 1,
            "ancestors": before.get("ancestors", []),
            "users": before.get("users", []),
            "groups": before.get("groups", []),
        }

    def settings(self) -> Mapping[str, Any]:
        place = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, headers, body = place.answer(self.path, self.headers["Authorization"])
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None:
                """Nothing on stderr."""

        self.handler = Handler
        self.server = self.start(0)
        self.port = self.server.server_port
        return {"url": f"http://127.0.0.1:{self.port}/wiki", "spaces": ["HR"], "token": TOKEN}

    def start(self, port: int) -> ThreadingHTTPServer:
        server = ThreadingHTTPServer(("127.0.0.1", port), self.handler)
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return server

    def answer(self, path: str, authorization: str) -> tuple[int, Mapping[str, str], bytes]:
        if self.wait is not None:
            return 429, {"Retry-After": str(self.wait)}, b""
        if authorization != f"Bearer {self.token}":
            return 401, {}, b"<html>Log in</html>"
        parts = urlsplit(path)
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if parts.path == "/wiki/rest/api/content/search":
            self.queries.append(asked["cql"])
            return self.search(asked)
        identity = parts.path.removeprefix("/wiki/rest/api/content/")
        if identity not in self.pages:
            return 404, {}, b'{"message": "No content found"}'
        self.fetched.append(identity)
        body = {"view": {"value": self.pages[identity]["body"]}}
        return 200, {}, json.dumps({"id": identity, "body": body}).encode()

    def search(self, asked: Mapping[str, str]) -> tuple[int, Mapping[str, str], bytes]:
        start, size = int(asked.get("start", 0)), min(AT_ONCE, int(asked["limit"]))
        found = sorted(self.pages)
        links = {}
        if start + size < len(found):
            cql = asked["cql"].replace(" ", "%20").replace('"', "%22")
            rest = f"limit={size}&start={start + size}&cql={cql}&expand={asked.get('expand', '')}"
            links["next"] = f"/rest/api/content/search?{rest}"
        results = [self.listed(identity) for identity in found[start : start + size]]
        return 200, {}, json.dumps({"results": results, "_links": links}).encode()

    def listed(self, identity: str) -> dict[str, Any]:
        page = self.pages[identity]
        return {
            "id": identity,
            "type": "page",
            "title": page["title"],
            "version": {"number": page["version"], "when": "2026-03-31T12:00:00.000Z"},
            "ancestors": [{"id": above} for above in page["ancestors"]],
            "restrictions": {
                "read": {
                    "restrictions": {
                        "user": {"results": page["users"]},
                        "group": {"results": [{"name": name} for name in page["groups"]]},
                    }
                }
            },
            "_links": {"webui": f"/spaces/HR/pages/{identity}"},
        }

    def close(self) -> None:
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.server = None

    def add(self, text: str) -> str:
        identity = str(len(self.pages) + 100)
        escaped = text.replace("&", "&amp;").replace("<", "&lt;")
        self.put(identity, "Another", f"<p>{escaped}</p>")
        return identity

    def change(self) -> str:
        self.put("1", "Page 1", "<p>Now this.</p>")
        return "1"

    def remove(self) -> str:
        del self.pages["1"]
        return "1"

    def empty(self) -> None:
        self.pages = {}

    def spoil(self) -> None:
        self.put("1", "Page 1", "<p> </p>")

    def restrict(self) -> tuple[str, tuple[str, ...]]:
        self.pages["1"] |= {"users": [{"email": "ada@example.com"}], "groups": ["hr"]}
        return "1", ("group:hr", "person:ada@example.com")

    def take_away(self) -> None:
        self.close()

    def throttle(self, seconds: int) -> None:
        self.wait = seconds

    def expire(self) -> None:
        self.token = "another"

    def recover(self) -> None:
        self.wait, self.token = None, TOKEN
        if self.server is None:
            self.server = self.start(self.port)
