"""Lets the reranker put found passages into order; where it fails they stay as they were found.

People wait for this: after a failure it is left alone for a while.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from time import monotonic

import structlog
from sqlalchemy import Engine

from plugins import contract
from rlhf_engine.records import PromptPassage
from service.errors import HeedError
from service.plugin_host import PluginHost
from service.plugin_hosted import HostedReranker
from service.plugin_state import open_host
from service.settings import Settings

LEFT_ALONE_S = 60.0
"""How long a reranker that failed is not asked."""
CLOSE_S = 5.0

log = structlog.get_logger(__name__)


class Reranking:
    """The reranker of the settings, kept between questions; none where none is set.

    Its process is started in the background, and questions are answered without it until it is
    ready; a `patient` one is waited for.
    """

    def __init__(self, settings: Settings, database: Engine, *, patient: bool = False) -> None:
        self._settings, self._database, self._patient = settings, database, patient
        self._host: PluginHost | None = None
        self._made: HostedReranker | None = None
        self._starting: threading.Thread | None = None
        self._not_before = -math.inf
        self._asking = threading.Lock()

    def __bool__(self) -> bool:
        """Whether a reranker is set."""
        return bool(self._settings.rerankers)

    def ordered(self, question: str, passages: Sequence[PromptPassage]) -> list[PromptPassage]:
        """The passages, the best first; as they are where the reranker fails, is not ready, or
        is busy with another question. Raises nothing."""
        found = list(passages)
        if not self or len(found) < 2 or not self._ready():
            return found
        if not self._asking.acquire(timeout=self._settings.plugin_limits.rerank_s):
            return found
        try:
            scores = self._scores(question, found)
        finally:
            self._asking.release()
        if scores is None:
            return found
        best = sorted(range(len(found)), key=lambda position: (-scores[position], position))
        return [found[position] for position in best]

    def close(self) -> None:
        """Let go of the plugin's process; one that is being started is waited for a little."""
        if self._starting is not None:
            self._starting.join(CLOSE_S)
        if self._made is not None:
            self._made.close()
        if self._host is not None:
            self._host.flush()

    def _scores(self, question: str, found: Sequence[PromptPassage]) -> list[float] | None:
        made = self._made
        if made is None:
            return None
        try:
            shown = [contract.ShownPassage(one.title, one.text) for one in found]
            return made.rerank(question, shown)
        except HeedError as error:
            self._made = None
            self._leave_alone(error)
            return None

    def _ready(self) -> bool:
        if self._made is None and monotonic() >= self._not_before:
            if self._starting is None or not self._starting.is_alive():
                self._starting = threading.Thread(target=self._start, name="reranker", daemon=True)
                self._starting.start()
            if self._patient:
                self._starting.join()
        return self._made is not None

    def _start(self) -> None:
        try:
            self._host = self._host or open_host(self._settings, self._database)
            self._made = self._host.reranker(self._settings.rerankers[0])
        except HeedError as error:
            self._leave_alone(error)

    def _leave_alone(self, error: HeedError) -> None:
        self._not_before = monotonic() + LEFT_ALONE_S
        told = f"passages stay as found, asked again in {LEFT_ALONE_S:.0f} s"
        log.warning("reranker_failed", error=str(error), next=told)
