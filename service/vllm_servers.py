"""The vLLM servers in use. Each of them has every loaded version, or is not asked.

A server that fails is left out and tried again; it comes back when it has been given all
versions anew, since one that was restarted has forgotten them. All in one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import structlog

from rlhf_engine.errors import BasePolicyError, EngineError, PolicyVersionError
from service.vllm_server import ServerUnusableError, VllmServer

RETRY_S = 5.0

log = structlog.get_logger(__name__)


class VllmServers:
    """The servers that are up, and the versions that each of them has."""

    def __init__(self, servers: Sequence[VllmServer], max_loras: int, tokenizer: Any) -> None:
        self._servers, self._max_loras, self._tokenizer = list(servers), max_loras, tokenizer
        self._folders: dict[str, str] = {}
        self._changing = asyncio.Lock()
        self._look = asyncio.Event()
        self._said: dict[VllmServer, str] = {}
        self.up: list[VllmServer] = []
        """The servers that may be asked."""

    @property
    def context(self) -> int:
        """Most tokens, question and answer, that each of them reads."""
        return min((server.context for server in self.up if server.context), default=2048)

    async def open(self) -> None:
        """Find the servers that can be used; EngineError where none can."""
        outcomes = await self._join_all(self._servers)
        if not self.up:
            errors = [each for each in outcomes if each is not None]
            # One that needs a person goes before one that may pass by itself.
            raise min(errors, key=lambda error: not isinstance(error, BasePolicyError))

    async def close(self) -> None:
        """Hang up; the versions stay where they are, as after a crash."""
        self.up = []
        await asyncio.gather(*(server.close() for server in self._servers))

    async def watch(self) -> None:
        """Leave out servers that fell ill, take back those that recovered; never returns."""
        while True:
            self._look.clear()
            try:
                await asyncio.wait_for(self._look.wait(), RETRY_S)
            except TimeoutError:
                await self._drop_ill()
            await self._join_all([each for each in self._servers if each not in self.up])

    def leave_out(self, server: VllmServer, error: EngineError) -> None:
        """Ask this server no more until it has been checked again."""
        if server not in self.up:
            return
        self.up = [each for each in self.up if each is not server]
        log.warning("vllm_server_left_out", url=server.url, error=str(error), next="tries it again")
        self._look.set()

    def least_busy(self, without: Sequence[VllmServer] = ()) -> VllmServer | None:
        """The server with the fewest questions under way."""
        fit = [server for server in self.up if server not in without]
        return min(fit, key=lambda server: server.jobs, default=None)

    async def load(self, handle: str, folder: str) -> None:
        """Give a version to every server that is up, or to none: PolicyVersionError if one of
        them refuses it, ServerUnusableError if none is up."""
        async with self._changing:
            if handle in self._folders:
                return
            if len(self._folders) >= self._max_loras:
                raise PolicyVersionError(
                    f"{len(self._folders)} versions are loaded, as many as vllm.max_loras; raise "
                    "it, and the servers' --max-loras with it"
                )
            await self._load_everywhere(handle, folder)
            self._folders[handle] = folder

    async def unload(self, handle: str) -> None:
        """Have every server forget a version, as far as it answers."""
        async with self._changing:
            if self._folders.pop(handle, None) is None:
                return
            await self._unload(handle, self.up)

    async def _load_everywhere(self, handle: str, folder: str) -> None:
        asked = list(self.up)
        outcomes = await asyncio.gather(
            *(server.load(handle, folder, self._tokenizer.eos_token_id) for server in asked),
            return_exceptions=True,
        )
        for server, outcome in zip(asked, outcomes, strict=True):
            if isinstance(outcome, ServerUnusableError):
                self.leave_out(server, outcome)
        refusals = [
            outcome
            for outcome in outcomes
            if isinstance(outcome, BaseException) and not isinstance(outcome, ServerUnusableError)
        ]
        if refusals:
            took = [s for s, o in zip(asked, outcomes, strict=True) if o is None]
            await self._unload(handle, took)
            raise refusals[0]
        if not self.up:
            raise ServerUnusableError("no vLLM server can be reached; the version is not loaded")

    async def _unload(self, handle: str, servers: Sequence[VllmServer]) -> None:
        gone = await asyncio.gather(*(server.unload(handle) for server in servers))
        for server, is_gone in zip(servers, gone, strict=True):
            if not is_gone:
                log.warning(
                    "version_left_on_vllm_server",
                    version=handle,
                    url=server.url,
                    next="it is harmless there; a restart of that server drops it",
                )

    async def _join_all(self, servers: Sequence[VllmServer]) -> list[EngineError | None]:
        return list(await asyncio.gather(*(self._joined(server) for server in servers)))

    async def _joined(self, server: VllmServer) -> EngineError | None:
        try:
            await self._join(server)
        except EngineError as error:
            if self._said.get(server) != str(error):
                log.warning("vllm_server_not_used", url=server.url, error=str(error))
            self._said[server] = str(error)
            return error
        self._said.pop(server, None)
        log.info("vllm_server_used", url=server.url, versions=len(self._folders))
        return None

    async def _join(self, server: VllmServer) -> None:
        await server.check(self._tokenizer)
        async with self._changing:
            for handle, folder in self._folders.items():
                await server.load(handle, folder, self._tokenizer.eos_token_id)
            self.up = [*self.up, server]

    async def _drop_ill(self) -> None:
        asked = list(self.up)
        well = await asyncio.gather(*(server.healthy() for server in asked))
        for server, is_well in zip(asked, well, strict=True):
            if not is_well:
                self.leave_out(server, ServerUnusableError(f"{server.url}/health fails"))
