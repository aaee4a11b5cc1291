"""What a server and the process of its engine say to each other: one message a frame, MessagePack.

Numbers are the server's: of a job in what it asks to be answered, of a call in what it waits for.
"""

from __future__ import annotations

from multiprocessing.connection import Connection
from typing import Any

import msgspec

from rlhf_engine import errors
from rlhf_engine.answer_events import Ended, Token
from rlhf_engine.errors import EngineError, GenerationError
from rlhf_engine.records import Prompt, SamplingSettings

# What the server says.


class Open(msgspec.Struct, tag=True):
    """Load the base policy and begin to answer; the number format is the answer."""

    call: int
    base: str
    dtype: str
    threads: int
    max_rows: int


class Load(msgspec.Struct, tag=True):
    """Put the version in this folder beside the others; its id is the answer."""

    call: int
    path: str


class Count(msgspec.Struct, tag=True):
    """How many tokens has this prompt?"""

    call: int
    prompt: Prompt
    max_tokens: int | None


class Stop(msgspec.Struct, tag=True):
    """End what is being answered."""

    call: int


class Retire(msgspec.Struct, tag=True):
    """Forget a version that no job uses."""

    version: str


class Submit(msgspec.Struct, tag=True):
    """Answer this; see `ServingEngine.submit`."""

    job: int
    versions: tuple[str, ...]
    prompt: Prompt
    seeds: tuple[int, ...]
    settings: SamplingSettings
    max_prompt_tokens: int


class Cancel(msgspec.Struct, tag=True):
    """End this job before its next token."""

    job: int


Call = Open | Load | Count | Stop
Asked = Call | Retire | Submit | Cancel

# What the engine's process says.


class Drawn(msgspec.Struct, tag=True):
    """One more token of a job, `after_s` seconds after the process heard of it."""

    job: int
    token: Token
    after_s: float


class RowEnded(msgspec.Struct, tag=True):
    """One answer of a job is complete."""

    job: int
    ended: Ended


class JobFailed(msgspec.Struct, tag=True):
    """A job is over before all of its answers are; `kind` names an EngineError."""

    job: int
    kind: str
    text: str


class Answered(msgspec.Struct, tag=True):
    """A call is done."""

    call: int
    value: str | int | None = None


class Refused(msgspec.Struct, tag=True):
    """A call failed; `kind` names an EngineError."""

    call: int
    kind: str
    text: str


class Pulse(msgspec.Struct, tag=True):
    """Said every second: whether the engine's thread is there, and how long it has been in its
    present round of work."""

    alive: bool
    round_s: float


Told = Drawn | RowEnded | JobFailed | Answered | Refused | Pulse


class Wire:
    """One end. Any thread may send, one receives."""

    def __init__(self, connection: Connection, hears: Any) -> None:
        """`hears` is the type of what the other side says: Asked or Told."""
        self._connection = connection
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(hears)

    def send(self, message: Asked | Told) -> None:
        """Hand a message over; waits while the other side takes none. OSError where it is gone."""
        self._connection.send_bytes(self._encoder.encode(message))

    def receive(self) -> Any:
        """The next message; EOFError or OSError where the other side is gone."""
        return self._decoder.decode(self._connection.recv_bytes())

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


def error_of(kind: str, text: str) -> EngineError:
    """The error that the engine's process told of."""
    found = getattr(errors, kind, None)
    if isinstance(found, type) and issubclass(found, EngineError):
        return found(text)
    return GenerationError(text)
