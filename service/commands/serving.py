"""heed serve: the server."""

from __future__ import annotations

import gc
import os
import socket
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from service.commands.terminal import say, settings_for_command
from service.process_engine import EngineProcesses
from service.worker_process import SHORT_SPIN

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from service.settings import Settings

SWITCH_S = 0.0005
"""How long a thread keeps Python's lock while others want it. A tenth of the usual, since the
event loop, which streams and refuses, waits for one that prepares a question or writes rows."""


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
) -> None:
    """Bring the database up to date and serve the page and the API until stopped."""
    settings = settings_for_command(host=host, port=port)
    os.environ.update(SHORT_SPIN)
    # Its process loads its libraries while this one loads its own.
    factory = None if settings.vllm.urls else EngineProcesses(settings)
    # Imports make little garbage and many objects: looking through them would take a fifth of
    # the start. Serving.prepare lets it begin.
    gc.disable()
    sys.setswitchinterval(SWITCH_S)
    # Imported here: they take a second that other commands need not wait.
    import uvicorn

    from service.app import create_app
    from service.database import migrate, open_database
    from service.logs import configure_logging
    from service.web_server import SLOW_READERS_S, DrainingServer

    configure_logging(settings.log_format)
    settings, bound = _with_port(settings)
    engine = open_database(settings.database)
    migrate(engine)
    link = _first_link(engine, settings)
    engine.dispose()
    say(f"Heed serves http://{settings.host}:{settings.port} (Ctrl-C stops it)")
    if link is not None:
        say(f"Make the first account, an admin's, within 24 hours; the link works once:\n{link}")
    app = create_app(settings, engine_factory=factory)
    answers = settings.answers
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=SLOW_READERS_S,
    )
    answering = app.state.parts.answering
    server = DrainingServer(config, lambda: answering.drain(answers.drain_s), answers.drain_s)
    server.run(None if bound is None else [bound])


def _with_port(settings: Settings) -> tuple[Settings, socket.socket | None]:
    """The settings with the port that is listened on, and its socket where the port is free to
    choose (0): links must name the one that was chosen."""
    if settings.port != 0:
        return settings, None
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    bound = socket.create_server((settings.host, 0), family=family)
    return settings.model_copy(update={"port": bound.getsockname()[1]}), bound


def _first_link(engine: Engine, settings: Settings) -> str | None:
    """The link to the first account, made anew at each start until there is one."""
    from service import one_time_links
    from service.database import session

    with session(engine) as opened:
        if not one_time_links.needs_first_account(opened, settings):
            return None
        return one_time_links.address(settings, one_time_links.first_account(opened))
