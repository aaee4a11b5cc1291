"""Signing in with a company's OpenID Connect provider: authorization code flow with PKCE.

What the provider says of a person (a signed ID token, completed by its userinfo) becomes
claims here; what they mean in Heed, people and roles, is sign_in_company.py's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx2
import structlog
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.httpx_client import OAuth2Client
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from service.errors import ProviderError
from service.secret_tokens import fresh_token
from service.sign_in_company import Claims, Departure, IdentityProvider
from service.sign_in_settings import OidcSettings, check_address

TIMEOUT_S = 10.0
FRESH_S = 3600.0
LEEWAY_S = 60
"""How far the provider's clock may be from ours."""

# Signed with a key that only the provider has; never "none", never one that we know too.
ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"]
ENDPOINTS = ("authorization_endpoint", "token_endpoint", "jwks_uri")

log = structlog.get_logger(__name__)


class Provider(IdentityProvider):
    """The configured provider. Only it, and the addresses it names, are asked over the network.

    Threads may share it."""

    def __init__(self, settings: OidcSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._about: tuple[float, dict[str, Any]] | None = None
        self._keys: tuple[float, KeySet] | None = None

    def depart(self, redirect_uri: str) -> Departure:
        """Begin; ProviderError where the provider cannot be reached."""
        about = self._discovered()
        state, nonce, verifier = fresh_token(), fresh_token(), fresh_token()
        with self._client(about, redirect_uri) as client:
            url, _state = client.create_authorization_url(
                about["authorization_endpoint"],
                state=state,
                nonce=nonce,
                code_verifier=verifier,
                response_type="code",
            )
        return Departure(str(url), state, nonce, verifier)

    def arrive(self, code: str, redirect_uri: str, nonce: str, verifier: str) -> Claims:
        """What the ID token and the userinfo say; ProviderError where they do not hold."""
        about = self._discovered()
        try:
            with self._client(about, redirect_uri) as client:
                token = client.fetch_token(
                    about["token_endpoint"], code=code, code_verifier=verifier
                )
                claims = self._checked(about, token, nonce)
                return self._completed(client, about, claims)
        except (httpx2.HTTPError, AuthlibBaseError, JoseError, ValueError, KeyError) as error:
            # The text may hold what the provider sent; its kind says enough.
            raise ProviderError(f"the provider's answer was refused: {_kind(error)}") from None

    def _client(self, about: Mapping[str, Any], redirect_uri: str) -> OAuth2Client:
        secret = self._settings.secret()
        return OAuth2Client(
            client_id=self._settings.client_id,
            client_secret=secret,
            scope=" ".join(self._settings.scopes),
            redirect_uri=redirect_uri,
            code_challenge_method="S256",
            token_endpoint_auth_method=_auth_method(about, secret),
            timeout=TIMEOUT_S,
            follow_redirects=False,
            trust_env=False,
        )

    def _discovered(self) -> dict[str, Any]:
        with self._lock:
            if self._about is None or time.monotonic() - self._about[0] > FRESH_S:
                self._about = (time.monotonic(), self._discover())
            return self._about[1]

    def _discover(self) -> dict[str, Any]:
        issuer = self._settings.issuer or ""
        url = issuer.rstrip("/") + "/.well-known/openid-configuration"
        about = _fetch(url)
        if about.get("issuer") != issuer:
            raise ProviderError(
                f"the provider calls itself {str(about.get('issuer'))[:200]!r}, oidc.issuer is "
                f"{issuer!r}; they must be equal"
            )
        for name in ENDPOINTS:
            try:
                check_endpoint(str(about.get(name, "")))
            except ValueError as error:
                raise ProviderError(f"the provider's {name} {error}") from error
        return about

    def _checked(self, about: Mapping[str, Any], token: Any, nonce: str) -> dict[str, Any]:
        raw = token["id_token"]
        decoded = self._decoded(about, raw)
        claims = CodeIDToken(
            decoded.claims,
            decoded.header,
            {
                "iss": {"essential": True, "value": self._settings.issuer},
                "aud": {"essential": True, "value": self._settings.client_id},
            },
            {
                "nonce": nonce,
                "client_id": self._settings.client_id,
                "access_token": token.get("access_token"),
            },
        )
        claims.validate(leeway=LEEWAY_S)
        return dict(claims)

    def _decoded(self, about: Mapping[str, Any], raw: str) -> jwt.Token:
        """The signed token; with keys fetched anew where it is signed with one not known yet."""
        try:
            return jwt.decode(raw, self._key_set(about), algorithms=ALGORITHMS)
        except (JoseError, ValueError):
            with self._lock:
                fresh = self._keys is not None and time.monotonic() - self._keys[0] < TIMEOUT_S
                self._keys = self._keys if fresh else None
            return jwt.decode(raw, self._key_set(about), algorithms=ALGORITHMS)

    def _key_set(self, about: Mapping[str, Any]) -> KeySet:
        with self._lock:
            if self._keys is None or time.monotonic() - self._keys[0] > FRESH_S:
                keys = KeySet.import_key_set(_fetch(about["jwks_uri"]))  # type: ignore[arg-type]
                self._keys = (time.monotonic(), keys)
            return self._keys[1]

    def _completed(
        self, client: OAuth2Client, about: Mapping[str, Any], claims: dict[str, Any]
    ) -> Claims:
        """With what the ID token leaves to the userinfo endpoint."""
        url = about.get("userinfo_endpoint")
        wanted = {"name", "email", (self._settings.role_claim or "name").split(".")[0]}
        if not url or wanted <= claims.keys():
            return claims
        check_endpoint(url)
        answer = client.get(url)
        answer.raise_for_status()
        more = answer.json()
        if not isinstance(more, dict) or more.get("sub") != claims["sub"]:
            raise ValueError("userinfo is of somebody else")
        return {**more, **claims}


def check_endpoint(url: str) -> None:
    """ValueError unless an address that the provider names is https, or on this machine."""
    check_address(url.split("?")[0])


def _fetch(url: str) -> dict[str, Any]:
    try:
        with httpx2.Client(timeout=TIMEOUT_S, follow_redirects=False, trust_env=False) as client:
            response = client.get(url)
            response.raise_for_status()
            found = response.json()
    except (httpx2.HTTPError, ValueError) as error:
        host = urlsplit(url).hostname
        raise ProviderError(f"the provider {host} cannot be reached: {_kind(error)}") from error
    if not isinstance(found, dict):
        raise ProviderError("the provider's answer is no JSON object")
    return found


def _auth_method(about: Mapping[str, Any], secret: str | None) -> str:
    if secret is None:
        return "none"
    offered = about.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
    return "client_secret_basic" if "client_secret_basic" in offered else "client_secret_post"


def _kind(error: Exception) -> str:
    return str(getattr(error, "error", None) or type(error).__name__)
