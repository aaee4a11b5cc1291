"""The command line: what it says, on which stream, and with which exit code."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlmodel import select

from service import audit
from service.cli import main
from service.commands.terminal import duration
from service.database import migrate, open_database, session
from service.policies import register_base, register_candidate
from service.settings import load_settings
from service.tables import GoldAnswer, TrainingRun
from service.web_server import DrainingServer
from service.wording import content_hash
from tests.tiny import tiny_base

Heed = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def heed(
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Heed:
    """Runs a command in a folder of its own; exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "heed.toml").write_text(
        f'base_policy = "{base}"\n'
        '[[sources]]\nname = "gold"\nplugin = "faq_csv"\noptions = { path = "gold.csv" }\n'
    )
    (tmp_path / "gold.csv").write_text("question,answer\nWhen?,At nine.\nWhere?,\n")

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_help_names_every_command_and_the_exit_codes(heed: Heed) -> None:
    code, out, _ = heed("--help")
    assert code == 0
    commands = (
        "demo serve sync train promote candidate rollback replay policies plugins fetch-base "
        "export check"
    )
    for command in commands.split():
        assert command in out
    assert "4 refused by the gate" in " ".join(out.split())
    for command in (*commands.split(), "train start", "train resume"):
        code, out, _ = heed(*command.split(), "--help")
        assert code == 0
        assert "Usage: heed" in out


def test_help_loads_no_heavy_library_and_is_quick() -> None:
    script = (
        "import sys\nfrom service.cli import main\ncode = main(['--help'])\n"
        "heavy = {'torch', 'transformers', 'litestar', 'sqlalchemy', 'apscheduler', 'alembic'}\n"
        "sys.stderr.write(' '.join(sorted(heavy & set(sys.modules))))\nsys.exit(code)\n"
    )
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nonsense",), "nonsense"),
        (("promote",), "VERSION"),
        (("export", "poems", "x"), "poems"),
        (("sync", "elsewhere"), "known: gold"),
        (("train", "start", "--set", "seed"), "NAME=VALUE"),
    ],
)
def test_wrong_use_ends_with_2(heed: Heed, arguments: tuple[str, ...], said: str) -> None:
    code, out, err = heed(*arguments)
    assert (code, out) == (2, "")
    assert said in err


def test_a_wrong_setting_ends_with_2_and_is_named(
    heed: Heed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEED_PORT", "banana")
    code, _, err = heed("check")
    assert code == 2
    assert "port is 'banana'" in err


def test_an_error_is_one_message_without_a_stack_trace(heed: Heed, tmp_path: Path) -> None:
    code, out, err = heed("policies")
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert "heed serve" in err
    assert "Traceback" not in err


def test_sync_shows_the_report_and_what_was_left_out(heed: Heed, tmp_path: Path) -> None:
    code, out, err = heed("sync")
    assert code == 0
    assert "gold" in out
    assert "line 3" in err
    (tmp_path / "gold.csv").unlink()
    code, out, err = heed("sync", "gold")
    assert code == 1
    assert "gold.csv" in out


def test_without_sources_there_is_nothing_to_sync(heed: Heed, tmp_path: Path) -> None:
    (tmp_path / "heed.toml").write_text("")
    code, _, err = heed("sync")
    assert code == 3
    assert "[[sources]]" in err


def test_training_without_evidence_ends_with_3(heed: Heed, tmp_path: Path) -> None:
    (tmp_path / "gold.csv").write_text("question,answer\n")
    heed("sync")
    code, _, err = heed("train", "start")
    assert code == 3
    assert "no gold answer" in err
    _add_gold()
    code, _, err = heed("train", "start", "--if-enough")
    assert code == 3
    assert "fewer than 50" in err
    assert heed("train", "resume")[0] == 1


def test_a_run_is_queued_shown_and_cancelled(heed: Heed) -> None:
    heed("sync")
    assert "no training run yet" in heed("train", "status")[1]
    code, out, _ = heed("train", "start", "--no-wait", "--set", "ppo.rollout_batches=4")
    assert code == 0
    run_id = out.split()[1]
    engine = open_database(load_settings().database)
    with session(engine) as opened:
        assert opened.exec(select(TrainingRun)).one().plan == {"ppo": {"rollout_batches": 4}}
    engine.dispose()
    assert "queued" in heed("train", "status", run_id)[1]
    assert heed("train", "start", "--no-wait")[0] == 1
    assert heed("train", "cancel", run_id[:4]) == (0, f"run {run_id} is cancelled\n", "")
    assert heed("train", "cancel")[0] == 1
    assert heed("train", "start", "--no-wait", "--set", "ppo.gamma=3")[0] == 2


def test_promote_and_rollback_move_the_live_version(heed: Heed, base: Path, tmp_path: Path) -> None:
    heed("sync")
    assert heed("policies")[0] == 3
    assert heed("rollback")[0] == 3
    first, rejected = _two_versions(base, tmp_path)
    code, out, _ = heed("promote", "v1")
    assert (code, out) == (0, f"v1 ({first}) is live\n")
    assert heed("promote", "1")[0] == 0, "live already: nothing to do"
    assert heed("promote", rejected[:8])[0] == 4
    assert heed("promote", "v9")[0] == 1
    code, out, _ = heed("policies")
    assert code == 0
    assert [line.split()[1] for line in out.splitlines() if "│ v" in line] == ["v0", "v1", "v2"]
    assert heed("rollback")[0] == 0
    assert heed("rollback")[0] == 0


def test_plugins_lists_the_built_in_ones(heed: Heed) -> None:
    code, out, _ = heed("plugins")
    assert code == 0
    for name in ("concise", "faq_csv", "grounded", "markdown_folder"):
        assert name in out


def test_fetch_base_takes_a_folder_as_it_is(heed: Heed, base: Path, tmp_path: Path) -> None:
    code, out, _ = heed("fetch-base")
    assert code == 0
    assert str(base) in out.replace("\n", "")
    (tmp_path / "empty").mkdir()
    code, _, err = heed("fetch-base", str(tmp_path / "empty"))
    assert code == 1
    assert "config.json" in err


def test_check_says_what_to_mend(heed: Heed, tmp_path: Path) -> None:
    assert heed("check")[0] == 0
    (tmp_path / "heed.toml").write_text('[[signals]]\nname = "x"\nplugin = "nope"\n')
    code, out, err = heed("check")
    assert code == 1
    assert "WRONG  plugins" in out
    assert err == "1 to mend\n"


def test_export_without_feedback_ends_with_3(heed: Heed, tmp_path: Path) -> None:
    heed("sync")
    code, out, _ = heed("export", "preference", str(tmp_path / "out.jsonl"))
    assert code == 3
    assert out.startswith("0 rows")
    code, out, _ = heed("export", "prompt-completion", str(tmp_path / "out.jsonl"))
    assert (code, len((tmp_path / "out.jsonl").read_text().splitlines())) == (0, 1)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "0 s"), (89, "89 s"), (90, "2 min"), (1500, "25 min"), (5400, "1 h 30 min")],
)
def test_durations_read_as_people_say_them(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_the_candidate_is_set_and_cleared(heed: Heed, base: Path, tmp_path: Path) -> None:
    first, rejected = _two_versions(base, tmp_path)
    code, _, err = heed("candidate")
    assert (code, "give either a VERSION or --clear" in err) == (2, True)
    assert heed("candidate", "--clear")[0] == 3
    code, _, err = heed("candidate", rejected)
    assert (code, "was rejected by its gate" in err) == (1, True)
    code, out, _ = heed("candidate", "v1")
    assert (code, f"v1 ({first}) is the candidate\n" in out) == (0, True)
    assert "candidate" in next(line for line in heed("policies")[1].splitlines() if first in line)
    assert f"v1 ({first}) is no longer the candidate\n" in heed("candidate", "--clear")[1]
    engine = open_database(load_settings().database)
    with session(engine) as opened:
        noted = [(row.entry.action, row.entry.target) for row in audit.entries(opened)]
    engine.dispose()
    # The newest first; what was refused is no deed.
    assert noted == [
        ("policy.candidate_cleared", f"policy:{first}"),
        ("policy.candidate_set", f"policy:{first}"),
    ]


def test_links_name_the_port_that_was_chosen(heed: Heed, monkeypatch: pytest.MonkeyPatch) -> None:
    listening: list[int] = []

    def run(_server: DrainingServer, sockets: list[socket.socket]) -> None:
        for bound in sockets:
            listening.append(bound.getsockname()[1])
            bound.close()

    monkeypatch.setattr(DrainingServer, "run", run)
    code, out, err = heed("serve", "--port", "0")
    assert (code, len(listening)) == (0, 1), err
    assert f"Heed serves http://127.0.0.1:{listening[0]} " in out
    assert f"http://127.0.0.1:{listening[0]}/welcome#" in out
    monkeypatch.setenv("HEED_PORT", "0")
    _code, out, err = heed("people", "invite")
    assert "http://127.0.0.1:0/welcome#" in out
    assert "instead of :0" in err


def test_an_answer_that_is_not_there_cannot_be_replayed(heed: Heed, base: Path) -> None:
    settings = load_settings()
    engine = open_database(settings.database)
    migrate(engine)
    engine.dispose()
    code, out, err = heed("replay", "chatcmpl-nothing")
    assert (code, out) == (1, "")
    assert "there is no answer 'chatcmpl-nothing'" in err


def _add_gold() -> None:
    engine = open_database(load_settings().database)
    with session(engine) as opened:
        gold = GoldAnswer(
            external_id="1", question="When?", answer="At nine.", content_hash=content_hash("x")
        )
        opened.add(gold)
    engine.dispose()


def _two_versions(base: Path, folder: Path) -> tuple[str, str]:
    """Version 1, a candidate, and version 2, which its gate rejected; returns their ids."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from rlhf_engine import PolicyVersionFolder

    settings = load_settings()
    engine = open_database(settings.database)
    migrate(engine)
    ids = []
    for seed, state in ((1, "candidate"), (2, "rejected")):
        torch.manual_seed(seed)
        adapter = folder / f"adapter-{seed}"
        policy = AutoModelForCausalLM.from_pretrained(base, use_safetensors=True)
        lora = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
        get_peft_model(policy, lora).save_pretrained(adapter)
        stored = PolicyVersionFolder.store(adapter, base, settings.policies, {})
        with session(engine) as opened:
            register_base(opened, settings, base)
            row = register_candidate(opened, stored, "sft", None, None, None, {})
            row.state = state
            opened.add(row)
        ids.append(stored.id)
    engine.dispose()
    return ids[0], ids[1]
