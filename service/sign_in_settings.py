"""The settings of signing in: local accounts, and a company's own OpenID provider."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from service.errors import SettingsError
from service.roles import Role

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class SignInSettings(BaseModel):
    """How people sign in."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    passwords: bool = True
    """Whether people sign in with a name and a password that Heed keeps (as argon2)."""
    session_days: int = Field(default=30, ge=1, le=365)
    """Days after which everybody has to sign in again."""
    idle_days: int = Field(default=7, ge=1, le=365)
    """Days without a visit after which one has to sign in again."""


class OidcSettings(BaseModel):
    """The OpenID Connect provider that people may sign in with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    issuer: str | None = None
    """The provider's address, exactly as it calls itself (https); empty for none. Register
    Heed there with the address https://YOUR-HEED/api/sign-in/provider/callback."""
    client_id: str = ""
    """The name under which the provider knows Heed."""
    client_secret: SecretStr | None = None
    """Heed's secret at the provider; best given by the variable or by `client_secret_file`."""
    client_secret_file: Path | None = None
    """File that holds the secret."""
    scopes: tuple[str, ...] = ("openid", "profile", "email")
    """What Heed asks the provider for."""
    role_claim: str | None = None
    """The claim that lists a person's groups, such as groups or realm_access.roles; empty where
    roles are given in Heed."""
    roles: dict[str, Role] = {}
    """The role of each group, as {"heed-admins" = "admin"}; at each sign-in the highest counts."""
    default_role: Role | None = "employee"
    """The role of people in none of these groups; empty keeps them out."""
    email_domains: tuple[str, ...] = ()
    """Only people whose checked e-mail address ends in one of these; empty for everybody there."""
    label: str = "Sign in with your company account"
    """What the button says."""

    @field_validator("issuer")
    @classmethod
    def _check_issuer(cls, issuer: str | None) -> str | None:
        if not issuer:
            return None
        check_address(issuer)
        return issuer

    @field_validator("default_role", mode="before")
    @classmethod
    def _empty_is_none(cls, role: object) -> object:
        return role or None

    @field_validator("email_domains")
    @classmethod
    def _lower(cls, domains: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(domain.lower().removeprefix("@") for domain in domains)

    @model_validator(mode="after")
    def _check(self) -> OidcSettings:
        if self.issuer and not self.client_id:
            raise ValueError("issuer is set without client_id; set both")
        if self.issuer and "openid" not in self.scopes:
            raise ValueError('scopes must hold "openid"')
        return self

    def secret(self) -> str | None:
        """The secret; SettingsError where its file cannot be read."""
        if self.client_secret_file is None:
            return self.client_secret.get_secret_value() if self.client_secret else None
        try:
            return self.client_secret_file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise SettingsError(f"setting oidc.client_secret_file: {error}") from error


def check_address(url: str) -> None:
    """ValueError unless it is https, or http on this machine, without a name or password."""
    parts = urlsplit(url)
    secure = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)
    if not secure or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise ValueError("must be https:// with a host (http:// only on this machine)")
