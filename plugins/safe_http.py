"""HTTP for sources that follow addresses which others wrote, so that none leads inwards.

A host name is resolved once for a connection, every address it answers must be public, and
the connection goes to the address that was checked: a name whose address changes between check
and use gains nothing. TLS still verifies the host name. Proxies of the environment are not used.
"""

from __future__ import annotations

import email.utils
import socket
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpcore
import httpx

from plugins.contract import RetryLater, SecretError, SourceError

AGENT = "heed"
MOST_REDIRECTS = 5
LONGEST_WAIT_S = 30.0
THROTTLED = (429, 502, 503, 504)
NAT64 = IPv6Network("64:ff9b::/96")
TRANSLATED = (
    *(IPv6Network("::/96"), IPv6Network("64:ff9b:1::/48")),
    *(IPv6Network("2001::/32"), IPv6Network("2002::/16")),
)
"""Ranges whose addresses carry an IPv4 address that a gateway may unpack."""


class RefusedError(SourceError):
    """This address must not be asked; others of the same place may be."""


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the internet at large, whatever it is wrapped in."""
    found: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address):
        if any(found in network for network in TRANSLATED):
            return False
        if found in NAT64:
            found = IPv4Address(int(found) & 0xFFFFFFFF)
        else:
            found = found.ipv4_mapped or found
    return found.is_global and not found.is_multicast


def addresses_of(host: str, port: int, private_hosts: Collection[str]) -> list[str]:
    """The addresses of a host, all of them public unless the operator allows the host."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise httpcore.ConnectError(f"{host} has no address ({error})") from error
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    inward = [address for address in addresses if not is_public(address)]
    if inward and host.casefold() not in private_hosts:
        raise RefusedError(
            f"{host} has the address {inward[0]}, which is not public; if it is meant to be "
            "read, add the host to the option private_hosts"
        )
    return addresses


class _CheckedBackend(httpcore.SyncBackend):
    def __init__(self, private_hosts: Collection[str]) -> None:
        self.private_hosts = private_hosts

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        failure: Exception | None = None
        for address in addresses_of(host, port, self.private_hosts):
            try:
                return super().connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure or httpcore.ConnectError(f"{host} has no address")


class _CheckedTransport(httpx.HTTPTransport):
    def __init__(self, private_hosts: Collection[str]) -> None:
        super().__init__(trust_env=False)
        self._pool = httpcore.ConnectionPool(
            ssl_context=httpx.create_ssl_context(trust_env=False),
            max_connections=4,
            network_backend=_CheckedBackend(private_hosts),
        )


@dataclass(frozen=True)
class Fetched:
    """The final answer to a request: `body` is decompressed, and no longer than asked for."""

    status: int
    url: str
    headers: httpx.Headers
    body: bytes


class SafeClient:
    """Fetches from one host, and from those that the operator names beside it."""

    def __init__(self, hosts: Collection[str], private_hosts: Collection[str]) -> None:
        self.hosts = {host.casefold() for host in (*hosts, *private_hosts)}
        private = {host.casefold() for host in private_hosts}
        self._client = httpx.Client(
            transport=_CheckedTransport(private),
            headers={"User-Agent": AGENT},
            timeout=10.0,
            trust_env=False,
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def get(self, url: str, headers: Mapping[str, str], most_bytes: int) -> Fetched:
        """Follow redirects within the hosts and answer the page.

        Raises RefusedError for an address that must not be asked, RetryLater where the place
        is throttled or out.
        """
        for _ in range(MOST_REDIRECTS + 1):
            self._admit(url)
            fetched = self._one(url, headers, most_bytes)
            target = fetched.headers.get("Location")
            if fetched.status not in (301, 302, 303, 307, 308) or not target:
                return fetched
            try:
                url = urljoin(url, target)
            except ValueError as error:
                raise RefusedError(f"leads to {target!r}, which is no address") from error
        raise RefusedError(f"leads through more than {MOST_REDIRECTS} redirects")

    def _admit(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            known = (parts.hostname or "").casefold() in self.hosts
        except ValueError as error:
            raise RefusedError(f"leads to {url!r}, which is no address") from error
        if parts.scheme not in ("http", "https") or parts.username is not None:
            raise RefusedError(f"leads to {url!r}; only http and https are followed, without names")
        if not known:
            raise RefusedError(
                f"leads to another host, {parts.hostname}; if it belongs to the place, "
                "add it to the option hosts"
            )

    def _one(self, url: str, headers: Mapping[str, str], most_bytes: int) -> Fetched:
        try:
            with self._client.stream("GET", url, headers=dict(headers)) as answer:
                if answer.status_code in THROTTLED:
                    raise RetryLater(
                        retry_after(answer.headers), f"{url} answers {answer.status_code}"
                    )
                body = _body(answer, most_bytes)
                return Fetched(answer.status_code, str(answer.url), answer.headers, body)
        except httpx.InvalidURL as error:
            raise RefusedError(f"leads to {url!r}, which is no address ({error})") from error
        except httpx.DecodingError as error:
            raise RefusedError(f"is badly compressed ({error})") from error
        except httpx.HTTPError as error:
            raise RetryLater(None, f"{url} cannot be read ({error or type(error)})") from error


def _body(answer: httpx.Response, most_bytes: int) -> bytes:
    chunks, size, end = [], 0, time.monotonic() + LONGEST_WAIT_S
    for chunk in answer.iter_bytes(65_536):
        chunks.append(chunk)
        size += len(chunk)
        if size > most_bytes:
            raise RefusedError(f"is longer than {most_bytes} bytes")
        if time.monotonic() > end:
            raise RetryLater(None, f"{answer.url} takes longer than {LONGEST_WAIT_S:.0f} s")
    return b"".join(chunks)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that Retry-After asks for, which may be a number or a date; None if unreadable."""
    value = headers.get("Retry-After", "")
    if value.isdecimal() and value.isascii():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def must_answer(fetched: Fetched, what: str) -> Fetched:
    """The answer if it is 200; raises SecretError or SourceError otherwise."""
    if fetched.status in (401, 403):
        raise SecretError(f"{what} may not be read: {fetched.url} answers {fetched.status}")
    if fetched.status >= 500:
        raise RetryLater(None, f"{fetched.url} answers {fetched.status}")
    if fetched.status != 200:
        raise SourceError(f"{what} is not there: {fetched.url} answers {fetched.status}")
    return fetched
