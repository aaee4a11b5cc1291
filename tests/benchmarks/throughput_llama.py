"""llama.cpp's server by the package xllamacpp: GGUF PORT THREADS STREAMS. Imports no other."""

from __future__ import annotations

import sys
import time

import xllamacpp


def main(gguf: str, port: str, threads: str, streams: str) -> None:
    """Serve until the process is ended."""
    wanted = xllamacpp.CommonParams()
    wanted.model.path = gguf
    wanted.port = int(port)
    wanted.n_parallel = int(streams)
    wanted.n_ctx = 1024 * int(streams)
    wanted.cpuparams.n_threads = wanted.cpuparams_batch.n_threads = int(threads)
    server = xllamacpp.Server(wanted)
    print(server.listening_address, flush=True)
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main(*sys.argv[1:])
