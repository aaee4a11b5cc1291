"""What the host makes of plugins: each calls its plugin and tells its faults apart.

A fault becomes a PluginFailure that names plugin, method and setting; secrets that the plugin
was given are taken out of what it says.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from plugins import contract
from service.errors import PluginFailure, SettingsError, SourceBusyError, SourceSecretError
from service.plugin_calls import Fault
from service.plugin_items import item_of
from service.secrets_of_options import MASK

if TYPE_CHECKING:
    from rlhf_engine import SignalInput

_ENDS = (contract.Complete, contract.Partial)


@dataclass(frozen=True, slots=True)
class Called:
    """One call of a plugin: which method, how long it took, the most memory its process has used
    so far (0 where unknown), and what went wrong, if anything did. `its_fault` is false where
    only what it reads, or its settings, are to blame."""

    plugin: str
    method: str
    seconds: float
    peak_mb: int
    error: str | None
    its_fault: bool = False

    def plain(self) -> dict[str, Any]:
        """As JSON types."""
        return dataclasses.asdict(self)


OnCall = Callable[[Called], None]


class Runner(Protocol):
    """A plugin's object, wherever it runs. Everything raises plugin_calls.Fault."""

    peak_mb: int

    def make(self, hook: str, name: str, options: Mapping[str, Any]) -> None:
        """Make one of the plugin's classes."""

    def call(self, method: str, given: Any, limit_s: float | None = None) -> Any:
        """Ask it."""

    def items(self, cursor: Mapping[str, Any]) -> Generator[dict[str, Any]]:
        """Let it list its items."""

    def close(self) -> None:
        """Let go of what it runs in; the next call begins anew."""


@dataclass(frozen=True)
class Hosted:
    """A plugin's object under the name that the settings give it; `place` is its setting."""

    place: str
    name: str
    plugin: str
    runner: Runner
    on_call: OnCall | None
    secrets: tuple[str, ...]

    def make(self, hook: str, cls: str, options: Mapping[str, Any]) -> None:
        """Make it; SettingsError for a wrong option, PluginFailure for any other fault."""
        # That it can be made says nothing of whether it works: it ends no row of failures.
        with self.told(f"{hook}, options of {self.place}", only_failures=True):
            self.runner.make(hook, cls, options)

    def call(self, method: str, told: str, given: Any, limit_s: float | None = None) -> Any:
        """Call a method; PluginFailure where it fails. `told` describes it for people."""
        with self.told(f"{told} of {self.place}"):
            return self.runner.call(method, given, limit_s)

    def without_secrets(self, text: str) -> str:
        """The text with a mask where it held one of the secrets that the plugin was given."""
        for secret in self.secrets:
            text = text.replace(secret, MASK)
        return text

    @contextmanager
    def told(self, what: str, only_failures: bool = False) -> Iterator[None]:
        """Time what is done within, and turn its Fault into an error for people."""
        began = time.monotonic()
        error: str | None = None
        its_fault = True
        try:
            yield
        except Fault as fault:
            error = self.without_secrets(fault.told)
            its_fault = fault.kind in ("fault", "memory")
            raise self._failure(what, fault, error) from fault
        except PluginFailure as failure:
            error = str(failure)
            raise
        finally:
            if self.on_call and (error is not None or not only_failures):
                seconds = time.monotonic() - began
                peak_mb = self.runner.peak_mb
                failed = error is not None and its_fault
                self.on_call(Called(self.plugin, what, seconds, peak_mb, error, failed))

    def _failure(self, what: str, fault: Fault, told: str) -> Exception:
        text = f"plugin {self.plugin}, {what}: {told}"
        match fault.kind:
            case "options":
                return SettingsError(f"setting {self.place} (plugin {self.plugin}): {told}")
            case "retry":
                return SourceBusyError(text, fault.seconds)
            case "secret":
                return SourceSecretError(text)
        return PluginFailure(text)


class HostedSource:
    """A plugin's data source; satisfies contract.DataSource but for its name."""

    def __init__(self, hosted: Hosted) -> None:
        self.name = hosted.name
        self.plugin = hosted.plugin
        self._hosted = hosted

    def items(self, cursor: contract.Cursor) -> Generator[contract.Item]:
        """Yield the plugin's items; the last is Complete or Partial.

        Raises PluginFailure where the source cannot be read, yields anything else than an
        item, goes on after its end, or stops without one; SourceBusyError where it is to be
        tried again later, SourceSecretError where its secret is not taken. After a failure
        only what came before the last Checkpoint may be kept. The fields of the items are not
        checked here. Nothing is read beyond a Checkpoint before the next item is asked for.
        """
        what = f"items(cursor) of {self._hosted.place}"
        with self._hosted.told(what):
            ended = False
            with closing(self._hosted.runner.items(cursor)) as given:
                for item in map(item_of, given):
                    if ended:
                        raise Fault(f"yielded a {type(item).__name__} after Complete or Partial")
                    ended = isinstance(item, _ENDS)
                    yield self._masked(item)
            if not ended:
                raise Fault("ended without Complete or Partial, so it may have stopped early")

    def check(self) -> str:
        """Try whether the place can be read; "" where the plugin cannot say. Raises as items."""
        return str(self._hosted.call("check", "check()", {}))

    def close(self) -> None:
        """Let go of the plugin's process."""
        self._hosted.runner.close()

    def _masked(self, item: contract.Item) -> contract.Item:
        if not isinstance(item, contract.Rejected):
            return item
        return contract.Rejected(item.where, self._hosted.without_secrets(str(item.reason)))


class HostedSignal:
    """A plugin's reward signal as the engine wants it: `name`, `weight`, and batches.

    `weight` in [0, 1] is how much of the reward a full reading makes.
    """

    def __init__(self, hosted: Hosted, weight: float) -> None:
        self.name = hosted.name
        self.weight = weight
        self.plugin = hosted.plugin
        self._hosted = hosted

    def read_batch(self, batch: Sequence[SignalInput]) -> list[float | None]:
        """One reading in [-1, 1], or None where the plugin abstains, for each input in order.

        Raises PluginFailure where the plugin raises, takes too long, or answers anything else
        than None or a finite number in [-1, 1].
        """
        if not batch:
            return []
        given = {"answers": [_plain_answer(one) for one in batch]}
        readings = self._hosted.call("read", "read(answer)", given)
        if not _fits(readings, len(batch)):
            self.close()
            raise PluginFailure(f"plugin {self.plugin} sent no readings for {len(batch)} answers")
        return list(readings)

    def close(self) -> None:
        """Let go of the plugin's process."""
        self._hosted.runner.close()


class HostedObserver:
    """A plugin that is told what happens."""

    def __init__(self, hosted: Hosted) -> None:
        self.name = hosted.name
        self._hosted = hosted

    def promoted(self, event: contract.Promotion) -> None:
        """Tell it; PluginFailure where it fails."""
        self._tell("promoted", event)

    def run_finished(self, event: contract.FinishedRun) -> None:
        """Tell it; PluginFailure where it fails."""
        self._tell("run_finished", event)

    def _tell(self, method: str, event: contract.Promotion | contract.FinishedRun) -> None:
        try:
            self._hosted.call(method, f"{method}(event)", {"event": dataclasses.asdict(event)})
        finally:
            self._hosted.runner.close()


class HostedRedactor:
    """A plugin that takes out of texts what must not be learnt."""

    def __init__(self, hosted: Hosted) -> None:
        self.name = hosted.name
        self._hosted = hosted

    def redact(self, texts: Sequence[str]) -> list[str]:
        """The texts, in order, without it; PluginFailure where the plugin fails, and then none
        of them may be used."""
        redacted = self._hosted.call("redact", "redact(text)", {"texts": list(texts)})
        fits = isinstance(redacted, list) and len(redacted) == len(texts)
        if not fits or not all(isinstance(text, str) for text in redacted):
            self.close()
            raise PluginFailure(f"plugin {self._hosted.plugin} sent no redacted texts")
        return list(redacted)

    def close(self) -> None:
        """Let go of the plugin's process."""
        self._hosted.runner.close()


class HostedReranker:
    """A plugin that scores passages. Its process is kept, since people wait for it."""

    def __init__(self, hosted: Hosted, limit_s: float) -> None:
        self.name = hosted.name
        self._hosted = hosted
        self._limit_s = limit_s

    def rerank(self, question: str, passages: Sequence[contract.ShownPassage]) -> list[float]:
        """A finite score for each passage in order, higher is better; PluginFailure where the
        plugin fails or takes too long."""
        given = {
            "question": question,
            "passages": [dataclasses.asdict(passage) for passage in passages],
        }
        told = "rerank(question, passages)"
        scores = self._hosted.call("rerank", told, given, self._limit_s)
        if not isinstance(scores, list) or len(scores) != len(passages):
            self.close()
            raise PluginFailure(f"plugin {self._hosted.plugin} sent no scores")
        return [float(score) for score in scores]

    def close(self) -> None:
        """Let go of the plugin's process."""
        self._hosted.runner.close()


def _plain_answer(given: SignalInput) -> dict[str, Any]:
    passages = [{"title": one.title, "text": one.text} for one in given.prompt.passages]
    return {
        "question": given.prompt.question,
        "text": given.answer,
        "passages": passages,
        "gold": given.gold,
        "feedback": [{"kind": "thumb", "value": value} for value in given.thumbs],
    }


def _fits(readings: Any, count: int) -> bool:
    """Whether these are readings, whatever the plugin did to its own process."""
    if not isinstance(readings, list) or len(readings) != count:
        return False
    return all(
        one is None or (isinstance(one, float) and math.isfinite(one) and -1 <= one <= 1)
        for one in readings
    )
