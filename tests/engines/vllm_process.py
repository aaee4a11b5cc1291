"""A real vLLM server for the tests: a process of its own on a free loopback port."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

START_S = 600.0
MAX_LORAS = 4
API_KEY = "only-for-tests"


@contextmanager
def vllm_serving(python: Path, base: Path, log: Path) -> Iterator[str]:
    """Serve a base policy as "base" until the block ends; gives the server's address.

    float32, because the tests compare its numbers with the built-in engine's.
    """
    port = _free_port()
    command = [str(python.with_name("vllm")), "serve", str(base), "--served-model-name", "base"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--api-key", API_KEY]
    command += ["--dtype", "float32", "--max-model-len", "1024", "--max-num-seqs", "16"]
    command += ["--enable-lora", "--max-loras", str(MAX_LORAS), "--max-lora-rank", "16"]
    command += ["--enforce-eager"]
    with log.open("wb") as output:
        server = subprocess.Popen(
            command, stdout=output, stderr=output, env=_environment(python), start_new_session=True
        )
        try:
            _wait(f"http://127.0.0.1:{port}", server, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(60)


def _environment(python: Path) -> dict[str, str]:
    """Nothing is fetched or reported; memory for key-values is small."""
    return {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "PATH": f"{python.parent}:{os.environ.get('PATH', '')}",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }


def _wait(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        assert server.poll() is None, f"vLLM did not start; {log} ends:\n{_end_of(log)}"
        try:
            if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.5)
    raise AssertionError(f"vLLM did not start within {START_S} s; see {log}")


def _end_of(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:])


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
