"""heed demo: the whole loop on a small company, or on a handbook of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    handbook: Annotated[
        Path | None, typer.Option(help="Folder of Markdown pages to use instead of the company.")
    ] = None,
    home: Annotated[
        Path, typer.Option(help="Folder of everything it writes; run again, it goes on there.")
    ] = Path("heed-demo"),
    port: Annotated[int, typer.Option(help="Port of the page.", min=1, max=65535)] = 8321,
    minutes: Annotated[
        float, typer.Option(help="Time for all steps; the sizes are chosen to fit.", min=1)
    ] = 25.0,
    once: Annotated[
        bool, typer.Option("--once", help="End after the tables instead of serving the page.")
    ] = False,
) -> None:
    """Run the whole loop: data, SFT, simulated votes, reward model, PPO, gate, swap; then serve.

    The page answers from the base policy while training goes on. Feedback is simulated and
    labelled so everywhere.
    """
    # Imported here: the other commands need none of it.
    from service.demo.run import Demo, Options

    Demo(Options(home=home, port=port, handbook=handbook, minutes=minutes, once=once)).run()
