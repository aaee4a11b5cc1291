"""What holds when the place refuses or goes away; needs the place's own means to do so."""

from __future__ import annotations

import time
from typing import Any

from plugins import contract
from plugins.conformance.checking import Broken, Checks, NotChecked, require
from plugins.conformance.source_reading import SourceSubject, as_item, kept, require_advice, stored

AT_ONCE_S = 20
"""A source says so this soon when it cannot read, rather than waiting itself."""
TEST_S = 10
WAIT_S = 37

TROUBLE_CHECKS: Checks[SourceSubject] = Checks()


@TROUBLE_CHECKS.add
def unreadable_place_is_a_source_error(source: SourceSubject) -> None:
    """A place that cannot be read raises SourceError that says what to do, and no Complete."""
    source.read()
    source.there.take_away()
    error = source.first_error(AT_ONCE_S)
    require(error is not None, "the sync ended as if all were well; everything would be removed")
    # A plugin without the contract's classes says it with an OSError of its own words.
    fitting = isinstance(error, contract.SourceError) or type(error) is OSError
    require(fitting, f"raised {error!r:.200}; raise SourceError, or RetryLater")
    require_advice(error)


@TROUBLE_CHECKS.add
def place_that_comes_back_is_read(source: SourceSubject) -> None:
    """After the place was away, the next sync brings everything."""
    before = kept(source.read())
    source.there.take_away()
    source.first_error(AT_ONCE_S)
    source.there.recover()
    require(kept(source.read()) == before, "after the place came back, the items are others")


@TROUBLE_CHECKS.add
def throttled_source_asks_to_retry(source: SourceSubject) -> None:
    """Where the place asks to wait (429), RetryLater is raised at once, with the seconds."""
    source.settings  # noqa: B018 - fills the place
    source.there.throttle(WAIT_S)
    error = source.first_error(AT_ONCE_S)
    require(isinstance(error, contract.RetryLater), f"raised {error!r:.200}; raise RetryLater")
    seconds = getattr(error, "seconds", None)
    right = isinstance(seconds, int | float) and abs(seconds - WAIT_S) <= 2
    require(right, f"the place asks to wait {WAIT_S} s; RetryLater says {seconds}")


@TROUBLE_CHECKS.add
def throttled_half_way_goes_on(source: SourceSubject) -> None:
    """Throttled half-way, going on from the last checkpoint brings all that was missing."""
    whole = kept(source.read())
    iterator = source.raw()
    before: list[contract.Item] = []
    try:
        for given in iterator:
            before.append(as_item(given))
            if isinstance(before[-1], contract.Checkpoint):
                break
        source.there.throttle(WAIT_S)
        before += [as_item(given) for given in iterator]
    except contract.RetryLater:
        pass
    source.there.recover()
    committed = _up_to_the_last_checkpoint(before)
    cursor = stored(committed) if committed else {}
    got = {**kept(committed), **kept(source.read(cursor))}
    missed = sorted(set(whole) - set(got))
    require(not missed, f"after waiting and going on, missing: {missed[:3]}")


@TROUBLE_CHECKS.add
def expired_secret_is_told(source: SourceSubject) -> None:
    """A secret that is taken no more raises SecretError, at once and without showing it."""
    secrets = source.secrets()
    source.there.expire()
    error = source.first_error(AT_ONCE_S)
    require(isinstance(error, contract.SecretError), f"raised {error!r:.200}; raise SecretError")
    require_advice(error)
    chain, shown = error, ""
    while chain is not None:
        shown += str(chain)
        chain = chain.__cause__ if isinstance(chain.__cause__, Exception) else None
    require(not any(secret in shown for secret in secrets), "the error shows the secret")


@TROUBLE_CHECKS.add
def connection_test_answers(source: SourceSubject) -> None:
    """check() answers a sentence within seconds."""
    began = time.monotonic()
    told = _checked(source)
    took = time.monotonic() - began
    require(
        isinstance(told, str) and bool(told.strip()), f"check() answered {told!r}; give a sentence"
    )
    require(took <= TEST_S, f"check() took {took:.0f} s; look at one thing only")


@TROUBLE_CHECKS.add
def connection_test_tells_trouble(source: SourceSubject) -> None:
    """check() raises SourceError where the place cannot be read."""
    _checked(source)
    source.there.take_away()
    try:
        told = _checked(source)
    except (contract.SourceError, OSError) as error:
        require_advice(error)
        return
    raise Broken(f"check() answered {told!r} although the place cannot be read")


def _checked(source: SourceSubject) -> Any:
    made = source.source()
    check = getattr(made, "check", None)
    if not callable(check):
        raise NotChecked("the class has no method check(); give it one to test the connection")
    return check()


def _up_to_the_last_checkpoint(items: list[contract.Item]) -> list[contract.Item]:
    if items and isinstance(items[-1], contract.Complete | contract.Partial):
        return items
    marks = [n for n, item in enumerate(items) if isinstance(item, contract.Checkpoint)]
    return items[: marks[-1] + 1] if marks else []
