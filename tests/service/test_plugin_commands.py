"""heed plugins: writing, testing, checking and listing plugins of one file."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from service.cli import main
from service.database import migrate, open_database, session
from service.errors import InvalidInputError
from service.plugin_hosted import Called
from service.plugin_install import install, pins
from service.plugin_scaffold import settings_entry
from service.plugin_state import note, switch
from service.settings import load_settings

Heed = Callable[..., tuple[int, str, str]]

SETTINGS = """home = "data"
plugins_loaded = ["concise", "mine", "one", "tidy", "tidy_notes", "two"]
"""

BAD = '''
import pluggy

hookimpl = pluggy.HookimplMarker("heed")


class Loud:
    """Likes what is loud."""

    name = "loud"

    def __init__(self, settings):
        print("made")

    def read(self, answer):
        return 70.0 * answer.text.count("!") / len(answer.text)


@hookimpl
def heed_reward_signals():
    return [Loud]
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "data" / "plugins"
    made.mkdir(parents=True)
    return made


@pytest.fixture
def heed(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Heed:
    """Runs a command in a folder of its own; exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "heed.toml").write_text(SETTINGS)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        out, err = capfd.readouterr()
        return code, out, err

    return run


@pytest.mark.parametrize("kind", ["source", "signal"])
def test_a_new_plugin_passes_its_tests_and_checks_at_once(
    heed: Heed, folder: Path, tmp_path: Path, kind: str
) -> None:
    code, out, err = heed("plugins", "new", kind, "tidy_notes")
    assert code == 0
    assert out.split() == ["data/plugins/tidy_notes.py", "data/plugins/test_tidy_notes.py"]
    assert "class TidyNotes:" in (folder / "tidy_notes.py").read_text()

    code, out, err = heed("plugins", "test", "tidy_notes")
    assert code == 0, out + err
    assert " passed" in out
    assert "failed" not in out

    code, out, err = heed("plugins", "check", "tidy_notes")
    assert code == 0, out + err
    assert f"ok  tidy_notes: {kind} tidy_notes" in out

    code, out, _ = heed("plugins", "list")
    assert code == 0
    assert f"{kind} tidy_notes" in out


def test_a_folder_of_plugins_where_heed_is_started_is_not_taken_for_the_package(
    heed: Heed, tmp_path: Path
) -> None:
    (tmp_path / "heed.toml").write_text(SETTINGS.replace('"data"', '"."'))
    _, out, _ = heed("plugins", "new", "signal", "mine")
    assert out.split()[0] == "plugins/mine.py"
    for command in ("test", "check"):
        code, out, err = heed("plugins", command, "mine")
        assert code == 0, out + err


def test_the_settings_entry_that_is_told_can_be_used(heed: Heed, tmp_path: Path) -> None:
    entries = []
    for kind, name in (("source", "one"), ("signal", "two")):
        _, _, err = heed("plugins", "new", kind, name)
        entries.append(settings_entry(kind, name))  # type: ignore[arg-type]
        assert entries[-1] in err
    (tmp_path / "heed.toml").write_text(SETTINGS + "\n".join(entries))
    settings = load_settings()
    assert settings.sources[0].options == {"path": "notes"}
    assert settings.signals[0].weight == 0.1
    code, _, err = heed("plugins", "check")
    assert code == 0, err


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Notes", "cannot be a plugin's"),
        ("class", "cannot be a plugin's"),
        ("../up", "cannot be a plugin's"),
        ("json", "a plugin or module is named json"),
        ("faq_csv", "a plugin or module is named faq_csv"),
        ("pytest", "a plugin or module is named pytest"),
    ],
)
def test_a_name_that_cannot_be_used_is_refused(
    heed: Heed, folder: Path, name: str, told: str
) -> None:
    code, _, err = heed("plugins", "new", "source", name)
    assert code == 1
    assert told in err
    assert list(folder.iterdir()) == []


def test_a_plugin_that_is_there_is_not_written_over(heed: Heed, folder: Path) -> None:
    (folder / "mine.py").write_text("# mine\n")
    code, _, err = heed("plugins", "new", "signal", "mine")
    assert code == 1
    assert "exists already" in err
    assert (folder / "mine.py").read_text() == "# mine\n"


def test_a_failing_test_is_told_by_the_exit_code(heed: Heed, folder: Path) -> None:
    heed("plugins", "new", "signal", "tidy")
    written = folder / "tidy.py"
    written.write_text(written.read_text().replace("else -1.0", "else -2.0"))
    code, out, _ = heed("plugins", "test")
    assert code == 1
    assert "bring it into [-1, 1]" in out
    assert "A reading is in [-1, 1]." in out


def test_a_missing_test_is_told(heed: Heed) -> None:
    code, _, err = heed("plugins", "test", "nobody")
    assert code == 1
    assert "there is no test" in err
    assert "test_nobody.py" in err


def test_without_pytest_it_is_told_how_to_get_it(
    heed: Heed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    code, _, err = heed("plugins", "test")
    assert code == 2
    assert "heed[plugins-dev]" in err


def test_a_bad_plugin_is_told_check_by_check(heed: Heed, tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text(BAD)
    code, out, _ = heed("plugins", "check", "loud.py")
    assert code == 1
    assert "WRONG  loud: signal loud" in out
    assert "readings_are_in_range: 'In the garden!' reads" in out
    assert "empty_answer_is_taken: raised ZeroDivisionError" in out
    assert "loud.py:16" in out


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("import no_such_module\n", "ModuleNotFoundError"),
        ("raise SystemExit(3)\n", "SystemExit"),
        ("import os; os._exit(3)\n", "ended with code 3"),
        ("def heed_data_sources(): return []\n", "no hook answers a class"),
        ("this is no Python\n", "SyntaxError"),
    ],
)
def test_a_plugin_that_cannot_be_loaded_is_told(
    heed: Heed, tmp_path: Path, content: str, told: str
) -> None:
    (tmp_path / "odd.py").write_text(content)
    code, out, _ = heed("plugins", "check", "odd.py")
    assert code == 1
    assert "WRONG  odd: " in out
    assert told in out


def test_a_plugin_that_hangs_is_ended(
    heed: Heed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from service import plugin_check
    from service.plugin_finding import Found

    (tmp_path / "slow.py").write_text("import time; time.sleep(60)\n")
    found = Found("slow", f"file:{tmp_path / 'slow.py'}")
    assert "was not done after 1 s" in plugin_check.check_plugin(found, {}, limit_s=1).error


def test_wrong_options_of_the_settings_are_told(heed: Heed, tmp_path: Path) -> None:
    (tmp_path / "heed.toml").write_text(
        SETTINGS + '[[signals]]\nname = "short"\nplugin = "concise"\noptions = { words = 0 }\n'
    )
    code, _, err = heed("plugins", "check")
    assert code == 1
    assert "wrong setting: " in err
    assert "words" in err


def test_checking_an_unknown_plugin_names_the_known_ones(heed: Heed) -> None:
    code, _, err = heed("plugins", "check", "nobody")
    assert code == 1
    assert "there is no plugin 'nobody'; known are concise" in err


def test_a_file_is_not_installed_as_a_package() -> None:
    with pytest.raises(InvalidInputError, match="copy the file into the folder of plugins"):
        install(["notes.py"])


def test_installing_holds_every_package_but_those_of_plugins() -> None:
    held = pins()
    assert any(pin.startswith("pluggy==") for pin in held)
    assert "heed==0.1.0" in held
    assert len(held) == len({pin.split("==")[0] for pin in held})


def test_pytest_is_not_needed_to_run_or_check() -> None:
    script = (
        "import sys; sys.modules['pytest'] = None; import plugins.conformance.__main__; "
        "import service.plugin_check, service.commands.plugins, service.app"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_list_shows_how_plugins_do_and_which_are_off(heed: Heed, folder: Path) -> None:
    (folder / "mine.py").write_text("import no_such_module\n")
    code, out, _ = heed("plugins", "list")
    assert code == 1
    assert row(out, "concise")[3:] == ["on", "0", "0", "–", "–", "–"]
    assert row(out, "mine")[3] == "broken"
    assert "no_such_module" in row(out, "mine")[-1]

    database = open_database(load_settings().database)
    migrate(database)
    with session(database) as opened:
        note(opened, Called("concise", "read(answer)", 0.5, 40, None))
        note(opened, Called("concise", "read(answer)", 1.0, 60, "ValueError: no", its_fault=True))
        switch(opened, "concise", False, "Ada")
    database.dispose()
    _, out, err = heed("plugins", "list")
    off, *figures, told = row(out, "concise")[3:]
    assert off == "off: Ada switched it off"
    assert figures == ["2", "1", "0.75 s", "60 MB"]
    assert told == "ValueError: no"
    assert err == ""


def test_the_list_tells_where_the_database_is_of_another_version(heed: Heed) -> None:
    open_database(load_settings().database).dispose()
    code, _, err = heed("plugins", "list")
    assert code == 0
    assert "how they are doing is not known" in err


def row(out: str, name: str) -> list[str]:
    """The cells of the row that begins with a name; those of further lines are left out."""
    (line,) = (line for line in out.splitlines() if line.startswith(f"│ {name} "))
    return [cell.strip() for cell in line.strip("│ ").split("│")]
