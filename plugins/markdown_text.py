"""Turns a Markdown page into sections of plain text, for markdown_folder.

Front matter, comments and template tags go; links keep their words; lists and tables
stay readable; HTML keeps its text. Which section is a question is markdown_folder's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any

import yaml
from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode

_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.*?)\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)

# Alternatives are tried in this order at each place, so code keeps its braces. An open fence or
# comment without its end runs to the end of the file, as in CommonMark; that also keeps
# the search linear.
_MARKUP = re.compile(
    r"""
    (?P<code>^[ \t]*(?P<fence>`{3,}|~{3,}).*?(?:^[ \t]*(?P=fence)|\Z))
    | <!--.*?(?:-->|\Z)
    | \{\#.{0,2000}?\#\}
    | \{%-?\s*comment\s*-?%\}.*?(?:\{%-?\s*endcomment\s*-?%\}|\Z)
    | \{%(?P<tag>(?:[^%{]|%(?!\})|\{(?!%)){0,2000})%\}
    | \{\{[^{}]{0,2000}\}\}
    """,
    re.DOTALL | re.MULTILINE | re.VERBOSE,
)
_TAG_WORDS = re.compile(r"""-?\s*\w+\s+(["'])(?P<words>[^"'/\\.]+)\1""")
_HEADING_ID = re.compile(r"\s*\{[:#][^{}]*\}\s*$")
_HTML_LINE = re.compile(r"\s*</?[a-zA-Z][^>]*>")

_markdown = MarkdownIt("commonmark").enable("table")


_HTML_BREAK = re.compile(
    r"p|div|br|tr|table|ul|ol|dl|dt|dd|section|article|summary|details|button|h[1-6]"
)
_LINK_IN_HTML = re.compile(r"!?\[([^\[\]]{1,300})\]\([^()\s]{0,500}\)")


@dataclass(frozen=True, slots=True)
class Section:
    """The text from one heading to the next; `level` 0 and no heading before the first."""

    level: int
    heading: str
    text: str


@dataclass(frozen=True, slots=True)
class Page:
    """A Markdown page: its front matter (empty where there is none that can be read)."""

    front_matter: dict[str, Any]
    sections: tuple[Section, ...]

    @property
    def text(self) -> str:
        """The whole page, headings as lines of `#`, a blank line between blocks."""
        parts: list[str] = []
        for section in self.sections:
            if section.heading:
                parts.append(f"{'#' * section.level} {section.heading}")
            if section.text:
                parts.append(section.text)
        return "\n\n".join(parts)


def read_page(source: str) -> Page:
    """Read a Markdown page; anything is a page, broken markup becomes text."""
    source = source.replace("\r\n", "\n").replace("\r", "\n")
    front_matter, body = _split_front_matter(source)
    tree = SyntaxTreeNode(_markdown.parse(_MARKUP.sub(_without_markup, body)))
    return Page(front_matter, tuple(_sections(tree)))


def _split_front_matter(source: str) -> tuple[dict[str, Any], str]:
    found = _FRONT_MATTER.match(source)
    if not found:
        return {}, source
    try:
        values = yaml.safe_load(found[1])
    except (yaml.YAMLError, ValueError, RecursionError):
        values = None
    return (values if isinstance(values, dict) else {}), source[found.end() :]


def _without_markup(found: re.Match[str]) -> str:
    if found["code"]:
        return found["code"]
    # A tag that stands in a sentence takes its words with it: {% channel "travel" %}. Within a
    # link's brackets, or as the path of a file, its argument is an address.
    in_link = found.string.endswith("](", 0, found.start())
    words = None if in_link else _TAG_WORDS.match(found["tag"] or "")
    return words["words"] if words else ""


def _sections(tree: SyntaxTreeNode) -> Iterator[Section]:
    level, heading = 0, ""
    blocks: list[str] = []
    for node in tree.children:
        if node.type == "heading":
            if heading or blocks:
                yield Section(level, heading, "\n\n".join(blocks))
            level, heading, blocks = int(node.tag[1]), _heading_text(node), []
        else:
            block = _block_text(node)
            if block:
                blocks.append(block)
    if heading or blocks:
        yield Section(level, heading, "\n\n".join(blocks))


def _heading_text(node: SyntaxTreeNode) -> str:
    words = " ".join(_inline_text(node).split())
    return _HEADING_ID.sub("", words)


def _block_text(node: SyntaxTreeNode) -> str:
    """One block as plain text; "" for a rule or an empty block."""
    match node.type:
        case "bullet_list" | "ordered_list":
            return _list_text(node)
        case "table":
            return "\n".join(_row_text(row) for part in node.children for row in part.children)
        case "fence":
            return _indented(node.content)
        case "code_block":
            # HTML indented for looks is code to Markdown, but text to its readers.
            html = _HTML_LINE.match(node.content)
            return _html_text(node.content) if html else _indented(node.content)
        case "html_block":
            return _html_text(node.content)
        case "inline" | "paragraph" | "heading":
            return _inline_text(node).strip()
        case _:
            blocks = (_block_text(child) for child in node.children)
            return "\n\n".join(block for block in blocks if block)


def _list_text(node: SyntaxTreeNode) -> str:
    ordered = node.type == "ordered_list"
    number = int(node.attrs.get("start", 1)) if ordered else 0
    lines = []
    for item in node.children:
        blocks = [block for block in map(_block_text, item.children) if block]
        marker = f"{number}. " if ordered else "- "
        number += 1
        if blocks:
            lines.append(marker + "\n".join(blocks).replace("\n", "\n" + " " * len(marker)))
    return "\n".join(lines)


def _row_text(row: SyntaxTreeNode) -> str:
    return " | ".join(_inline_text(cell).strip() for cell in row.children)


def _indented(code: str) -> str:
    # Without the indent a comment line of a script would read as a heading.
    return "\n".join(f"    {line}".rstrip() for line in code.strip("\n").splitlines())


def _inline_text(node: SyntaxTreeNode) -> str:
    match node.type:
        case "text" | "code_inline":
            return node.content
        case "softbreak":
            return " "
        case "hardbreak":
            return "\n"
        case "html_inline":
            return "\n" if node.content.lower().startswith("<br") else ""
        case "image":
            return ""
        case _:
            inner = "".join(_inline_text(child) for child in node.children)
            return inner.removeprefix("mailto:") if node.type == "link" else inner


class _TextOfHtml(HTMLParser):
    """Collects what a reader of the page would see."""

    _unseen = frozenset(("script", "style", "svg", "template"))

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002 - HTMLParser's signature
        if tag in self._unseen:
            self._hidden += 1
        elif _HTML_BREAK.fullmatch(tag):
            self.parts.append("\n")
        elif tag == "li":
            self.parts.append("\n- ")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._unseen:
            self._hidden = max(0, self._hidden - 1)
        elif _HTML_BREAK.fullmatch(tag):
            self.parts.append("\n")
        elif tag in ("td", "th"):
            self.parts.append(" | ")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.parts.append(re.sub(r"\s+", " ", data))


def _html_text(html: str) -> str:
    parser = _TextOfHtml()
    # Generators read Markdown inside HTML; a reader at least should not meet its brackets.
    parser.feed(_LINK_IN_HTML.sub(r"\1", html).replace("**", ""))
    parser.close()
    lines = (" ".join(line.split()).strip("| ") for line in "".join(parser.parts).split("\n"))
    return "\n".join(line for line in lines if line and line != "-")
