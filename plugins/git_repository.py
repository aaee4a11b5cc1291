"""A data source for the text files of a Git repository: Markdown, HTML, plain text.

What changed is found by comparing the newest commit's tree with that of the last sync, so files
that history deleted are removed, and nothing is read again that is the same. Needs heed[git].
"""

from __future__ import annotations

import importlib.util
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote, urlsplit

from pydantic import AfterValidator, BaseModel, Field, SecretStr

from plugins.contract import (
    Checkpoint,
    Complete,
    Cursor,
    DataSource,
    Document,
    GoldPair,
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
from plugins.markdown_pages import page_items

if TYPE_CHECKING:
    from dulwich.repo import BaseRepo

FILES_PER_CHECKPOINT = 200
LARGEST_FILE_BYTES = 2_000_000
TIMEOUT_S = 20.0
_PLAIN = (".adoc", ".org", ".rst", ".txt")
_READ = (".md", ".markdown", ".htm", ".html", *_PLAIN)
_STATUS = re.compile(r"\b([45]\d\d)\b")


def _web_address(value: str) -> str:
    parts = urlsplit(value)
    named = parts.scheme in ("http", "https") and parts.hostname and not parts.password
    if not value or named:
        return value
    raise ValueError('give an address like "https://git.example.com/handbook.git", and no token')


def _pattern(value: str) -> str:
    if value and not value.startswith("/") and ".." not in PurePosixPath(value).parts:
        return value
    raise ValueError('give a pattern within the repository, like "**/*.md" or "docs/*.md"')


class GitRepository:
    """The text files of a branch: Markdown, HTML and plain text."""

    name = "git_repository"

    class Settings(BaseModel):
        url: Annotated[str, AfterValidator(_web_address)] = Field(
            default="", description="The repository, like https://git.example.com/handbook.git."
        )
        user: str = Field(default="git", description="Whom the token belongs to, where it matters.")
        token: SecretStr | None = Field(default=None, description="A token that may read it.")
        path: Path | None = Field(
            default=None, description="In the place of url: a repository on this machine."
        )
        branch: str = Field(default="", description="The branch; the repository's own without.")
        pattern: Annotated[str, AfterValidator(_pattern)] = Field(
            default="**/*.md", description="Which files are read."
        )
        questions: bool = Field(default=True, description="Make gold pairs of headings that ask.")
        link: str = Field(
            default="", description="A file's page on the web, with {path} in it, for citations."
        )

    def __init__(self, settings: Settings) -> None:
        if importlib.util.find_spec("dulwich") is None:
            raise OptionsError("to read Git, install what it needs: pip install 'heed[git]'")
        if (settings.path is None) == (not settings.url):
            raise OptionsError("give either the option url or the option path")
        if settings.link and "{path}" not in settings.link:
            raise OptionsError('the option link needs "{path}" where a file\'s path stands')
        self.settings = settings
        self._matches = re.compile(_expression(settings.pattern))

    def check(self) -> str:
        """Ask for the branch's newest commit, and name it."""
        with self._told():
            return f"The newest commit is {self._newest().decode()[:12]}."

    def items(self, cursor: Cursor) -> Iterator[Item]:
        """Yield the files that changed since the last sync's commit, and removals.

        Raises SourceError where the repository or branch is not there or has no file that can be
        read, SecretError where the token is not taken, RetryLater where the server is throttled.
        """
        known: dict[str, list[str]] = dict(cursor.get("files", {}))
        full = bool(cursor.get("full", not known))
        with self._told():
            newest = self._newest()
        if cursor.get("commit") == newest.decode():
            yield Partial(cursor)
            return
        with self._repository(newest) as repository:
            yield from self._changes(repository, newest, known, full)
        if not known:
            raise SourceError(
                f"no file that matches {self.settings.pattern!r} can be read, so nothing was "
                "changed; check the options pattern and branch, and what was rejected"
            )
        end = {"files": known, "commit": newest.decode()}
        yield Complete(end) if full else Partial(end)

    def _changes(
        self, repository: BaseRepo, commit: bytes, known: dict[str, list[str]], full: bool
    ) -> Iterator[Item]:
        files = self._files(repository, commit)
        changed = [path for path in files if known.get(path, [""])[0] != files[path].decode()]
        for number, path in enumerate(changed, 1):
            yield from self._file(repository, path, files[path], known)
            if number % FILES_PER_CHECKPOINT == 0:
                yield Checkpoint({"files": dict(known), "full": full})
        for path in sorted(known.keys() - files.keys()):
            yield from map(Removal, (path, *known.pop(path)[1:]))

    def _files(self, repository: BaseRepo, commit: bytes) -> dict[str, bytes]:
        """The files to read with the ids of their contents, in the order of their paths."""
        from dulwich.object_store import iter_tree_contents

        found: dict[str, bytes] = {}
        tree: Any = repository[commit]
        for entry in iter_tree_contents(repository.object_store, tree.tree):
            path = entry.path.decode("utf-8", "backslashreplace")
            regular = entry.mode & 0o170000 == 0o100000
            hidden = any(part.startswith(".") for part in PurePosixPath(path).parts)
            if regular and not hidden and self._matches.fullmatch(path):
                found[path] = entry.sha
        return dict(sorted(found.items()))

    def _file(
        self, repository: BaseRepo, path: str, content: bytes, known: dict[str, list[str]]
    ) -> Iterator[Item]:
        before = known.pop(path, [""])
        blob: Any = repository[content]
        items = list(self._items_of(path, blob.data))
        ids = [item.id for item in items if isinstance(item, GoldPair)]
        usable = any(isinstance(item, Document) for item in items)
        gone = [one for one in before[1:] if one not in ids]
        if usable:
            known[path] = [content.decode(), *ids]
        elif before[0]:
            gone.append(path)
        yield from items
        yield from map(Removal, gone)

    def _items_of(self, path: str, data: bytes) -> Iterator[Item]:
        ending = PurePosixPath(path).suffix.casefold()
        if ending not in _READ:
            yield Rejected(path, f"ends in none of {', '.join(_READ)}; narrow the option pattern")
            return
        if len(data) > LARGEST_FILE_BYTES:
            yield Rejected(path, f"has {len(data)} bytes; at most {LARGEST_FILE_BYTES} are read")
            return
        try:
            text = data.decode("utf-8-sig").replace("\x00", "")
        except UnicodeDecodeError as error:
            yield Rejected(path, f"is not UTF-8 at byte {error.start}; save it as UTF-8")
            return
        url = self.settings.link.replace("{path}", quote(path)) or None
        if ending in (".md", ".markdown"):
            yield from page_items(path, text, self.settings.questions, url)
            return
        title, text = ("", text.strip()) if ending in _PLAIN else read_html(text)
        if not text:
            yield Rejected(path, "has no text")
            return
        yield Document(path, title or _title(path), text, url)

    def _newest(self) -> bytes:
        """The id of the branch's newest commit."""
        from dulwich.repo import Repo

        if self.settings.path is not None:
            with Repo(str(self.settings.path)) as repository:
                refs: Any = repository.get_refs()
        else:
            client, path = self._client()
            refs = client.get_refs(path.encode()).refs
        wanted = f"refs/heads/{self.settings.branch}" if self.settings.branch else "HEAD"
        found = refs.get(wanted.encode())
        if not found:
            names = [name.decode() for name in refs if name.startswith(b"refs/heads/")]
            there = ", ".join(name.removeprefix("refs/heads/") for name in sorted(names)[:10])
            raise SourceError(
                f"the repository has no branch {self.settings.branch or 'of its own'}, "
                f"but {there or 'none at all'}; check the option branch"
            )
        return bytes(found)

    @contextmanager
    def _repository(self, commit: bytes) -> Iterator[BaseRepo]:
        """The repository with this commit's files; one from the web is brought without history
        into a folder that is removed afterwards."""
        from dulwich.repo import Repo

        with self._told():
            if self.settings.path is not None:
                with Repo(str(self.settings.path)) as local:
                    yield local
                return
            with (
                tempfile.TemporaryDirectory(prefix="heed-git-") as folder,
                Repo.init_bare(folder) as fetched,
            ):
                client, path = self._client()
                client.fetch(
                    path.encode(),
                    fetched,
                    determine_wants=lambda _refs, **_more: [commit],
                    depth=1,
                )
                yield fetched

    def _client(self) -> tuple[Any, str]:
        import urllib3
        from dulwich.client import HttpGitClient

        pool = urllib3.PoolManager(timeout=TIMEOUT_S, retries=False, cert_reqs="CERT_REQUIRED")
        parts, token = urlsplit(self.settings.url), self.settings.token
        client = HttpGitClient(
            f"{parts.scheme}://{parts.netloc}",
            pool_manager=pool,
            username=self.settings.user if token else None,
            password=token.get_secret_value() if token else None,
        )
        return client, parts.path

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Dulwich's errors as those of the contract."""
        import urllib3.exceptions
        from dulwich.client import HTTPUnauthorized
        from dulwich.errors import GitProtocolError, HangupException, NotGitRepository

        where = self.settings.url or str(self.settings.path)
        try:
            yield
        except HTTPUnauthorized as error:
            raise SecretError(f"{where} does not take the token; check the option token") from error
        except NotGitRepository as error:
            raise SourceError(
                f"{where} is no Git repository, or may not be seen; check the source's options"
            ) from error
        except urllib3.exceptions.LocationValueError as error:
            raise SourceError(f"{where} is no address ({error})") from error
        except (HangupException, urllib3.exceptions.HTTPError) as error:
            raise RetryLater(None, f"{where} cannot be reached ({error})") from error
        except GitProtocolError as error:
            if isinstance(error.__cause__ or error.__context__, urllib3.exceptions.HTTPError):
                raise RetryLater(None, f"{where} cannot be reached ({error})") from error
            raise _refusal(where, str(error)) from error
        except OSError as error:
            raise SourceError(f"{where} cannot be read ({error})") from error


def _refusal(where: str, told: str) -> SourceError:
    found = _STATUS.search(told.replace(where, ""))
    status = int(found[1]) if found else 0
    if status == 403:
        return SecretError(f"{where} may not be read with this token (403)")
    if status == 429 or status >= 500:
        return RetryLater(None, f"{where} answers {status}")
    return SourceError(f"{where} cannot be read: {told[:300]}")


def _expression(pattern: str) -> str:
    """A pattern in which * stays within a folder and ** does not, as a regular expression."""
    parts = []
    for piece in re.split(r"(\*\*/|\*\*|\*|\?)", pattern):
        known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
        parts.append(known.get(piece, re.escape(piece)))
    return "".join(parts)


def _title(path: str) -> str:
    return re.sub(r"[-_]+", " ", PurePosixPath(path).stem)


@hookimpl
def heed_data_sources() -> Sequence[type[DataSource]]:
    """One source."""
    return (GitRepository,)
