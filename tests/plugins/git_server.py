"""A Git repository with a handbook, on this machine and over HTTP."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar
from wsgiref.simple_server import WSGIRequestHandler, make_server

from dulwich import porcelain
from dulwich.repo import Repo
from dulwich.server import DictBackend
from dulwich.web import make_wsgi_chain

from plugins.testing import Place

TOKEN = "xyzzy-4711"


class Checkout(Place):
    """A repository of three pages, one of which asks a question; each change is a commit."""

    wrong: ClassVar[Sequence[Mapping[str, Any]]] = (
        {"pattern": "../*.md"},
        {"path": None},
        {"url": "https://git.example.com/handbook.git"},
        {"link": "https://example.com/handbook"},
    )

    repository: Repo | None = None

    def settings(self) -> Mapping[str, Any]:
        self.path = self.folder / "handbook"
        self.repository = porcelain.init(str(self.path))
        for number in range(3):
            self.put(f"page-{number}.md", f"# A page\n\nThis is page {number}.\n")
        answer = "Behind the house, on the left, and never in front of the gate."
        self.put("docs/parking.md", f"# Parking\n\n## Where do I park?\n\n{answer}\n")
        return {"path": str(self.path)}

    def put(self, name: str, content: str | bytes) -> None:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        porcelain.add(str(self.path), [str(file)])
        self.commit(f"Write {name}")

    def commit(self, message: str) -> str:
        who = b"Ada <ada@example.com>"
        made = porcelain.commit(str(self.path), message.encode(), author=who, committer=who)
        return bytes(made).decode()

    def close(self) -> None:
        if self.repository is not None:
            self.repository.close()

    def add(self, text: str) -> str:
        name = f"added-{len(list(self.path.iterdir()))}.md"
        self.put(name, f"# Another\n\n{text}\n")
        return name

    def change(self) -> str:
        self.put("page-1.md", "# A page\n\nThis is another page.\n")
        return "page-1.md"

    def remove(self) -> str:
        porcelain.remove(str(self.path), [str(self.path / "page-1.md")])
        self.commit("Remove page-1.md")
        return "page-1.md"

    def empty(self) -> None:
        names = [str(file) for file in self.path.rglob("*.md")]
        porcelain.remove(str(self.path), names)
        self.commit("Remove all")

    def spoil(self) -> None:
        self.put("page-1.md", b"\xff\xfe\x00")

    def take_away(self) -> None:
        self.path.rename(self.folder / "away")

    def recover(self) -> None:
        (self.folder / "away").rename(self.path)


class _Quiet(WSGIRequestHandler):
    def log_message(self, *arguments: object) -> None:
        """Nothing on stderr."""


@contextmanager
def serving(path: Path, refuse: Callable[[], str | None]) -> Iterator[str]:
    """The repository's address while the block runs. `refuse` may answer a status in its place,
    such as "429 Too Many Requests"; without the token, all is refused."""
    repository = Repo(str(path))
    app = make_wsgi_chain(DictBackend({"/handbook.git": repository}))
    wanted = "Basic " + base64.b64encode(f"git:{TOKEN}".encode()).decode()

    def guarded(environment: Any, start_response: Any) -> Iterable[bytes]:
        status = refuse()
        if status is None and environment.get("HTTP_AUTHORIZATION") != wanted:
            status = "401 Unauthorized"
        if status is not None:
            start_response(status, [("Content-Type", "text/plain")])
            return [b"refused"]
        found: Iterable[bytes] = app(environment, start_response)
        return found

    server = make_server("127.0.0.1", 0, guarded, handler_class=_Quiet)
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/handbook.git"
    finally:
        server.shutdown()
        server.server_close()
        repository.close()
