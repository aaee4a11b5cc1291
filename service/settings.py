"""The settings: one typed table, read once at start and passed in.

Values come from `heed.toml` in the working folder (or the file HEED_CONFIG names),
and from environment variables HEED_<NAME>, which win. No setting names code to run:
plugins are named by their entry point.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from service.errors import SettingsError
from service.plugin_limits import PluginLimits
from service.roles import Visitors
from service.sign_in_settings import LOOPBACK, OidcSettings, SignInSettings


class PluginUse(BaseModel):
    """One use of a plugin: an observer, a redactor or a reranker."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")
    """Its own name, shown in reports and figures."""
    plugin: str
    """What the plugin calls itself, as `heed plugins list` shows it."""
    options: dict[str, Any] = {}
    """What the plugin asks for."""


class SourceSettings(PluginUse):
    """One data source."""

    purpose: Literal["training", "evaluation"] = "training"
    """Whether its gold pairs may be trained on, or are kept for evaluation only."""


class SignalSettings(PluginUse):
    """One reward signal."""

    weight: float = Field(default=0.25, ge=0, le=1)
    """How much of the reward a full reading of 1 makes."""
    cap: float = Field(default=1.0, gt=0, le=1)
    """The most that this signal adds to an answer's reward, or takes from it."""

    @property
    def most(self) -> float:
        """The most that it can make of a reward."""
        return min(self.weight, self.cap)

    def counted(self, reading: float) -> float:
        """The reading as far as it counts: what is beyond the cap is cut off."""
        if self.weight * abs(reading) <= self.cap:
            return reading
        return math.copysign(self.cap / self.weight, reading)


class RetrievalSettings(BaseModel):
    """How passages are found."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    embeddings: Path | None = None
    """Folder of a sentence-embedding model with safetensors, such as all-MiniLM-L6-v2: passages
    are found by meaning too. Without one, by full text alone."""
    similarity_bar: float = Field(default=0.5, ge=-1, le=1)
    """Cosine from which a passage is near enough to a question to be answered from, where it does
    not hold enough of its words (`answers.source_bar`)."""


class AnswerSettings(BaseModel):
    """How questions are answered."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    temperature: float = Field(default=0.7, ge=0, le=2)
    """Randomness of answers; 0 always takes the likeliest token."""
    max_new_tokens: int = Field(default=96, ge=4, le=4096)
    """Longest answer, in tokens."""
    max_prompt_tokens: int = Field(default=384, ge=64, le=32768)
    """Longest prompt, in tokens; older exchanges and then passages are left out above it."""
    passages: int = Field(default=2, ge=0, le=20)
    """How many passages stand in the prompt."""
    source_bar: float = Field(default=0.1, ge=0, le=1)
    """Share of a question, by the rarity of its words, that a passage must hold to be answered
    from; where none does, people read that no good source was found."""
    history_turns: int = Field(default=1, ge=0, le=20)
    """How many earlier exchanges of the conversation stand in the prompt."""
    max_waiting: int = Field(default=32, ge=1, le=10_000)
    """How many questions may wait for the engine before new ones are refused, however quick."""
    slowest_first_token: float = Field(default=4.0, ge=1, le=1000)
    """New questions are refused while their first token would take more than so many times what
    is normal here (which is learned); a high value lets them wait instead, up to max_waiting."""
    max_per_person: int = Field(default=2, ge=1, le=10_000)
    """How many questions of one person may wait or be answered at once."""
    longest_wait_s: float = Field(default=60.0, gt=0, le=3600)
    """Seconds after which a question that nothing was answered to yet is dropped."""
    reconnect_s: float = Field(default=10.0, ge=0, le=3600)
    """Seconds that an answer goes on for after its page lost the connection or was closed."""
    drain_s: float = Field(default=20.0, ge=0, le=3600)
    """Seconds that answers which have begun may take to end when the server stops."""
    compare_share: float = Field(default=0.2, ge=0, le=1)
    """Share of the page's questions that get two answers to choose from."""
    canary_share: float = Field(default=0.0, ge=0, le=1)
    """Share of conversations that the candidate answers while there is one; not comparisons."""
    canary_in_comparisons: bool = False
    """Whether the second of two answers comes from the candidate while there is one."""


class VotingSettings(BaseModel):
    """How people are asked to compare answers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    comparisons_a_day: int = Field(default=10, ge=0, le=10_000)
    """How often a day (UTC) a person's own questions may get two answers to choose from, so that
    nobody tires of it; votes that they give on the voting page count."""
    undo_s: float = Field(default=10.0, ge=0, le=3600)
    """Seconds in which a vote can be undone with one key; training leaves younger ones out, and
    both versions are shown after it."""
    share_questions: bool = False
    """Let reviewers vote on pairs of other people's questions; off, only their owners do. Pairs
    of simulated people are for everybody."""
    overlap_share: float = Field(default=0.2, ge=0, le=1)
    """Share of pairs that two people vote on, so that their agreement is known."""
    check_share: float = Field(default=0.1, ge=0, le=0.5)
    """Share of the voting page's pairs whose answer is known; they tell how carefully somebody
    votes and are never trained on."""
    scored_pairs: int = Field(default=200, ge=0, le=10_000)
    """How many waiting pairs a training run reads at its end with the reward model's heads, so
    that those they disagree on are voted on first."""


def half_the_cores() -> int:
    """Half of this machine's cores, one at least."""
    return max(1, (os.cpu_count() or 1) // 2)


class TrainingSettings(BaseModel):
    """When and how training runs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schedule: str | None = "0 2 * * *"
    """Cron expression (UTC) of the check for enough new evidence; empty for never."""
    min_new_comparisons: int = Field(default=50, ge=1)
    """New comparisons since the last snapshot that make a scheduled run worth it."""
    approval_required: bool = False
    """Ask a person before a candidate that passed the gate goes live."""
    held_out_percent: int = Field(default=10, ge=1, le=50)
    """Share of questions kept out of training for evaluation."""
    threads: int = Field(default_factory=half_the_cores, ge=1, le=1024)
    """CPU threads for training; the other half is for answering. Threads beyond the cores that
    are free wait for one another, and make both several times slower."""
    niceness: int = Field(default=15, ge=0, le=19)
    """Priority of the training process; 19 yields most to answering, which works at 2."""
    plan: dict[str, Any] = {}
    """Values that replace defaults of the engine's RunPlan, by its field names."""


class VllmSettings(BaseModel):
    """The vLLM servers that answer, in place of the built-in engine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    urls: tuple[str, ...] = ()
    """Addresses of the vLLM servers, such as http://gpu-1:8000; empty for the built-in engine."""
    model: str = "base"
    """Name under which they serve the base policy (their --served-model-name)."""
    api_key: SecretStr | None = None
    """Key that they ask for; best given by the variable or by `api_key_file`."""
    api_key_file: Path | None = None
    """File that holds the key."""
    policies_path: str | None = None
    """Heed's folder of policy versions as the servers see it; none where it is the same path."""
    max_loras: int = Field(default=4, ge=3, le=1000)
    """How many versions are loaded at once, at most the servers' --max-loras: the live one, the
    previous one, which is kept for a rollback, and a new one need three."""
    max_active: int = Field(default=64, ge=1, le=10_000)
    """How many questions are on the servers at once; more wait."""
    timeout_s: float = Field(default=60, ge=1, le=3600)
    """Longest wait for a server's next word, in seconds."""

    @field_validator("urls")
    @classmethod
    def _check_urls(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        for url in urls:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
                raise ValueError(
                    "each must be http:// or https:// with a host, without a name or password"
                )
        return urls

    def key(self) -> str | None:
        """The key; SettingsError where its file cannot be read."""
        if self.api_key_file is None:
            return self.api_key.get_secret_value() if self.api_key else None
        try:
            return self.api_key_file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise SettingsError(f"setting vllm.api_key_file: {error}") from error


class Settings(BaseSettings):
    """All settings of one deployment."""

    model_config = SettingsConfigDict(
        env_prefix="HEED_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    home: Path = Path("heed-data")
    """Folder of everything Heed writes: database, runs, policies, cached base policy."""
    database_url: str | None = None
    """SQLAlchemy URL (sqlite:///... or postgresql+psycopg://...); default a file in `home`."""
    host: str = "127.0.0.1"
    """Address the server listens on."""
    port: int = Field(default=8321, ge=0, le=65535)
    """Port the server listens on; 0 takes a free one."""
    allowed_hosts: tuple[str, ...] = ()
    """Further names under which the server may be asked, as behind a reverse proxy."""
    public_url: str | None = None
    """Address under which people open Heed, such as https://heed.company.example: stands in the
    links that Heed makes, and with https the session cookie is for https alone."""
    base_policy: str = "HuggingFaceTB/SmolLM2-135M-Instruct"
    """Hub name or folder of the causal language model that everything starts from."""
    base_revision: str | None = None
    """Commit of the hub repository; None takes its main branch."""
    threads: int = Field(default_factory=half_the_cores, ge=1, le=1024)
    """CPU threads for answering."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the base weights; auto measures which is faster here."""
    visitors: Visitors = "none"
    """Role of everybody who opens the page without signing in; "none" asks them to sign in. Any
    other value is for one person at their own machine: only allowed on a loopback address."""
    sources: tuple[SourceSettings, ...] = ()
    """The data sources."""
    source_folders: tuple[Path, ...] = ()
    """Folders that sources made on the page may read, beside the folder `sources` in `home`."""
    signals: tuple[SignalSettings, ...] = ()
    """The reward signals."""
    observers: tuple[PluginUse, ...] = ()
    """Plugins that are told of promotions and finished runs."""
    redactors: tuple[PluginUse, ...] = ()
    """Plugins that take out of questions and answers what must not be learnt, one after another,
    before a snapshot is frozen and in exports."""
    rerankers: tuple[PluginUse, ...] = Field(default=(), max_length=1)
    """The plugin that reorders the passages found for a question; one at most."""
    plugin_folder: Path | None = None
    """Folder whose Python files are plugins; default the folder `plugins` in `home`."""
    plugins_loaded: tuple[str, ...] | None = None
    """The only plugins that are looked at, as `heed plugins list` names them; default all."""
    plugin_limits: PluginLimits = PluginLimits()
    sync_schedule: str | None = "15 * * * *"
    """Cron expression (UTC) of the sync of all sources; empty for never."""
    cleanup_schedule: str | None = "30 3 * * *"
    """Cron expression (UTC) of clean-up: old job rows, sign-ins and links that are over, and unused
    run checkpoints."""
    answers: AnswerSettings = AnswerSettings()
    retrieval: RetrievalSettings = RetrievalSettings()
    voting: VotingSettings = VotingSettings()
    training: TrainingSettings = TrainingSettings()
    vllm: VllmSettings = VllmSettings()
    sign_in: SignInSettings = SignInSettings()
    oidc: OidcSettings = OidcSettings()
    log_format: Literal["json", "text"] = "text"
    """Log lines as JSON, or readable."""

    @field_validator("public_url")
    @classmethod
    def _check_public_url(cls, url: str | None) -> str | None:
        parts = urlsplit(url or "http://unset")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path > "/":
            raise ValueError("must be http:// or https:// with a host, and no path")
        return url.rstrip("/") if url else None

    @model_validator(mode="after")
    def _check(self) -> Settings:
        if self.visitors != "none" and self.host not in LOOPBACK:
            raise ValueError(
                f"visitors is {self.visitors!r} with host {self.host!r}; "
                'set it to "none", or host to 127.0.0.1'
            )
        if self.visitors == "none" and not self.sign_in.passwords and not self.oidc.issuer:
            raise ValueError(
                "sign_in.passwords is false and oidc.issuer is not set, so nobody could sign in; "
                "set one of them"
            )
        for kind in ("sources", "signals", "observers", "redactors"):
            names = [entry.name for entry in getattr(self, kind)]
            doubled = sorted({name for name in names if names.count(name) > 1})
            if doubled:
                raise ValueError(f"{kind} holds the name {doubled[0]!r} twice; names must differ")
        return self

    @property
    def database(self) -> str:
        """The database's SQLAlchemy URL."""
        return self.database_url or f"sqlite:///{(self.home / 'heed.db').resolve()}"

    @property
    def runs(self) -> Path:
        """Folder of training runs."""
        return self.home / "runs"

    @property
    def policies(self) -> Path:
        """Folder of PolicyVersion folders."""
        return self.home / "policies"

    @property
    def plugins_folder(self) -> Path:
        """Folder whose Python files are plugins."""
        return self.plugin_folder or self.home / "plugins"

    @property
    def base_cache(self) -> Path:
        """Folder of fetched base policies."""
        return self.home / "base"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment over file over defaults."""
        del dotenv_settings, file_secret_settings
        path = Path(os.environ.get("HEED_CONFIG", "heed.toml"))
        toml = TomlConfigSettingsSource(settings_cls, path if path.exists() else None)
        return init_settings, env_settings, toml


def load_settings(**overrides: Any) -> Settings:
    """Read the settings; SettingsError names each wrong one with its value."""
    config = os.environ.get("HEED_CONFIG")
    if config and not Path(config).is_file():
        raise SettingsError(f"HEED_CONFIG names {config!r}, which is no file")
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise SettingsError(_explain(error)) from error
    except ValueError as error:
        raise SettingsError(f"the settings file cannot be read: {error}") from error


def _is_secret(problem: Any) -> bool:
    """Whether the value, or one in it, may be a secret."""
    nested = isinstance(problem["input"], dict | list)
    return nested or any(word in str(problem["loc"][-1]) for word in ("secret", "key"))


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"]) or "settings"
        shown = f" is {problem['input']!r}" if problem["loc"] and not _is_secret(problem) else ""
        lines.append(f"setting {name}{shown}: {problem['msg']}")
    return "\n".join(lines)
