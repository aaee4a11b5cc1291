"""heed plugins: list, new, test, check, install."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.commands.terminal import (
    FAILED,
    FINE,
    WRONG_USE,
    say,
    settings_for_command,
    steps,
    table,
    warn,
)
from service.errors import InvalidInputError
from service.plugin_scaffold import Kind, path_of_test, settings_entry, write_plugin

if TYPE_CHECKING:
    from service.plugin_check import CheckedPlugin
    from service.plugin_finding import Found
    from service.plugin_host import PluginInfo
    from service.plugin_tables import PluginState
    from service.settings import Settings

app = typer.Typer(help="List, write, test, check and install plugins.")

KINDS = {
    "heed_data_sources": "source",
    "heed_reward_signals": "signal",
    "heed_observers": "observer",
    "heed_redactors": "redactor",
    "heed_rerankers": "reranker",
}

Names = Annotated[
    list[str] | None, typer.Argument(metavar="[NAME]...", help="Only these; all without.")
]


@app.callback(invoke_without_command=True)
def plugins(context: typer.Context) -> None:
    """List, write, test, check and install plugins. Alone it lists them."""
    if context.invoked_subcommand is None:
        list_plugins()


@app.command("list")
def list_plugins() -> None:
    """List the plugins: what each brings, how it does, whether it is on, what is wrong with one."""
    from service.plugin_host import PluginHost

    settings = settings_for_command()
    found = PluginHost.load(settings).plugins()
    states = _states(settings)
    columns = ("name", "version", "brings", "state", "calls", "failed", "mean", "memory", "error")
    table("Plugins", columns, [_row(info, states.get(info.name)) for info in found])
    if any(info.error for info in found):
        raise typer.Exit(FAILED)


@app.command()
def new(
    kind: Annotated[Kind, typer.Argument(metavar="KIND", help="source or signal.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Small letters, digits and _.")],
) -> None:
    """Write a plugin of one file into the folder of plugins, with a test that passes at once."""
    plugin, test = write_plugin(settings_for_command().plugins_folder, kind, name)
    say(f"{plugin}\n{test}")
    warn(
        f"change them, try them with: heed plugins test {name}\n"
        f"then set it up in heed.toml:\n\n{settings_entry(kind, name)}"
    )


@app.command()
def test(names: Names = None) -> None:
    """Run the tests of the folder of plugins with pytest."""
    folder = settings_for_command().plugins_folder.resolve()
    if importlib.util.find_spec("pytest") is None:
        warn(f"pytest is not installed; {sys.executable} -m pip install 'heed[plugins-dev]'")
        raise typer.Exit(WRONG_USE)
    tests = [path_of_test(folder, name) for name in names or ()] or sorted(folder.glob("test_*.py"))
    missing = [str(path) for path in tests if not path.is_file()]
    if missing or not tests:
        raise InvalidInputError(
            f"there is no test {missing[0] if missing else f'in {folder}'}; "
            "heed plugins new writes one beside the plugin"
        )
    options = ("-q", "-rs", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", str(folder))
    command = [sys.executable, "-P", "-m", "pytest", *options, *map(str, tests)]
    done = subprocess.run(command, check=False)  # noqa: S603 - the operator's own tests
    raise typer.Exit(FAILED if done.returncode else FINE)


@app.command()
def check(names: Names = None) -> None:
    """Load plugins, put them through the checks that need no test data, check their settings.

    NAME is a plugin's name, or the path of a file that holds one.
    """
    from service.plugin_check import check_plugin, wrong_settings
    from service.plugin_host import PluginHost

    settings = settings_for_command()
    asked = _asked(settings, names or ())
    done: list[CheckedPlugin] = []
    with steps() as step:
        for position, found in enumerate(asked):
            step(f"checking {found.name}", position, len(asked), None)
            done.append(check_plugin(found, _signal_options(settings)))
    for plugin in done:
        _say(plugin)
    wrong = [] if names else wrong_settings(PluginHost.load(settings), settings)
    for told in wrong:
        warn(f"wrong setting: {told}")
    if wrong or not all(plugin.fine for plugin in done):
        raise typer.Exit(FAILED)


@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def install(
    context: typer.Context,
    package: Annotated[
        str, typer.Argument(metavar="PACKAGE", help="Name, folder, wheel or address.")
    ],
) -> None:
    """Install a package of plugins beside Heed. Further options go to pip.

    Packages that are there keep their versions. A running server finds it at its next start.
    """
    from service.plugin_finding import find
    from service.plugin_install import install as install_packages

    before = {found.name for found in find(None, None)}
    install_packages([package], context.args)
    # A fresh process: this one has read already which packages there are.
    script = "from service.plugin_finding import find; print(*(f.name for f in find(None, None)))"
    listed = subprocess.run(  # noqa: S603 - a fixed command
        [sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True
    )
    added = [name for name in listed.stdout.split() if name not in before]
    if added:
        say(f"installed: {', '.join(added)}; heed plugins check {' '.join(added)}")
    else:
        warn(f"{package} brings no new plugin: it names none in its entry points of group heed")


def _states(settings: Settings) -> Mapping[str, PluginState]:
    """How the plugins are doing; nothing where there is no database of this version."""
    from service.commands.policies import opened_database
    from service.database import session
    from service.errors import DatabaseError
    from service.plugin_state import states

    file = Path(settings.database.removeprefix("sqlite:///"))
    if settings.database.startswith("sqlite:///") and not file.exists():
        return {}
    try:
        with opened_database(settings) as engine, session(engine) as opened:
            found = states(opened)
            opened.expunge_all()
            return found
    except DatabaseError as error:
        warn(f"how they are doing is not known: {error}")
        return {}


def _row(info: PluginInfo, state: PluginState | None) -> tuple[object, ...]:
    brings = "\n".join(f"{KINDS[one.hook]} {one.name}" for one in info.classes)
    known = (info.name, info.version, brings)
    if info.error:
        return (*known, "broken", None, None, None, None, info.error)
    if state is None:
        return (*known, "on", 0, 0, None, None, None)
    on = "on" if state.is_on else f"off: {state.off_reason}"
    mean = f"{state.seconds / state.calls:.2f} s" if state.calls else None
    memory = f"{state.peak_mb} MB" if state.peak_mb else None
    return (*known, on, state.calls, state.failures, mean, memory, state.last_error)


def _asked(settings: Settings, names: Sequence[str]) -> list[Found]:
    from service.plugin_finding import Found, find

    known = {found.name: found for found in find(settings.plugins_folder, settings.plugins_loaded)}
    files = {name: Path(name) for name in names if name.endswith(".py")}
    for name, path in files.items():
        if not path.is_file():
            raise InvalidInputError(f"there is no file {name}")
        known[name] = Found(path.stem, f"file:{path.resolve()}")
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InvalidInputError(
            f"there is no plugin {unknown[0]!r}; known are {', '.join(sorted(known))}"
        )
    return [known[name] for name in names or known]


def _signal_options(settings: Settings) -> dict[str, dict[str, object]]:
    return {entry.plugin: dict(entry.options) for entry in reversed(settings.signals)}


def _say(plugin: CheckedPlugin) -> None:
    if plugin.error:
        say(f"WRONG  {plugin.name}: {plugin.error}")
    for found in plugin.classes:
        mark = "WRONG" if found.broken else "ok"
        say(f"{mark:>5}  {plugin.name}: {KINDS[found.hook]} {found.name}, {found.kept} checks kept")
        for told in found.broken:
            say(f"       {told}")
