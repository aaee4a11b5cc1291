"""How long a sync waits for a source that is throttled or briefly out."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Retries:
    """`tries` in a row without a new checkpoint, with growing waits of `first_s` to `longest_s`
    seconds between them."""

    tries: int = 6
    first_s: float = 5.0
    longest_s: float = 300.0

    def wait_s(self, failed: int, asked_s: float | None) -> float | None:
        """Seconds to wait after the `failed`th try in a row, None where it was the last.

        The wait doubles each time, less a random part, so that many syncs do not come back at
        once; it is at least what the source asked for, and never beyond `longest_s`.
        """
        if failed >= self.tries:
            return None
        grown = self.first_s * 2.0 ** (failed - 1) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        asked = asked_s if asked_s is not None and math.isfinite(asked_s) else 0.0
        return min(max(grown, asked * random.uniform(1.0, 1.1)), self.longest_s)  # noqa: S311
