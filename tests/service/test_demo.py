"""The demonstration's parts: sizes that fit the time, a voter that errs, settings, progress."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlmodel import select

from rlhf_engine.records import Demonstration, Prompt, SampledAnswer
from service import training
from service.commands import terminal
from service.database import migrate, open_database, session
from service.demo import configuration, console, pairs, progress_file, sizing
from service.demo.memory import Peak, PeakMemory
from service.demo.report import Answers
from service.demo.run import BY, CYCLE_1, STEPS, Demo, Options
from service.demo.server import DemoServer
from service.demo.voter import ERROR_SHARE, vote
from service.errors import SettingsError, TrainingRunError
from service.tables import Comparison, PolicyVersion, TrainingRun, Turn

GOLD = "Reception in Boston is staffed from 08:00 to 17:30."
CLOSE = "Reception in Boston is staffed from 08:00 to 17:00."
FAR = "You may bring a bicycle into the garage of the office."


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The demonstration sets HEED_CONFIG for its own process."""
    monkeypatch.setenv("HEED_CONFIG", "")
    yield
    os.environ.pop("HEED_CONFIG", None)


def speed(forward: float) -> sizing.Speed:
    return sizing.Speed("bfloat16", forward, forward * 0.1)


def test_every_preset_costs_more_than_the_next_smaller_one() -> None:
    for measured in (speed(130), speed(1100)):
        costs = [sum(sizing.estimate(p, measured, 150).values()) for p in sizing.PRESETS]
        assert costs == sorted(costs, reverse=True)


def test_a_faster_machine_never_gets_smaller_sizes() -> None:
    order = [preset.name for preset in sizing.PRESETS]
    chosen = [sizing.choose(speed(f), 150, 1500).name for f in (130, 300, 600, 1100, 5000, 50_000)]
    places = [order.index(name) for name in chosen]
    assert places == sorted(places, reverse=True)
    assert chosen[0] == "least"
    assert chosen[-1] == "large"


def test_the_chosen_sizes_fit_the_time_where_any_do() -> None:
    measured = speed(1100)
    chosen = sizing.choose(measured, 150, 1400)
    assert sum(sizing.estimate(chosen, measured, 150).values()) * sizing.CAUTION <= 1400
    assert sizing.choose(measured, 150, 1) == sizing.PRESETS[-1]


def test_choosing_again_keeps_what_the_first_cycle_fixed() -> None:
    first = sizing.PRESETS[1]
    again = sizing.choose(
        speed(300), 150, 300, steps=sizing.AFTER_CYCLE_1, slowness=3.0, like=first
    )
    smallest = sizing.PRESETS[-1]
    assert (again.pairs, again.ppo_batches) == (smallest.pairs, smallest.ppo_batches)
    assert (again.passages, again.answer_tokens, again.top_layers, again.exam_questions) == (
        first.passages,
        first.answer_tokens,
        first.top_layers,
        first.exam_questions,
    )


def test_the_voter_prefers_agreement_then_brevity() -> None:
    mostly = [vote((CLOSE, FAR), GOLD, f"{n}").choice for n in range(200)]
    assert mostly.count("A") > mostly.count("B")
    long = f"{CLOSE} {CLOSE}"
    brevity = [vote((long, CLOSE), CLOSE, f"{n}").choice for n in range(200)]
    assert brevity.count("B") > brevity.count("A")


def test_the_voter_errs_one_time_in_ten_and_always_alike() -> None:
    votes = [vote((CLOSE, FAR), GOLD, f"seed {n}") for n in range(2000)]
    assert votes == [vote((CLOSE, FAR), GOLD, f"seed {n}") for n in range(2000)]
    wrong = sum(v.choice == "B" for v in votes) / len(votes)
    assert wrong == pytest.approx(ERROR_SHARE, abs=0.02)
    assert {v.strength for v in votes} == {"much"}


def test_the_voter_says_tie_and_both_bad() -> None:
    assert vote((CLOSE, f" {CLOSE}"), GOLD, "x").choice == "tie"
    assert vote(("zzz qqq", "xxyyx"), GOLD, "x").choice == "both_bad"


def test_the_settings_are_written_for_every_later_command(tmp_path: Path) -> None:
    sizes = sizing.PRESETS[2]
    written = configuration.sized_settings(tmp_path / 'a "b" ü', 8400, None, sizes, speed(1000))
    assert written.home == (tmp_path / 'a "b" ü').resolve()
    assert [source.name for source in written.sources] == [
        "company-documents",
        "company-gold",
        "company-exam",
    ]
    assert written.sources[2].purpose == "evaluation"
    assert written.answers.max_new_tokens == sizes.answer_tokens
    assert written.training.plan["ppo"]["rollout_batches"] == sizes.ppo_batches
    assert not written.training.schedule
    assert Path(os.environ["HEED_CONFIG"]) == written.home / "heed.toml"


def test_a_handbook_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no folder"):
        configuration.first_settings(tmp_path, 8400, tmp_path / "missing")


def test_a_home_of_other_data_is_refused(tmp_path: Path) -> None:
    done = progress_file.read(tmp_path, "company")
    progress_file.keep(tmp_path, done, sizes=sizing.PRESETS[0], runs={"cycle 1": "x"})
    assert progress_file.read(tmp_path, "company").sizes == sizing.PRESETS[0]
    with pytest.raises(SettingsError, match="another --home"):
        progress_file.read(tmp_path, "/a/handbook")


def test_pairs_and_votes_are_simulated_and_cast_once(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path}/heed.db")
    migrate(database)
    version = PolicyVersion(id="v", number=0)
    with session(database) as opened:
        opened.add(version)
    prompts = [Prompt(f"p{n}", f"Question {n}?") for n in range(3)]
    with session(database) as opened:
        person = pairs.simulated_person(opened, pairs.VOTER)
        for number, prompt in enumerate(prompts):
            answers = [
                SampledAnswer(prompt.id, text, (1,), (0.0,), "stop", 2 * number + side)
                for side, text in enumerate((CLOSE, FAR))
            ]
            settings = pairs.rlhf_engine.SamplingSettings()
            pairs.keep_turn(opened, person, version, prompt, answers, settings)
    golds = {prompt.question: GOLD for prompt in prompts[:2]}
    assert pairs.cast_votes(database, golds, seed=1) == 2
    assert pairs.cast_votes(database, golds, seed=1) == 0
    with session(database) as opened:
        assert all(turn.simulated for turn in opened.exec(select(Turn)))
        votes = opened.exec(select(Comparison)).all()
    assert [v.simulated for v in votes] == [True, True]
    assert {v.strength for v in votes} == {"much"}
    database.dispose()


def test_pair_questions_are_never_of_the_exam_and_come_round(tmp_path: Path) -> None:
    splits = ("train", "train", "held_out", "exam")
    items = tuple(
        Demonstration(Prompt(f"p{n}", f"Question {n}?", split=split), GOLD)  # type: ignore[arg-type]
        for n, split in enumerate(splits)
    )
    snapshot = pairs.rlhf_engine.Snapshot(tmp_path, "h", "d", items, (), ())
    chosen = pairs.choose_demonstrations(snapshot, 6, seed=3)
    ids = [item.prompt.id for item in chosen]
    assert sorted(ids) == ["p0", "p0", "p1", "p1", "p2", "p2"]
    assert len(set(ids[:3])) == 3
    assert chosen == pairs.choose_demonstrations(snapshot, 6, seed=3)


def test_every_estimated_step_belongs_to_a_step_that_is_shown() -> None:
    from service.demo.run import step_of

    costs = sizing.estimate(sizing.PRESETS[0], speed(1000), 150)
    assert {STEPS[step_of(name)] for name in costs} == {
        "cycle 1: SFT",
        "answer pairs",
        "cycle 2: reward model and PPO",
        "tables",
    }


def test_too_small_a_handbook_is_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    book = tmp_path / "book"
    book.mkdir()
    (book / "a.md").write_text("# Leave\n\n## How long is my leave?\n\n" + "It is long. " * 5)
    demo = Demo(Options(home=tmp_path / "home", handbook=book))
    with terminal.steps() as step, pytest.raises(TrainingRunError, match=r"at least 12.*headings"):
        demo.bring_data(step)
    demo.database.dispose()
    assert "handbook: " in capsys.readouterr().out


def test_a_server_that_cannot_start_says_where_to_look(tmp_path: Path) -> None:
    (tmp_path / "heed.toml").write_text("nonsense = 1\n")
    os.environ["HEED_CONFIG"] = str(tmp_path / "heed.toml")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    server = DemoServer(port, tmp_path / "server.log")
    server.start()
    with pytest.raises(TrainingRunError, match=r"server\.log"):
        server.wait_until_ready()
    assert "nonsense" in (tmp_path / "server.log").read_text()


def test_where_another_server_has_the_port_nothing_begins(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        server = DemoServer(port, tmp_path / "server.log")
        demo = Demo(Options(home=tmp_path, port=port))
        for begin in (server.start, demo.run):
            with pytest.raises(TrainingRunError, match=rf"port {port} .*--port"):
                begin()
    assert not (tmp_path / "server.log").exists()
    assert demo.done.took_s == {}


@pytest.mark.parametrize("state", ["queued", "interrupted"])
def test_a_run_that_was_begun_before_its_demonstration_was_killed_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    monkeypatch.setenv("HEED_BASE_POLICY", str(tmp_path / "none"))
    demo = Demo(Options(home=tmp_path))
    demo.done = replace(demo.done, speed=speed(1000), sizes=sizing.PRESETS[-1])
    demo.database = open_database(demo.settings.database)
    migrate(demo.database)
    with session(demo.database) as opened:
        begun = training.start_run(opened, demo.settings, BY, "the gold answers")
        begun.state = state
    # Without a base policy it ends soon.
    with terminal.steps() as step, pytest.raises(TrainingRunError, match="cycle 1 is failed"):
        demo.train_cycle(CYCLE_1, "the gold answers", step)
    assert progress_file.read(demo.home, "company").runs == {CYCLE_1: begun.id}
    with session(demo.database) as opened:
        assert len(opened.exec(select(TrainingRun)).all()) == 1
    demo.database.dispose()


HOLDS_200_MB = "b = bytearray(200_000_000); print(1, flush=True); input()"


def test_the_peak_says_which_process_held_how_much_and_when() -> None:
    memory = PeakMemory()
    memory.during = "cycle 1: SFT"
    memory.start()
    # The words after the script are what the module's name is in a worker's command line.
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDS_200_MB, "-m", "service.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    assert child.stdout.readline()
    seen = threading.Event()
    for _ in range(200):
        if memory.peak.held_mb.get("worker", 0) > 200 or seen.wait(0.05):
            break
    child.communicate(b"\n")
    memory.during = "tables"
    peak = memory.stop()
    assert 200 < peak.held_mb["worker"] < 260
    assert peak.held_mb["demo"] > 10
    assert peak.total_mb == sum(peak.held_mb.values())
    assert peak.during == "cycle 1: SFT"


def test_a_lower_peak_does_not_replace_that_of_an_earlier_go() -> None:
    known = Peak({"worker": 1e6}, "cycle 2")
    memory = PeakMemory(known)
    memory.start()
    assert memory.stop() is known


def test_the_memory_at_its_peak_is_shown_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = progress_file.read(tmp_path, "company")
    peak = Peak({"demo": 100.0, "worker": 2000.4, "server": 900.0}, "cycle 2, ppo: answers")
    kept = progress_file.keep(tmp_path, done, peak=peak)
    assert progress_file.read(tmp_path, "company") == kept
    row = {"question": "When?", "gold": GOLD, "answer": CLOSE, "chrf": 80.0, "rouge_l": 0.9}
    console.show_results(tmp_path, [Answers("base", [row] * 4, [])], kept, STEPS)
    said = capsys.readouterr().out
    at = [said.index(text) for text in ("2000 MB", "900 MB", "100 MB", "3000 MB")]
    assert at == sorted(at), "the largest comes first, the sum last"
    assert "during cycle 2, ppo: answers." in said
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["peak_mb"] == 3000.4
    assert written["peak"] == {"during": peak.during, "held_mb": peak.held_mb}


def test_the_time_spent_is_kept_over_goes(tmp_path: Path) -> None:
    demo = Demo(Options(home=tmp_path, minutes=10))
    demo.done = replace(demo.done, took_s={"base policy": 120.0})
    assert demo.seconds_left() == 480
