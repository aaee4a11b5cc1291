"""How often somebody may try to sign in, so that passwords cannot be guessed by trying.

Counted in this process's memory: a restart forgets, and each server counts its own.
"""

from __future__ import annotations

import math
import time

from limits import RateLimitItem, RateLimitItemPerHour, RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from service.errors import TooManyAttemptsError
from service.secret_tokens import token_hash

FROM_ONE_PLACE = RateLimitItemPerMinute(10, 10, namespace="place")
"""For one account from one address: nobody elsewhere can lock its owner out with it."""
FOR_ONE_ACCOUNT = RateLimitItemPerHour(100, 1, namespace="account")
"""For one account from all addresses together."""
FROM_ONE_ADDRESS = RateLimitItemPerMinute(100, 10, namespace="address")
"""From one address for all accounts: a whole office may share one."""


class SignInLimits:
    """The tries of lately. Threads may share it."""

    def __init__(self) -> None:
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    def count(self, name: str, address: str) -> None:
        """Count a try; TooManyAttemptsError, with the time to wait, where it is one too many."""
        # Hashed: a try may hold a password typed into the wrong field.
        account = token_hash(name)
        self._hit(FROM_ONE_ADDRESS, address)
        self._hit(FROM_ONE_PLACE, account, address)
        self._hit(FOR_ONE_ACCOUNT, account)

    def count_address(self, address: str) -> None:
        """Count a try that names no account, such as a one-time link's."""
        self._hit(FROM_ONE_ADDRESS, address)

    def forget(self, name: str, address: str) -> None:
        """The try was good: the next ones from there are not counted with those before."""
        self._limiter.clear(FROM_ONE_PLACE, token_hash(name), address)

    def _hit(self, item: RateLimitItem, *keys: str) -> None:
        if self._limiter.hit(item, *keys):
            return
        reset, _left = self._limiter.get_window_stats(item, *keys)
        wait_s = max(1, math.ceil(reset - time.time()))
        minutes = math.ceil(wait_s / 60)
        raise TooManyAttemptsError(
            f"too many tries; wait {minutes} minute{'s' if minutes > 1 else ''} and try again",
            wait_s,
        )
