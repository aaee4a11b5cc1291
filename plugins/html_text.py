"""The title and the text of an HTML page, with its headings as Markdown headings."""

from __future__ import annotations

import re
from html.parser import HTMLParser

LEFT_OUT = {
    *("script", "style", "noscript", "template", "nav", "footer", "aside", "form", "svg"),
    *("iframe", "object", "select", "button", "title"),
}
BLOCKS = {
    *("p", "div", "section", "article", "main", "header", "ul", "ol", "li", "dl", "dt", "dd"),
    *("table", "tr", "blockquote", "pre", "figure", "figcaption", "br", "hr", "body"),
}
HEADINGS = {f"h{level}": level for level in range(1, 7)}


class _Reader(HTMLParser):
    """Collects text; where the page has <main>, only what stands in it is kept."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.all: list[str] = []
        self.main: list[str] = []
        self.title: list[str] = []
        self.left_out: list[str] = []
        self.in_main = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        if tag in LEFT_OUT:
            self.left_out.append(tag)
        elif tag == "main":
            self.in_main += 1
        if tag in HEADINGS:
            self._add("\n\n" + "#" * HEADINGS[tag] + " ")
        elif tag == "li":
            self._add("\n- ")
        elif tag in ("td", "th"):
            self._add(" ")
        elif tag in BLOCKS:
            self._add("\n\n" if tag != "br" else "\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in self.left_out:
            while self.left_out.pop() != tag:
                pass
        elif tag == "main":
            self.in_main = max(0, self.in_main - 1)
        if tag in HEADINGS or (tag in BLOCKS and tag not in ("li", "tr")):
            self._add("\n\n")

    def handle_data(self, data: str) -> None:
        if "title" in self.left_out and "svg" not in self.left_out:
            self.title.append(data)
        self._add(re.sub(r"\s+", " ", data))

    def _add(self, text: str) -> None:
        if self.left_out:
            return
        self.all.append(text)
        if self.in_main:
            self.main.append(text)


def read_html(html: str) -> tuple[str, str]:
    """The title (empty where there is none) and the text of a page."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    text = _tidy("".join(reader.main)) or _tidy("".join(reader.all))
    heading = re.search(r"^#+ (.+)$", text, re.MULTILINE)
    return " ".join("".join(reader.title).split()) or (heading[1] if heading else ""), text


def _tidy(text: str) -> str:
    lines = [" ".join(line.split()) for line in text.split("\n")]
    kept = [line for line in lines if line not in ("-", *("#" * n for n in HEADINGS.values()))]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip()
