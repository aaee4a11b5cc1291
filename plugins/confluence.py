"""A data source for the pages of Confluence, Cloud or Data Center. Needs heed[confluence].

All pages of the spaces are listed with their versions and restrictions at each sync; the text is
asked for only of those that changed. Who may read a page follows its restrictions and those of
the pages above it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, Field, SecretStr

from plugins.contract import (
    Checkpoint,
    Complete,
    Cursor,
    DataSource,
    Document,
    Item,
    OptionsError,
    Partial,
    Rejected,
    Removal,
    RetryLater,
    SecretError,
    SourceError,
)
from plugins.hookspecs import hookimpl
from plugins.html_text import read_html
from plugins.safe_http import THROTTLED, retry_after

PAGES_AT_ONCE = 50
PAGES_PER_CHECKPOINT = 50
TIMEOUT_S = 20
LISTED = (
    "version,ancestors,restrictions.read.restrictions.user,restrictions.read.restrictions.group"
)


def _web_address(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme in ("http", "https") and parts.hostname and parts.username is None:
        return value.rstrip("/")
    raise ValueError('give an address like "https://example.atlassian.net/wiki"')


def _space_keys(value: list[str]) -> list[str]:
    keys = [key.strip() for key in value if key.strip()]
    if keys and all(key.lstrip("~").replace("-", "").replace("_", "").isalnum() for key in keys):
        return keys
    raise ValueError('give the keys of spaces, like "HR", one a line')


@dataclass(frozen=True, slots=True)
class _Page:
    """A listed page; `allowed` is None where all may read it but for the pages above it."""

    id: str
    title: str
    version: str
    updated: datetime | None
    link: str
    above: tuple[str, ...]
    allowed: frozenset[str] | None


class Confluence:
    """The pages of some Confluence spaces, for those who may read them there."""

    name = "confluence"

    class Settings(BaseModel):
        url: Annotated[str, AfterValidator(_web_address)] = Field(
            description="Its address, such as https://example.atlassian.net/wiki."
        )
        spaces: Annotated[list[str], AfterValidator(_space_keys)] = Field(
            description="The keys of the spaces, one a line."
        )
        user: str = Field(
            default="",
            description="The e-mail address that the token belongs to; Cloud asks for it.",
        )
        token: SecretStr = Field(description="An API token (Cloud) or personal access token.")
        readers: list[str] = Field(
            default=["everyone"],
            description='Who may read pages without restrictions: "everyone", "group:NAME".',
        )
        most_pages: int = Field(default=20_000, ge=1, description="More than this are an error.")

    def __init__(self, settings: Settings) -> None:
        if importlib.util.find_spec("atlassian") is None:
            raise OptionsError(
                "to read Confluence, install what it needs: pip install 'heed[confluence]'"
            )
        self.settings = settings
        self._made: Any = None

    def check(self) -> str:
        """Ask for one page of the spaces."""
        found = self._get("rest/api/content/search", {"cql": self._query(), "limit": 1})
        return "The spaces can be read." if found.get("results") else "The spaces hold no page."

    def items(self, cursor: Cursor) -> Iterator[Item]:
        """Yield the pages that changed, and removals of those that are gone.

        Raises SourceError where the spaces cannot be listed or hold no page that can be read,
        SecretError where the token is not taken, RetryLater where Confluence is throttled or out.
        """
        known: dict[str, str] = dict(cursor.get("pages", {}))
        full = bool(cursor.get("full", not known))
        after = cursor.get("after", "")
        pages = self._pages()
        waiting = [identity for identity in sorted(pages) if identity > after]
        for number, identity in enumerate(waiting, 1):
            yield from self._page(pages[identity], pages, known)
            if number % PAGES_PER_CHECKPOINT == 0:
                yield Checkpoint({"pages": dict(known), "full": full, "after": identity})
        for identity in sorted(known.keys() - pages.keys()):
            del known[identity]
            yield Removal(identity)
        if not known:
            raise SourceError(
                f"no page of the spaces {', '.join(self.settings.spaces)} can be read, so nothing "
                "was changed; check the option spaces, and what was rejected"
            )
        end = {"pages": known}
        yield Complete(end) if full else Partial(end)

    def _page(
        self, page: _Page, pages: Mapping[str, _Page], known: dict[str, str]
    ) -> Iterator[Item]:
        readers = self._readers(page, pages)
        stamp = _stamp(page, readers)
        if known.get(page.id) == stamp:
            return
        fault = "" if readers else "nobody may read it, or only people who cannot be named here"
        text = self._text(page) if readers else ""
        if not fault and not text:
            fault = "has no text"
        if fault:
            # A page that can no longer be read is shown no longer.
            if known.pop(page.id, None) is not None:
                yield Removal(page.id)
            yield Rejected(f"page {page.id}", fault)
            return
        known[page.id] = stamp
        yield Document(page.id, page.title, text, page.link, page.updated, readers)

    def _readers(self, page: _Page, pages: Mapping[str, _Page]) -> tuple[str, ...]:
        """Who may read the page and all pages above it; none where that cannot be said. What all
        of them name counts: that a person is of a group is not known here."""
        layers = [page.allowed]
        for identity in page.above:
            # A page above that may not be listed is restricted to others.
            layers.append(pages[identity].allowed if identity in pages else frozenset())
        named = [layer for layer in layers if layer is not None]
        if not named:
            return tuple(self.settings.readers)
        return tuple(sorted(frozenset.intersection(*named)))

    def _text(self, page: _Page) -> str:
        found = self._get(f"rest/api/content/{page.id}", {"expand": "body.view"}, missing={})
        body = found.get("body", {}).get("view", {}).get("value", "")
        return read_html(str(body))[1].replace("\x00", "")

    def _pages(self) -> dict[str, _Page]:
        """Every page of the spaces by its id."""
        pages: dict[str, _Page] = {}
        asked = {"cql": self._query(), "limit": PAGES_AT_ONCE, "expand": LISTED}
        found = self._get("rest/api/content/search", asked)
        while True:
            for entry in found.get("results", ()):
                page = self._read(entry)
                pages[page.id] = page
            if len(pages) > self.settings.most_pages:
                raise SourceError(
                    f"the spaces hold more than {self.settings.most_pages} pages; raise most_pages"
                )
            following = found.get("_links", {}).get("next")
            if not following or not found.get("results"):
                return pages
            found = self._get(str(following).lstrip("/"))

    def _query(self) -> str:
        keys = ",".join(f'"{key}"' for key in self.settings.spaces)
        return f"type=page and space in ({keys}) order by created asc"

    def _read(self, entry: Mapping[str, Any]) -> _Page:
        try:
            version = entry["version"]
            given = entry.get("restrictions", {}).get("read", {}).get("restrictions", {})
            users, groups = (given.get(kind, {}).get("results", ()) for kind in ("user", "group"))
            people = (user.get("email") or user.get("username") for user in users)
            named = {f"person:{name}" for name in people if name}
            named |= {f"group:{group['name']}" for group in groups}
            link = entry.get("_links", {}).get("webui", "")
            return _Page(
                str(entry["id"]),
                " ".join(str(entry["title"]).split()),
                str(version["number"]),
                _moment(version.get("when")),
                f"{self.settings.url}{link}" if link else self.settings.url,
                tuple(str(above["id"]) for above in entry.get("ancestors", ())),
                frozenset(named) if users or groups else None,
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise SourceError(
                f"{self.settings.url} lists pages in another form than Confluence's ({error!r})"
            ) from error

    def _get(
        self, path: str, params: Mapping[str, Any] | None = None, missing: Any = None
    ) -> dict[str, Any]:
        """What Confluence answers; `missing` where there is no such page."""
        import requests

        try:
            answer = self._client().get(path, params=params, advanced_mode=True)
        except requests.RequestException as error:
            raise RetryLater(None, f"{self.settings.url} cannot be reached ({error})") from error
        if answer.status_code in THROTTLED:
            told = f"{self.settings.url} answers {answer.status_code}"
            raise RetryLater(retry_after(answer.headers), told)
        if answer.status_code in (401, 403):
            raise SecretError(
                f"{self.settings.url} does not take the token ({answer.status_code}); "
                "check the options user and token"
            )
        if answer.status_code == 404 and missing is not None:
            return dict(missing)
        if answer.status_code != 200:
            raise SourceError(
                f"{self.settings.url} answers {answer.status_code} to {path.partition('?')[0]}; "
                "check the options url and spaces"
            )
        try:
            found = answer.json()
        except ValueError as error:
            raise SourceError(
                f"{self.settings.url} answers no JSON; check that url is that of Confluence itself"
            ) from error
        if not isinstance(found, dict):
            raise SourceError(f"{self.settings.url} answers in another form than Confluence's")
        return found

    def _client(self) -> Any:
        if self._made is None:
            import requests
            from atlassian.rest_client import AtlassianRestAPI

            session = requests.Session()
            # Proxies and passwords of the environment are not this source's.
            session.trust_env = False
            token, user = self.settings.token.get_secret_value(), self.settings.user
            secret = {"username": user, "password": token} if user else {"token": token}
            # It is the host that waits and tries again.
            self._made = AtlassianRestAPI(
                self.settings.url,
                timeout=TIMEOUT_S,
                session=session,
                retry_with_header=False,
                **secret,
            )
        return self._made


def _stamp(page: _Page, readers: tuple[str, ...]) -> str:
    told = json.dumps([page.version, page.title, page.link, readers])
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _moment(value: Any) -> datetime | None:
    try:
        found = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return found if found.tzinfo else None


@hookimpl
def heed_data_sources() -> Sequence[type[DataSource]]:
    """One source."""
    return (Confluence,)
