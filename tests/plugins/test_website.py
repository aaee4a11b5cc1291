"""The source for websites: what it brings, what it asks for, and where it does not go."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from plugins import website
from plugins.contract import (
    Checkpoint,
    Complete,
    Document,
    Item,
    Partial,
    Rejected,
    Removal,
    RetryLater,
    SourceError,
)
from plugins.html_text import read_html
from plugins.safe_http import SafeClient, is_public, retry_after
from plugins.testing import source_tests
from plugins.website import Website
from tests.plugins.site_server import Site, html

TestWebsite = source_tests(Website, Site)

INWARD = [
    *("127.0.0.1", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254"),
    *("100.64.0.1", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1%eth0", "fd00::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::a00:1"),
    *("2002:7f00:1::", "2001::1", "::7f00:1", "ff02::1"),
]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    place = Site(tmp_path)
    yield place
    place.close()


def source(site: Site, **options: Any) -> Website:
    return Website(Website.Settings.model_validate({**site.settings(), **options}))


def read(of: Website, cursor: Mapping[str, Any] | None = None) -> list[Item]:
    return list(of.items(cursor or {}))


def reasons(items: list[Item]) -> str:
    return "\n".join(item.reason for item in items if isinstance(item, Rejected))


@pytest.mark.parametrize("address", INWARD)
def test_an_inward_address_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:4700::1111", "64:ff9b::5db8:d70e"])
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]"])
def test_a_private_site_is_refused_unless_it_is_allowed(site: Site, host: str) -> None:
    site.settings()
    settings = Website.Settings(url=f"http://{host}:{site.port}/")
    with pytest.raises(SourceError, match="private_hosts"):
        read(Website(settings))
    assert site.asked == []


def test_a_name_that_turns_inward_after_the_first_look_is_refused(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.settings()
    looked: list[str] = []

    def rebinding(host: str, port: int, **_: Any) -> list[Any]:
        looked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    with pytest.raises(SourceError, match=r"has the address 127\.0\.0\.1"):
        read(Website(Website.Settings(url=f"http://docs.example.com:{site.port}/")))
    assert (looked, site.asked) == (["docs.example.com"], [])


def test_the_address_that_was_checked_is_the_one_connected_to(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.settings()
    looked: list[str] = []
    real = socket.getaddrinfo

    def local(host: str, port: int, *rest: Any, **named: Any) -> Any:
        looked.append(host)
        return real("127.0.0.1", port, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", local)
    url = f"http://wiki.internal:{site.port}/p0"
    fetched = SafeClient(["wiki.internal"], ["wiki.internal"]).get(url, {}, 1000)
    assert fetched.status == 200
    assert looked == ["wiki.internal", "127.0.0.1"]


@pytest.mark.parametrize(
    "target", ["http://localhost/admin", "http://169.254.169.254/meta", "file:///etc/passwd"]
)
def test_a_redirect_that_leaves_the_site_is_rejected(site: Site, target: str) -> None:
    site.redirects["/p9"] = target
    items = read(source(site))
    assert "leads to" in reasons(items)
    assert len([item for item in items if isinstance(item, Document)]) == 3


def test_a_redirect_to_an_allowed_host_with_a_private_address_is_rejected(site: Site) -> None:
    site.settings()
    site.redirects["/p9"] = f"http://localhost:{site.port}/p0"
    items = read(source(site, hosts=["localhost"]))
    assert "is not public" in reasons(items)


def test_a_redirect_within_the_site_keeps_the_listed_address_as_id(site: Site) -> None:
    site.redirects["/old"] = "/p0"
    found = {item.id: item.url for item in read(source(site)) if isinstance(item, Document)}
    assert found[site.url("/old")] == site.url("/p0")


def test_redirects_in_a_ring_end(site: Site) -> None:
    site.redirects["/ring"] = "/ring"
    assert "more than 5 redirects" in reasons(read(source(site)))


def test_robots_are_obeyed(site: Site) -> None:
    site.pages["/secret/plan"] = html("Plan", "Hush.")
    assert "robots.txt" in reasons(read(source(site)))
    assert "/secret/plan" not in [path for path, _ in site.asked]


def test_unchanged_pages_are_not_sent_again_and_gone_ones_are_removed(site: Site) -> None:
    reader = source(site)
    first = read(reader)
    assert isinstance(first[-1], Complete)
    site.change()
    del site.pages["/p2"]
    site.asked.clear()
    items = read(reader, first[-1].cursor)
    assert [type(item) for item in items] == [Document, Removal, Partial]
    assert ("/p0", 304) in site.asked
    assert items[1] == Removal(site.url("/p2"))


def test_a_sync_that_is_cut_off_goes_on_after_the_checkpoint(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(website, "PAGES_PER_CHECKPOINT", 2)
    reader = source(site)
    at = next(item.cursor for item in reader.items({}) if isinstance(item, Checkpoint))
    items = read(reader, at)
    assert [item.id for item in items if isinstance(item, Document)] == [site.url("/p2")]
    assert isinstance(items[-1], Complete)
    assert len(items[-1].cursor["pages"]) == 3


def test_a_page_that_cannot_be_read_any_more_is_removed(site: Site) -> None:
    reader = source(site)
    end = read(reader)[-1]
    assert isinstance(end, Complete)
    site.spoil()
    assert Removal(site.url("/p1")) in read(reader, end.cursor)


def test_too_many_pages_and_too_large_ones_are_told(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SourceError, match="most_pages"):
        read(source(site, most_pages=2))
    monkeypatch.setattr(website, "LARGEST_PAGE_BYTES", 10)
    with pytest.raises(SourceError, match="no page"):
        read(source(site))


def test_a_sitemap_with_entities_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaa">]><urlset><url><loc>&a;</loc></url></urlset>'
    monkeypatch.setattr(Site, "_xml", lambda *_: bomb)
    with pytest.raises(SourceError, match="is no sitemap"):
        read(source(site))


def test_the_check_counts_the_pages(site: Site) -> None:
    assert source(site).check() == "The sitemap lists 3 pages."


def test_a_date_may_say_when_to_come_back(site: Site) -> None:
    site.wait = "Fri, 01 Jan 2100 00:00:00 GMT"
    with pytest.raises(RetryLater) as raised:
        read(source(site))
    assert raised.value.seconds is not None
    assert raised.value.seconds > 1e9
    assert retry_after({"Retry-After": "soon"}) is None


def test_html_becomes_text_with_headings() -> None:
    page = (
        "<title>A &amp; B</title><nav>Menu</nav><main><h2>Leave</h2><p>You\nget <b>28</b> days."
        "<ul><li>One<li>Two</ul><script>x()</script></main><footer>End</footer>"
    )
    assert read_html(page) == ("A & B", "## Leave\n\nYou get 28 days.\n\n- One\n- Two")
