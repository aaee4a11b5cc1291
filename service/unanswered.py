"""Questions that no source could answer, in groups by the word they share.

No policy and no embedding is needed: the word that most of the questions left share names a
group, until no word is shared by enough of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import exists
from sqlmodel import Session, col, select, text

from service.retrieval import content_words
from service.review_tables import WITHOUT_SOURCE
from service.same_question import wording
from service.tables import Conversation, Turn, now

MOST_QUESTIONS = 2_000
SMALLEST_GROUP = 2
SHOWN = 5
LONG_PLURAL = 4


@dataclass(frozen=True, slots=True)
class Topic:
    """A group of questions: the words they share most, how many were asked, and the most asked
    of them. `words` is empty for the questions that share none."""

    words: tuple[str, ...]
    questions: int
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unanswered:
    """The questions without a source of a period; `more` says that only the newest were read."""

    questions: int
    topics: tuple[Topic, ...]
    more: bool


def unanswered(session: Session, days: int) -> Unanswered:
    """The questions of people that no passage fitted in the last `days` days, by topic."""
    deleted = exists().where(
        col(Conversation.id) == col(Turn.conversation_id), col(Conversation.deleted_at).is_not(None)
    )
    since: datetime = now() - timedelta(days=days)
    query = (
        select(Turn.question)
        .where(text(WITHOUT_SOURCE[session.get_bind().dialect.name]))
        .where(col(Turn.created_at) >= since, ~deleted)
        .order_by(col(Turn.created_at).desc())
        .limit(MOST_QUESTIONS + 1)
    )
    asked = session.exec(query).all()
    read = asked[:MOST_QUESTIONS]
    return Unanswered(len(read), tuple(topics(read)), len(asked) > len(read))


def topics(questions: Sequence[str]) -> list[Topic]:
    """Groups of the questions, the largest first; the rest, which share no word, last."""
    counts, texts = Counter[str](), dict[str, str]()
    for question in questions:
        key = wording(question) or question.casefold().strip()
        counts[key] += 1
        texts.setdefault(key, question)
    left = {key: {_stem(word) for word in content_words(texts[key])} for key in texts}
    found: list[Topic] = []
    while left:
        spread = Counter(word for words in left.values() for word in words)
        best = min(
            spread.items(), key=lambda item: (-item[1], -len(item[0]), item[0]), default=None
        )
        if best is None or best[1] < SMALLEST_GROUP:
            break
        group = [key for key, words in left.items() if best[0] in words]
        found.append(_topic(best[0], group, left, counts, texts))
        left = {key: words for key, words in left.items() if key not in group}
    found.sort(key=lambda topic: -topic.questions)
    if left:
        found.append(_topic("", list(left), left, counts, texts))
    return found


def _topic(
    word: str,
    group: list[str],
    words_of: dict[str, set[str]],
    counts: Counter[str],
    texts: dict[str, str],
) -> Topic:
    beside = Counter(other for key in group for other in words_of[key] if other != word)
    shared = [other for other, times in beside.most_common(2) if times * 2 > len(group)]
    most_asked = sorted(group, key=lambda key: -counts[key])[:SHOWN]
    return Topic(
        words=(word, *shared) if word else (),
        questions=sum(counts[key] for key in group),
        examples=tuple(texts[key] for key in most_asked),
    )


def _stem(word: str) -> str:
    """The word without a plural s, so that "laptops" and "laptop" meet."""
    plural = (
        len(word) > LONG_PLURAL and word.endswith("s") and not word.endswith(("ss", "us", "is"))
    )
    return word[:-1] if plural else word
