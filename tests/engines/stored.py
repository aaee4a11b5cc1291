"""A base policy with versions that can be loaded, and others that must not be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from rlhf_engine.policy_version import CONFIG, WEIGHTS, PolicyVersionFolder
from tests.tiny import tiny_base
from tests.versions import store_version

UNSOUND = ("changed", "incomplete", "other base", "other rank", "not finite")


class Stored:
    """Version 0 and three adapters over `base`, whose adapters change what it says by `scale`."""

    def __init__(self, root: Path, base: Path, scale: float = 0.2) -> None:
        self.root, self.base, self.scale = root, base, scale
        self.policies = root / "policies"
        self.zero = PolicyVersionFolder.store(None, base, self.policies, {})
        self.one, self.two, self.three = (self._version(self.policies, seed) for seed in (1, 2, 3))

    def unsound(self, how: str) -> PolicyVersionFolder:
        """A version that no engine may load, made anew."""
        folder = self.root / how.replace(" ", "-")
        shutil.rmtree(folder, ignore_errors=True)
        if how == "other base":
            return store_version(tiny_base(folder / "base", seed=3), folder, folder, 9)
        if how == "not finite":
            return self._version(folder, 9, value=float("nan"))
        if how == "other rank":
            return self._of_rank(folder, 64)
        made = self._version(folder, 9)
        if how == "changed":
            shutil.copyfile(self.one.path / WEIGHTS, made.path / WEIGHTS)
        else:
            (made.path / WEIGHTS).unlink()
        return made

    def _version(self, folder: Path, seed: int, value: float | None = None) -> PolicyVersionFolder:
        return store_version(self.base, folder, self.root / "adapters", seed, value, self.scale)

    def _of_rank(self, folder: Path, rank: int) -> PolicyVersionFolder:
        """An adapter whose configuration says another rank than its tensors have."""
        adapter = folder / "adapter"
        shutil.copytree(self.one.path, adapter)
        config = json.loads((adapter / CONFIG).read_text())
        (adapter / CONFIG).write_text(json.dumps({**config, "r": rank}))
        return PolicyVersionFolder.store(adapter, self.base, folder, {})
