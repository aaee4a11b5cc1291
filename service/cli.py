"""The command `heed`: gathers the commands, and turns errors into one clear message."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

import structlog
import typer

import rlhf_engine
from service.commands import (
    corrections,
    demonstration,
    maintenance,
    people,
    plugins,
    policies,
    replay,
    serving,
    training,
)
from service.commands.terminal import EXIT_CODES, FAILED, WRONG_USE, warn
from service.errors import HeedError, SettingsError

app = typer.Typer(
    name="heed",
    help="Heed answers a company's internal questions and learns from what its users say.\n\n"
    "Settings come from heed.toml (or the file HEED_CONFIG names) and HEED_... variables.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("demo")(demonstration.demo)
app.command("serve")(serving.serve)
app.command("sync")(maintenance.sync)
app.add_typer(training.app, name="train")
app.command("promote")(policies.promote)
app.command("candidate")(policies.candidate)
app.command("rollback")(policies.rollback)
app.command("replay")(replay.replay)
app.command("policies")(policies.list_policies)
app.add_typer(corrections.app, name="corrections")
app.add_typer(people.app, name="people")
app.add_typer(plugins.app, name="plugins")
app.command("fetch-base")(maintenance.fetch_base)
app.command("export")(maintenance.export)
app.command("check")(maintenance.check)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    _log_to_stderr()
    try:
        app(args=arguments, prog_name="heed")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else FAILED
    except SettingsError as error:
        warn(f"wrong setting: {error}")
        return WRONG_USE
    except (HeedError, rlhf_engine.EngineError, OSError) as error:
        warn(f"error: {error}")
        return FAILED
    except KeyboardInterrupt:
        warn("stopped")
        return 130
    return 0


def _log_to_stderr() -> None:
    """Results alone belong on stdout; of the log, a command shows warnings only."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        # Made anew for each line: what stderr is may change while the program runs.
        logger_factory=lambda *_: structlog.WriteLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )


if __name__ == "__main__":
    sys.exit(main())
