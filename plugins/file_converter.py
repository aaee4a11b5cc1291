"""Turns documents (PDF, Word, PowerPoint, HTML) into text with headings, by MarkItDown.

Converters hang and crash on broken files, so each runs in a process of its own with a time limit,
which is ended and begun anew where a file is too much for it.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue

MOST_CHARACTERS = 2_000_000
START_S = 60.0
_CODE = "from plugins.file_converter import main; main()"


class ConversionError(Exception):
    """Why a file cannot be converted; the others go on."""


@dataclass(frozen=True, slots=True)
class Converted:
    """A file's title ("" where it names none) and its text in Markdown."""

    title: str
    text: str


class Converter:
    """A process that converts one file after another, each within `limit_s` seconds."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._process: subprocess.Popen[str] | None = None
        self._answers: Queue[str] = Queue()

    def convert(self, path: Path) -> Converted:
        """The file's text; ConversionError where there is none to be had."""
        process = self._running()
        try:
            assert process.stdin is not None
            process.stdin.write(json.dumps(str(path)) + "\n")
            process.stdin.flush()
            answer = self._answers.get(timeout=self.limit_s)
        except Empty:
            self.close()
            raise ConversionError(f"takes longer than {self.limit_s:g} s to convert") from None
        except OSError:
            answer = ""
        if not answer:
            self.close()
            raise ConversionError("made the converter crash, or needs more memory than it may use")
        found = json.loads(answer)
        if "error" in found:
            raise ConversionError(found["error"])
        return Converted(found["title"], found["text"])

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()

    def _running(self) -> subprocess.Popen[str]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.close()
        self._answers = Queue()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CODE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        threading.Thread(
            target=_pass_on, args=(self._process, self._answers), daemon=True
        ).start()
        try:
            ready = self._answers.get(timeout=START_S)
        except Empty:
            ready = ""
        if not ready:
            self.close()
            raise ConversionError("cannot be converted: the converter does not start")
        return self._process


def _pass_on(process: subprocess.Popen[str], answers: Queue[str]) -> None:
    """Each line that the process writes, and "" when it has ended."""
    assert process.stdout is not None
    with contextlib.suppress(ValueError, OSError):
        for line in process.stdout:
            answers.put(line)
    answers.put("")


def main() -> None:
    """The process: a path in JSON on each line of stdin, an answer in JSON on each of stdout."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for answer in _answers():
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _answers() -> Iterator[dict[str, str]]:
    warnings.simplefilter("ignore")
    logging.disable()
    from markitdown import MarkItDown

    converter = MarkItDown(enable_plugins=False)
    yield {"ready": ""}
    for line in sys.stdin:
        try:
            yield _converted(converter, Path(json.loads(line)))
        # Whatever a broken file makes of a library is said of that file.
        except Exception as error:  # noqa: BLE001
            told = " ".join(str(error).split())[:300]
            yield {"error": f"cannot be converted ({type(error).__name__}: {told})"}


def _converted(converter: object, path: Path) -> dict[str, str]:
    from markitdown import MarkItDown, StreamInfo

    assert isinstance(converter, MarkItDown)
    info = StreamInfo(extension=path.suffix.casefold(), filename=path.name)
    found = converter.convert_stream(io.BytesIO(path.read_bytes()), stream_info=info)
    text = _tidy(found.markdown)
    if not text:
        return {"error": "has no text (of scanned pages, only a text layer is read)"}
    if len(text) > MOST_CHARACTERS:
        return {"error": f"has {len(text)} characters of text; at most {MOST_CHARACTERS} are read"}
    return {"title": " ".join((found.title or "").split())[:300], "text": text}


def _tidy(text: str) -> str:
    """Slides become sections; pictures and characters that are no text are left out."""
    text = re.sub(r"<!-- Slide number: (\d+) -->", r"\n## Slide \1\n", text)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text)
    text = text.replace("\x00", "").replace("\x0c", "\n\n")
    text = text.encode("utf-8", "replace").decode()
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip() for line in text.split("\n"))).strip()
