"""What the handlers work with: made once at start, handed to each by its parameter `parts`."""

from __future__ import annotations

from dataclasses import dataclass, field

from litestar.datastructures import State
from litestar.di import NamedDependency
from sqlalchemy import Engine

from service.answering import Answering
from service.feedback_figures import FeedbackFigures
from service.known_askers import KnownAskers
from service.leaderboard import Leaderboards
from service.serving import Serving
from service.settings import Settings
from service.sign_in_company import IdentityProvider
from service.sign_in_limits import SignInLimits
from service.source_desk import SourceDesk
from service.swap import Swapper


@dataclass(frozen=True, slots=True)
class Parts:
    """The running service."""

    settings: Settings
    database: Engine
    serving: Serving
    answering: Answering
    swapper: Swapper
    askers: KnownAskers = field(default_factory=KnownAskers)
    sources: SourceDesk = field(default_factory=SourceDesk)
    figures: FeedbackFigures = field(default_factory=FeedbackFigures)
    leaderboards: Leaderboards = field(default_factory=Leaderboards)
    sign_in_limits: SignInLimits = field(default_factory=SignInLimits)
    provider: IdentityProvider | None = None


GivenParts = NamedDependency[Parts]
"""The parts, as a parameter of a handler."""


async def provide_parts(state: State) -> Parts:
    """The parts of this application."""
    parts: Parts = state.parts
    return parts
