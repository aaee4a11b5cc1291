"""A website over HTTP: a sitemap, robots.txt, ETags, redirects, throttling, outages."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

from plugins.testing import Place


def html(title: str, text: str) -> bytes:
    return f"<title>{title}</title><nav>Menu</nav><main><h1>{title}</h1><p>{text}</main>".encode()


class Site(Place):
    """Three pages, listed by an index of one packed sitemap."""

    wrong: ClassVar[Sequence[Mapping[str, Any]]] = (
        {"url": "ftp://example.com"},
        {"url": "https://user:pass@example.com"},
        {"most_pages": 0},
    )

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.pages = {f"/p{n}": html(f"Page {n}", f"Text {n}.") for n in range(3)}
        self.redirects: dict[str, str] = {}
        self.robots = "User-agent: *\nDisallow: /secret\n"
        self.wait: str | None = None
        self.asked: list[tuple[str, int]] = []
        self.server: ThreadingHTTPServer | None = None

    def settings(self) -> Mapping[str, Any]:
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, headers, body = site.answer(self.path, self.headers["If-None-Match"])
                site.asked.append((self.path, status))
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
        return {"url": self.url(""), "private_hosts": ["127.0.0.1"]}

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def start(self, port: int) -> ThreadingHTTPServer:
        server = ThreadingHTTPServer(("127.0.0.1", port), self.handler)
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return server

    def answer(self, path: str, etag: str | None) -> tuple[int, Mapping[str, str], bytes]:
        if self.wait is not None:
            return 429, {"Retry-After": self.wait}, b""
        if path == "/robots.txt":
            return 200, {}, f"{self.robots}Sitemap: {self.url('/index.xml')}\n".encode()
        if path == "/index.xml":
            return 200, {}, self._xml("sitemapindex", "sitemap", ["/pages.xml.gz"])
        if path == "/pages.xml.gz":
            listed = [*self.pages, *self.redirects]
            return 200, {}, gzip.compress(self._xml("urlset", "url", listed))
        if path in self.redirects:
            return 302, {"Location": self.redirects[path]}, b""
        if path not in self.pages:
            return 404, {}, b""
        own = '"' + hashlib.sha256(self.pages[path]).hexdigest()[:12] + '"'
        headers = {"ETag": own, "Content-Type": "text/html; charset=utf-8"}
        return (304, headers, b"") if etag == own else (200, headers, self.pages[path])

    def _xml(self, root: str, entry: str, paths: list[str]) -> bytes:
        lines = "".join(f"<{entry}><loc>{self.url(path)}</loc></{entry}>" for path in paths)
        space = "http://www.sitemaps.org/schemas/sitemap/0.9"
        return f'<?xml version="1.0"?><{root} xmlns="{space}">{lines}</{root}>'.encode()

    def close(self) -> None:
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.server = None

    def add(self, text: str) -> str:
        path = f"/q{len(self.pages)}"
        self.pages[path] = html("Another", text)
        return self.url(path)

    def change(self) -> str:
        self.pages["/p1"] = html("Page 1", "Now this.")
        return self.url("/p1")

    def remove(self) -> str:
        del self.pages["/p1"]
        return self.url("/p1")

    def empty(self) -> None:
        self.pages = {}

    def spoil(self) -> None:
        self.pages["/p1"] = b""

    def take_away(self) -> None:
        self.close()

    def throttle(self, seconds: int) -> None:
        self.wait = str(seconds)

    def recover(self) -> None:
        self.wait = None
        self.server = self.server or self.start(self.port)
