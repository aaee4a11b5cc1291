"""A data source for a website, by its sitemap.

Pages are asked for anew only where they changed (ETag, Last-Modified), so what is known of
them is the cursor, and after the first sync only changes and removals are brought. Addresses
within the network are refused (safe_http.py).
"""

from __future__ import annotations

import gzip
import io
import re
import time
import zlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Annotated, Any
from urllib.parse import unquote, urldefrag, urljoin, urlsplit
from urllib.robotparser import RobotFileParser
from xml.etree.ElementTree import ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring
from pydantic import AfterValidator, BaseModel, Field

from plugins.contract import (
    Checkpoint,
    Complete,
    Cursor,
    DataSource,
    Document,
    Item,
    Partial,
    Rejected,
    Removal,
    SourceError,
)
from plugins.hookspecs import hookimpl
from plugins.html_text import read_html
from plugins.safe_http import AGENT, Fetched, RefusedError, SafeClient, must_answer

PAGES_PER_CHECKPOINT = 50
LARGEST_PAGE_BYTES = 5_000_000
LARGEST_SITEMAP_BYTES = 50_000_000
MOST_SITEMAPS = 100
LONGEST_DELAY_S = 10.0
READABLE = ("text/html", "application/xhtml+xml", "text/plain", "text/markdown")


def _web_address(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme in ("http", "https") and parts.hostname and parts.username is None:
        return value
    raise ValueError('give an address like "https://handbook.example.com"')


class Website:
    """The pages that a website lists in its sitemap."""

    name = "website"

    class Settings(BaseModel):
        url: Annotated[str, AfterValidator(_web_address)] = Field(
            description="The site's address, or that of its sitemap (.xml, .xml.gz)."
        )
        most_pages: int = Field(
            default=5000, ge=1, description="More pages than this are an error."
        )
        hosts: list[str] = Field(
            default=[], description="Other hosts that belong to the site, one a line."
        )
        private_hosts: list[str] = Field(
            default=[], description="Hosts that may be read though they are within your network."
        )

    def __init__(self, settings: Settings) -> None:
        self.url, self.most_pages = settings.url, settings.most_pages
        host = urlsplit(settings.url).hostname or ""
        self.client = SafeClient((host, *settings.hosts), settings.private_hosts)
        self.robots: dict[str, RobotFileParser] = {}

    def check(self) -> str:
        """Read the sitemap, and say how many pages it lists."""
        self.robots = {}
        return f"The sitemap lists {len(self._pages())} pages."

    def items(self, cursor: Cursor) -> Iterator[Item]:
        """Yield the pages that changed, and removals of those that are gone.

        Raises SourceError where the sitemap cannot be read or lists no page, RetryLater where
        the site is throttled or out.
        """
        self.robots = {}
        known: dict[str, Any] = dict(cursor.get("pages", {}))
        full = bool(cursor.get("full", not known))
        after = cursor.get("after", "")
        pages = self._pages()
        for number, url in enumerate((url for url in pages if url > after), 1):
            yield from self._page(url, pages[url], known)
            if number % PAGES_PER_CHECKPOINT == 0:
                yield Checkpoint({"pages": dict(known), "full": full, "after": url})
        for url in sorted(known.keys() - pages.keys()):
            del known[url]
            yield Removal(url)
        if not known:
            raise SourceError(
                f"no page that {self.url} lists can be read, so nothing was changed; "
                "look at what was rejected"
            )
        end = {"pages": known}
        yield Complete(end) if full else Partial(end)

    def _page(self, url: str, modified: str, known: dict[str, Any]) -> Iterator[Item]:
        before = known.get(url, {})
        asked = {"If-None-Match": before.get("etag"), "If-Modified-Since": before.get("modified")}
        try:
            self._ask_robots(url)
            headers = {name: value for name, value in asked.items() if value}
            fetched = self.client.get(url, headers, LARGEST_PAGE_BYTES)
            if fetched.status == 304 and before:
                return
            document = _document(url, modified, fetched)
        except RefusedError as error:
            # A page that can no longer be read is shown no longer.
            if known.pop(url, None) is not None:
                yield Removal(url)
            yield Rejected(url[:500], str(error))
            return
        known[url] = {
            "etag": fetched.headers.get("ETag"),
            "modified": fetched.headers.get("Last-Modified"),
        }
        yield document

    def _ask_robots(self, url: str) -> None:
        rules = self._rules(url)
        if not rules.can_fetch(AGENT, url):
            raise RefusedError("is not allowed by the site's robots.txt")
        time.sleep(min(float(rules.crawl_delay(AGENT) or 0), LONGEST_DELAY_S))

    def _rules(self, url: str) -> RobotFileParser:
        """What robots.txt of the page's host allows; without one, everything."""
        place = urljoin(url, "/robots.txt")
        if place not in self.robots:
            rules = RobotFileParser()
            fetched = self.client.get(place, {}, 500_000)
            if fetched.status in (404, 410):
                rules.parse([])
            else:
                text = must_answer(fetched, "robots.txt").body.decode("utf-8", "replace")
                rules.parse(text.splitlines())
            self.robots[place] = rules
        return self.robots[place]

    def _pages(self) -> dict[str, str]:
        """The address of each page with its lastmod (or ""), in order of the addresses."""
        path = urlsplit(self.url).path
        if path.endswith((".xml", ".xml.gz")):
            waiting = [self.url]
        else:
            listed = self._rules(self.url).site_maps()
            waiting = list(listed or [urljoin(self.url, "/sitemap.xml")])
        pages: dict[str, str] = {}
        seen: set[str] = set()
        while waiting:
            place = waiting.pop(0)
            if place in seen:
                continue
            seen.add(place)
            if len(seen) > MOST_SITEMAPS:
                raise SourceError(f"{self.url} has more than {MOST_SITEMAPS} sitemaps; name one")
            others, found = self._sitemap(place)
            waiting += others
            pages.update(found)
            if len(pages) > self.most_pages:
                raise SourceError(
                    f"{self.url} lists more than {self.most_pages} pages; raise most_pages"
                )
        if not pages:
            raise SourceError(f"the sitemap of {self.url} lists no page, so nothing was changed")
        return dict(sorted(pages.items()))

    def _sitemap(self, place: str) -> tuple[list[str], dict[str, str]]:
        fetched = must_answer(self.client.get(place, {}, LARGEST_SITEMAP_BYTES), "the sitemap")
        try:
            root = fromstring(_unpacked(fetched.body), forbid_dtd=True)
        except (ParseError, DefusedXmlException, OSError, EOFError, zlib.error) as error:
            raise SourceError(f"{place} is no sitemap ({error}); check the option url") from error
        entries = {}
        for entry in root:
            fields = {child.tag.rpartition("}")[2]: (child.text or "").strip() for child in entry}
            if fields.get("loc"):
                entries[urldefrag(urljoin(place, fields["loc"]))[0]] = fields.get("lastmod", "")
        if root.tag.rpartition("}")[2] == "sitemapindex":
            return list(entries), {}
        return [], entries


def _unpacked(body: bytes) -> bytes:
    if body[:2] != b"\x1f\x8b":
        return body
    with gzip.GzipFile(fileobj=io.BytesIO(body)) as packed:
        unpacked = packed.read(LARGEST_SITEMAP_BYTES + 1)
    if len(unpacked) > LARGEST_SITEMAP_BYTES:
        raise SourceError(f"a sitemap is longer than {LARGEST_SITEMAP_BYTES} bytes")
    return unpacked


def _document(url: str, modified: str, fetched: Fetched) -> Document:
    if fetched.status >= 500:
        must_answer(fetched, "the page")
    if fetched.status != 200:
        raise RefusedError(f"answers {fetched.status}")
    kind = fetched.headers.get("Content-Type", "text/html").partition(";")[0].strip().casefold()
    if kind not in READABLE:
        raise RefusedError(f"is of the type {kind}; text and HTML are read")
    content = _decoded(fetched)
    title, text = read_html(content) if "html" in kind else ("", content.strip())
    if not text:
        raise RefusedError("has no text")
    name = unquote(urlsplit(url).path.rstrip("/").rpartition("/")[2])
    return Document(
        url,
        title or re.sub(r"[-_]+", " ", name) or url,
        text.replace("\x00", ""),
        url=fetched.url,
        updated=_moment(modified, fetched),
    )


def _decoded(fetched: Fetched) -> str:
    named = re.search(r"charset=[\"']?([\w.:-]+)", fetched.headers.get("Content-Type", ""))
    inside = re.search(rb"<meta[^>]+charset=[\"']?([\w.:-]+)", fetched.body[:2048])
    charset = named[1] if named else inside[1].decode() if inside else "utf-8"
    try:
        return fetched.body.decode(charset, "replace")
    except LookupError:
        return fetched.body.decode("utf-8", "replace")


def _moment(modified: str, fetched: Fetched) -> datetime | None:
    """When the page was changed, by the sitemap or else by the server."""
    try:
        if modified:
            found = datetime.fromisoformat(modified)
        else:
            found = parsedate_to_datetime(fetched.headers.get("Last-Modified", ""))
    except (ValueError, OverflowError):
        return None
    return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)


@hookimpl
def heed_data_sources() -> Sequence[type[DataSource]]:
    """One source."""
    return (Website,)
