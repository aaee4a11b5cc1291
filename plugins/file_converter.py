"""Turns documents into text with headings: PDF, Word and PowerPoint by MarkItDown.

Converters hang and crash on broken files, so they run in a process of their own with a time limit,
which is ended and begun anew where a file is too much for it. HTML and plain text are read here.
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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from plugins.html_text import read_html

MOST_CHARACTERS = 2_000_000
START_S = 60.0
CONVERTED = (".docx", ".pdf", ".pptx")
HTML_ENDINGS = (".htm", ".html")
_CODE = "from plugins.file_converter import main; main()"


class ConversionError(Exception):
    """Why a file cannot be converted; the others go on."""


class ConversionInterruptedError(ConversionError):
    """A conversion that was ended or died; on a quieter machine it may end well."""


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
        """The file's text; ConversionError where there is none to be had, of the kind
        ConversionInterruptedError where another try may have it."""
        if path.suffix.casefold() not in CONVERTED:
            return _checked(*_read_text(path))
        process = self._running()
        try:
            assert process.stdin is not None
            process.stdin.write(json.dumps(str(path)) + "\n")
            process.stdin.flush()
            answer = self._answers.get(timeout=self.limit_s)
        except Empty:
            self.close()
            raise ConversionInterruptedError(
                f"takes longer than {self.limit_s:g} s to convert"
            ) from None
        except OSError:
            answer = ""
        if not answer:
            self.close()
            raise ConversionInterruptedError(
                "made the converter crash, or needs more memory than it may use"
            )
        found = json.loads(answer)
        if "error" in found:
            raise ConversionError(found["error"])
        return _checked(found["title"], found["text"])

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
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and code
            [sys.executable, "-c", _CODE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        threading.Thread(target=_pass_on, args=(self._process, self._answers), daemon=True).start()
        try:
            ready = self._answers.get(timeout=START_S)
        except Empty:
            ready = ""
        if not ready:
            self.close()
            raise ConversionInterruptedError("cannot be converted: the converter does not start")
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
    converters = _converters()
    yield {"ready": ""}
    for line in sys.stdin:
        try:
            yield _converted(converters, Path(json.loads(line)))
        # Whatever a broken file makes of a library is said of that file.
        except Exception as error:  # noqa: BLE001
            told = " ".join(str(error).split())[:300]
            yield {"error": f"cannot be converted ({type(error).__name__}: {told})"}


def _converters() -> Mapping[str, Any]:
    """One for each ending; MarkItDown itself would take what is broken for plain text."""
    from markitdown.converters import DocxConverter, PdfConverter, PptxConverter

    return {".docx": DocxConverter(), ".pdf": PdfConverter(), ".pptx": PptxConverter()}


def _converted(converters: Mapping[str, Any], path: Path) -> dict[str, str]:
    from markitdown import StreamInfo

    ending = path.suffix.casefold()
    info = StreamInfo(extension=ending, filename=path.name)
    found = converters[ending].convert(io.BytesIO(path.read_bytes()), info)
    return {"title": found.title or "", "text": found.markdown}


def _read_text(path: Path) -> tuple[str, str]:
    """The title and text of HTML and plain text; ConversionError where it is none."""
    text = _decoded(path.read_bytes())
    return read_html(text) if path.suffix.casefold() in HTML_ENDINGS else ("", text)


def _checked(title: str, text: str) -> Converted:
    text = _tidy(text)
    if not text:
        raise ConversionError("has no text (of scanned pages, only a text layer is read)")
    if len(text) > MOST_CHARACTERS:
        raise ConversionError(
            f"has {len(text)} characters of text; at most {MOST_CHARACTERS} are read"
        )
    return Converted(" ".join(title.split())[:300], text)


def _decoded(data: bytes) -> str:
    """UTF-8 where it is that, else what it looks like."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        from charset_normalizer import from_bytes

        found = from_bytes(data).best()
        if found is None:
            raise ConversionError("is no text in any known encoding; save it as UTF-8") from None
        return str(found)


def _tidy(text: str) -> str:
    """Slides become sections; pictures and characters that are no text are left out."""
    text = re.sub(r"<!-- Slide number: (\d+) -->", r"\n## Slide \1\n", text)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text)
    text = text.replace("\x00", "").replace("\x0c", "\n\n")
    text = text.encode("utf-8", "replace").decode()
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip() for line in text.split("\n"))).strip()
