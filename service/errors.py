"""The service's exceptions.

HeedError
├── SettingsError       a setting is wrong: its name, value and allowed range
├── DatabaseError       the database cannot be reached, or is not migrated
├── PluginFailure       a plugin raised or broke the contract; names plugin and hook
│   ├── SourceBusyError     a data source is throttled or briefly out
│   └── SourceSecretError   a data source does not take its secret
├── NotFoundError       no such thing, or it is somebody else's
├── NotSignedInError    nobody is known by this name, password, session or key
├── ProviderError       the OpenID provider cannot be reached, or its answer does not hold
├── ConflictError       it was done already, or somebody else was first
├── InvalidInputError   a person's input cannot be used as it is
├── TryLaterError       not now; tells when to try again
│   ├── OverloadedError     too many questions wait already
│   ├── TooManyAttemptsError    too many tries to sign in
│   └── TooManyTurnsError   this person's earlier questions are not answered yet
├── PromotionError      a policy version could not be made live
└── TrainingRunError    a training run cannot be started, resumed or cancelled
"""


class HeedError(Exception):
    """Anything the service reports to its caller; the text says what to do next."""


class SettingsError(HeedError):
    """A setting is wrong; the text gives its name, its value and what would be right."""


class DatabaseError(HeedError):
    """The database cannot be reached, or its tables are not those of this version."""


class PluginFailure(HeedError):  # noqa: N818 - somebody else's error, named after its bearer
    """A plugin raised or broke the contract; the text names plugin and hook."""


class SourceBusyError(PluginFailure):
    """A data source is throttled or briefly out; `retry_after_s` is how long it asked to wait,
    None where it did not say."""

    def __init__(self, text: str, retry_after_s: float | None) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s


class SourceSecretError(PluginFailure):
    """A data source does not take its secret: it is wrong, has expired, or allows too little."""


class NotFoundError(HeedError):
    """No such thing, or it belongs to somebody else (the two are not told apart)."""


class NotSignedInError(HeedError):
    """Nobody is known by this name, password, session or key."""


class ProviderError(HeedError):
    """The OpenID provider cannot be reached, or its answer does not hold."""


class ConflictError(HeedError):
    """It was done already, or somebody else was first; nothing was changed."""


class InvalidInputError(HeedError):
    """A person's input cannot be used as it is; the text says what would be right."""


class TryLaterError(HeedError):
    """It cannot be done now; `retry_after_s` is an estimate of when it can."""

    def __init__(self, text: str, retry_after_s: int) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s


class OverloadedError(TryLaterError):
    """Too many questions wait already; nothing was kept of this one."""


class TooManyAttemptsError(TryLaterError):
    """Too many tries to sign in; none is looked at until then."""


class TooManyTurnsError(TryLaterError):
    """This person's earlier questions are not answered yet; nothing was kept of this one."""


class PromotionError(HeedError):
    """A policy version could not be made live; the live one stays."""


class TrainingRunError(HeedError):
    """A training run cannot be started, resumed or cancelled as asked."""
