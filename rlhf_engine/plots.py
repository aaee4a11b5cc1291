"""The run as a picture: RUN/plot.png, drawn from metrics.jsonl."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlhf_engine.files import replaced
from rlhf_engine.run_folder import RunFolder

PANELS = (
    ("sft/loss", "SFT loss"),
    ("reward_model/loss", "Reward model loss"),
    ("objective/score", "Reward model score of rollouts"),
    ("objective/rlhf_reward", "Reward of rollouts after the KL penalty"),
    ("objective/kl", "KL to the SFT policy (nats an answer)"),
    ("objective/kl_coefficient", "KL penalty"),
    ("policy/entropy", "Policy entropy (nats a token)"),
    ("value/explained_variance", "Critic's explained variance"),
    ("length/mean", "Answer length (tokens)"),
    ("policy/clipfrac", "Clipped share of tokens"),
)


def plot_run(run: RunFolder) -> bool:
    """Draw what the run measured so far; False where there is nothing to draw."""
    rows = run.metrics()
    panels = [(key, title) for key, title in PANELS if any(key in row for row in rows)]
    if not panels:
        return False
    with mpl.rc_context({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}):
        height = (len(panels) + 1) // 2
        figure = Figure(figsize=(9, 2.2 * height), layout="constrained")
        for at, (key, title) in enumerate(panels):
            _panel(figure.add_subplot(height, 2, at + 1), rows, key, title)
        with replaced(run.path / "plot.png") as temporary:
            figure.savefig(temporary, format="png", dpi=120)
    return True


def _panel(axes: Axes, rows: list[dict[str, Any]], key: str, title: str) -> None:
    values = [row[key] for row in rows if key in row]
    axes.plot(range(1, len(values) + 1), values, color="#1f6f8b", linewidth=1.4)
    axes.set_title(title, loc="left")
    axes.grid(visible=True, alpha=0.25)
