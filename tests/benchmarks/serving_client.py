"""Askers for load tests: many streams of `/api/ask` from one thread.

Load and server share the machine's cores, so an asker must cost little: it writes its request as
it stands and reads lines. By HTTP/1.0 a stream ends with its connection and has no framing.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import msgspec

PATIENCE_S = 120.0
"""A stream that takes longer has failed."""


@dataclass
class Heard:
    """What one question brought. Moments are seconds of the monotonic clock, 0 before they are."""

    asked_at: float
    status: int = 0
    answered_at: float = 0.0
    """When the status line came."""
    retry_after: str | None = None
    times: list[float] = field(default_factory=list)
    """When each token came."""
    text: str = ""
    candidate_id: str = ""
    ended: bool = False
    """Whether the stream came to its regular end, with the text that its pieces make."""
    trouble: str = ""

    @property
    def first_token_s(self) -> float:
        """Seconds to the first token."""
        return self.times[0] - self.asked_at

    @property
    def gaps(self) -> list[tuple[float, float]]:
        """Begin and end of each wait between two tokens."""
        return list(zip(self.times, self.times[1:], strict=False))


class Asker:
    """One person at a server."""

    def __init__(self, url: str) -> None:
        self._host, self._port = urlsplit(url).hostname or "", urlsplit(url).port
        self._cookie = ""

    async def open(self) -> None:
        """Come as a new visitor."""
        reader, writer = await asyncio.open_connection(self._host, self._port)
        writer.write(self._request("GET", "/api/me", b""))
        status, headers = await _head(reader)
        writer.close()
        if status != 200:
            raise ConnectionError(f"/api/me answered {status}")
        self._cookie = headers["set-cookie"].split(";")[0]

    async def ask(self, question: str) -> Heard:
        """Ask and read to the end; whatever goes wrong stands in the result."""
        body = json.dumps({"question": question, "compare": False}).encode()
        heard = Heard(time.monotonic())
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._ask(body, heard)
        except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError) as error:
            heard.trouble = heard.trouble or repr(error)
        return heard

    async def _ask(self, body: bytes, heard: Heard) -> None:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            writer.write(self._request("POST", "/api/ask", body))
            heard.status, headers = await _head(reader)
            heard.answered_at = time.monotonic()
            heard.retry_after = headers.get("retry-after")
            if heard.status == 200:
                await _events(reader, heard)
            else:
                heard.trouble = (await reader.read()).decode(errors="replace")
        finally:
            writer.close()

    def _request(self, method: str, path: str, body: bytes) -> bytes:
        lines = [f"{method} {path} HTTP/1.0", f"Host: {self._host}:{self._port}"]
        if self._cookie:
            lines += [f"Cookie: {self._cookie}", "Sec-Fetch-Site: same-origin"]
        if body:
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        return "\r\n".join([*lines, "", ""]).encode() + body


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    status = int((await reader.readline()).split()[1])
    headers = {}
    while line := (await reader.readline()).strip().decode():
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return status, headers


async def _events(reader: asyncio.StreamReader, heard: Heard) -> None:
    kind, whole = b"", None
    while line := await reader.readline():
        name, _, value = line.strip().partition(b": ")
        if name == b"event":
            kind = value
        elif name == b"data" and kind == b"token":
            heard.times.append(time.monotonic())
            heard.text += msgspec.json.decode(value)["text"]
        elif name == b"data" and kind == b"end":
            end = msgspec.json.decode(value)
            heard.candidate_id, whole = end["candidate_id"], end["text"]
        elif name == b"data" and kind == b"error":
            heard.trouble = msgspec.json.decode(value)["detail"]
    # NUL cannot be stored; the end tells the stored text.
    heard.ended = kind == b"done" and heard.text.replace("\0", "\ufffd") == whole
    if not heard.ended and not heard.trouble:
        heard.trouble = f"the stream ended with {kind.decode()!r}"


async def new_askers(url: str, count: int) -> list[Asker]:
    """So many visitors."""
    askers = [Asker(url) for _ in range(count)]
    for asker in askers:
        await asker.open()
    return askers
