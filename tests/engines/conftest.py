"""The engines that the conformance suite runs over.

A new engine joins by a class with `stored` and `make`, and one line in ENGINES.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

import rlhf_engine
from rlhf_engine.serving_engine import ServingEngine
from service.process_engine import ProcessEngine
from service.settings import Settings, VllmSettings
from service.vllm_engine import VllmEngine
from tests.engines.stand_in import standing_in
from tests.engines.stored import Stored
from tests.engines.vllm_environment import default_folder, ensure_environment
from tests.engines.vllm_process import API_KEY, MAX_LORAS, vllm_serving
from tests.journeys.server import eventually
from tests.tiny import tiny_base

MAX_ACTIVE = MAX_WAITING = 2
"""Answers drawn at once, and jobs that may wait, in a small engine."""

Make = Callable[[int, int], ServingEngine]


class Kind:
    """One kind of engine: what it can load, and how one is made. `make(active, waiting)` gives an
    engine, not yet started, that draws `active` answers at once while `waiting` jobs may wait."""

    def __init__(self, stored: Stored, make: Make, urls: tuple[str, ...] = ()) -> None:
        self.stored, self.make, self.urls = stored, make, urls


@contextmanager
def torch_kind(root: Path) -> Iterator[Kind]:
    """The built-in engine."""
    stored = Stored(root, tiny_base(root / "base"))
    yield Kind(
        stored,
        lambda active, waiting: rlhf_engine.TorchEngine(
            stored.base, dtype="float32", threads=1, max_waiting=waiting, max_rows=active
        ),
    )


@contextmanager
def process_kind(root: Path) -> Iterator[Kind]:
    """The built-in engine in a process of its own."""
    stored = Stored(root, tiny_base(root / "base"))
    yield Kind(
        stored,
        lambda active, waiting: ProcessEngine(
            stored.base, dtype="float32", threads=1, max_waiting=waiting, max_rows=active
        ),
    )


@contextmanager
def stand_in_kind(root: Path) -> Iterator[Kind]:
    """The vLLM engine over two servers that behave like vLLM."""
    stored = Stored(root, tiny_base(root / "base"))
    with standing_in(stored.base) as first, standing_in(stored.base) as second:
        urls = (first.url, second.url)
        yield Kind(stored, _over(urls, stored), urls)


@contextmanager
def vllm_kind(root: Path) -> Iterator[Kind]:
    """The vLLM engine over a real vLLM server with the real base policy."""
    stored = Stored(root, real_base(), scale=0.02)
    python = ensure_environment(default_folder())
    with vllm_serving(python, stored.base, root / "vllm.log") as url:
        yield Kind(stored, _over((url,), stored), (url,))


def real_base() -> Path:
    """The base policy that VLLM_BASE names, else Heed's default one, from its cache."""
    named = os.environ.get("VLLM_BASE")
    if named:
        return Path(named)
    settings = Settings(home=Path.home() / ".cache" / "heed")
    return rlhf_engine.fetch_base(settings.base_policy, settings.base_cache, None)


def _over(urls: tuple[str, ...], stored: Stored) -> Make:
    def make(active: int, waiting: int) -> ServingEngine:
        settings = VllmSettings(
            urls=urls, api_key=API_KEY, max_loras=MAX_LORAS, max_active=active, timeout_s=120
        )
        return VllmEngine(stored.base, settings, waiting)

    return make


ENGINES: dict[str, Callable[[Path], AbstractContextManager[Kind]]] = {
    "torch": torch_kind,
    "process": process_kind,
    "vllm-stand-in": stand_in_kind,
    "vllm": vllm_kind,
}


@pytest.fixture(
    scope="session",
    params=["torch", "process", "vllm-stand-in", pytest.param("vllm", marks=pytest.mark.vllm)],
)
def kind(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kind]:
    with ENGINES[request.param](tmp_path_factory.mktemp(request.param)) as made:
        yield made


@pytest.fixture
def stored(kind: Kind) -> Stored:
    return kind.stored


@contextmanager
def started(kind: Kind, active: int, waiting: int) -> Iterator[ServingEngine]:
    """An engine that runs until the block ends."""
    engine = kind.make(active, waiting)
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()


@contextmanager
def holding(engine: ServingEngine, stored: Stored) -> Iterator[ServingEngine]:
    """It has version 0 and the first adapter, and nothing when the block ends."""
    for version in (stored.zero, stored.one):
        engine.load(version)
    try:
        yield engine
    finally:
        for handle in engine.loaded():
            engine.retire(handle)


@pytest.fixture(scope="session")
def roomy(kind: Kind) -> Iterator[ServingEngine]:
    """One for all tests: a process of its own takes long to start."""
    with started(kind, 16, 16) as made:
        yield made


@pytest.fixture
def engine(roomy: ServingEngine, stored: Stored) -> Iterator[ServingEngine]:
    assert eventually(lambda: all(roomy.retire(handle) for handle in roomy.loaded()))
    with holding(roomy, stored) as made:
        yield made


@pytest.fixture
def small(kind: Kind) -> Iterator[ServingEngine]:
    """An engine with little room."""
    with started(kind, MAX_ACTIVE, MAX_WAITING) as made, holding(made, kind.stored):
        yield made
