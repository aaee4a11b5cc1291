"""What the demonstration prints: the sizes it chose, and at the end what came of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from service.commands import terminal
from service.demo import report, sizing
from service.demo.memory import Peak
from service.demo.progress_file import Done


def show_sizes(sizes: sizing.Sizes, speed: sizing.Speed, questions: int) -> None:
    """The machine's speed, the preset and the time each step should take."""
    terminal.say(
        f"This machine reads {speed.forward_tokens_per_s:.0f} tokens/s in {speed.dtype} and "
        f'draws {speed.drawn_tokens_per_s:.0f}; preset "{sizes.name}":'
    )
    terminal.table("Sizes", ("size", "value"), sizing.described(sizes, questions))
    costs = sizing.estimate(sizes, speed, questions)
    terminal.table(
        "Estimated time",
        ("step", "about"),
        [(name, terminal.duration(cost)) for name, cost in costs.items()],
    )


def show_results(
    home: Path, answers: Sequence[report.Answers], done: Done, steps: Sequence[str]
) -> None:
    """The tables, and the same figures in HOME/report.json."""
    terminal.table(
        f"Before and after, on {len(answers[0].rows)} questions no training saw "
        "(feedback: simulated)",
        ("policy", "chrF", "ROUGE-L", "mean reward", "words"),
        report.before_and_after(answers),
    )
    terminal.table(
        "Gains, question by question", ("policies", "figure", "gain"), report.gains(answers)
    )
    terminal.table("Three sample answers of each version", ("", ""), report.samples(answers))
    took = done.took_s
    terminal.table("Time", ("step", "took"), [(s, f"{took.get(s, 0):.0f} s") for s in steps])
    _show_memory(done.peak)
    terminal.say(
        f"In all {terminal.duration(sum(took.values()))}; at most {done.peak.total_mb:.0f} MB in "
        f"all processes together, during {done.peak.during}."
    )
    extra = {
        "took_s": took,
        "peak_mb": done.peak.total_mb,
        "peak": {"during": done.peak.during, "held_mb": done.peak.held_mb},
        "sizes": done.sizes.name if done.sizes else None,
    }
    report.write_report(home / "report.json", answers, extra)


def _show_memory(peak: Peak) -> None:
    held = sorted(peak.held_mb.items(), key=lambda entry: -entry[1])
    terminal.table(
        "Memory at its peak",
        ("process", "held"),
        [(label, f"{mb:.0f} MB") for label, mb in held],
    )
