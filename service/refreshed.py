"""Figures that take seconds to count: the last ones are told while the next are counted."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from threading import Lock
from typing import Generic, TypeVar

import structlog

PATIENCE_S = 0.1
"""How long a request waits for newer figures where there are older ones to tell."""
MOST_KEPT = 32

log = structlog.get_logger(__name__)

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class _Kept(Generic[Value]):
    stamp: Hashable
    value: Value


class Refreshed(Generic[Key, Value]):
    """One value a key, made by one thread at a time.

    Whoever asks gets the newest value there is. Where its stamp is not the one wanted, a new one is
    made meanwhile, and told at once if that takes no longer than `patience_s` seconds. Only who
    comes before the first value of a key waits for it.
    """

    def __init__(self, name: str, patience_s: float = PATIENCE_S) -> None:
        self._name, self._patience_s = name, patience_s
        self._kept: OrderedDict[Key, _Kept[Value]] = OrderedDict()
        self._making: dict[Key, Future[Value]] = {}
        self._lock = Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)

    def value(self, key: Key, stamp: Hashable, make: Callable[[], Value]) -> Value:
        """The newest value of `key`; raises what `make` does where there is none yet."""
        with self._lock:
            known = self._kept.get(key)
            if known is not None and known.stamp == stamp:
                return known.value
            making = self._making.get(key)
            if making is None:
                making = self._thread.submit(self._make, key, stamp, make)
                self._making[key] = making
        if known is None:
            return making.result()
        wait([making], self._patience_s)
        made = making.done() and making.exception() is None
        return making.result() if made else known.value

    def _make(self, key: Key, stamp: Hashable, make: Callable[[], Value]) -> Value:
        try:
            value = make()
            with self._lock:
                self._kept[key] = _Kept(stamp, value)
                self._kept.move_to_end(key)
                while len(self._kept) > MOST_KEPT:
                    self._kept.popitem(last=False)
        except Exception:
            # Who is told older figures does not hear of it.
            log.exception("figures_not_counted", figures=self._name)
            raise
        finally:
            with self._lock:
                self._making.pop(key, None)
        return value
