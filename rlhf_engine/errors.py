"""The engine's exceptions.

EngineError
├── BasePolicyError      the base policy cannot be fetched, read or used
├── PlanError            a RunPlan holds a value outside its range
├── SnapshotError        a snapshot is missing, changed or too small
├── RunFolderError       a run folder is held by another worker, or unreadable
├── PolicyVersionError   a PolicyVersion folder fails verification
├── TrainingError        a stage cannot go on (non-finite loss, KL stop, first ratio off)
├── SignalError          a reward signal raised or answered out of contract
├── SentenceModelError   a sentence-embedding model cannot be read or used
├── GenerationError      an answer could not be generated
│   └── QueueFullError   the engine's queue is full; try again later
└── Cancelled            somebody asked this run to stop
"""


class EngineError(Exception):
    """Anything the engine reports to its caller; the text says what to do next."""


class BasePolicyError(EngineError):
    """The base policy cannot be fetched, read or used."""


class PlanError(EngineError):
    """A RunPlan holds a value outside its range."""


class SnapshotError(EngineError):
    """A snapshot is missing, was changed after freezing, or is too small to train on."""


class RunFolderError(EngineError):
    """A run folder is held by another worker, or cannot be read or written."""


class DiskError(RunFolderError):
    """A stage's files cannot be read or written, as on a full disk; finished stages are kept."""


class PolicyVersionError(EngineError):
    """A PolicyVersion folder fails verification; nothing was loaded from it."""


class TrainingError(EngineError):
    """A stage cannot go on; the text names the stage and the figure."""


class SignalError(EngineError):
    """A reward signal raised or answered out of contract; the text names it."""


class SentenceModelError(EngineError):
    """A sentence-embedding model cannot be read or used; the text names its folder."""


class GenerationError(EngineError):
    """An answer could not be generated."""


class QueueFullError(GenerationError):
    """The engine's queue is full; try again later."""


class Cancelled(EngineError):  # noqa: N818 - a request that was honoured, not a fault
    """Somebody asked this run to stop; what is on disk can be resumed."""
