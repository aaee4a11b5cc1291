"""A reranker that asks a server which passages fit the question best.

Speaks the request that vLLM, Infinity, Jina and Cohere share: POST {"model", "query",
"documents"}, answered by {"results": [{"index", "relevance_score"}]}.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import urlsplit

import httpx
from pydantic import AfterValidator, BaseModel, Field, SecretStr

from plugins.contract import PluginError, Reranker, ShownPassage
from plugins.hookspecs import hookimpl


def _web_address(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme in ("http", "https") and parts.hostname:
        return value
    raise ValueError('give an address like "http://localhost:8000/v1/rerank"')


class RerankServer:
    """Orders passages by a cross-encoder that a server of yours runs."""

    name = "rerank_server"

    class Settings(BaseModel):
        url: Annotated[str, AfterValidator(_web_address)] = Field(
            description="The server's address, such as http://localhost:8000/v1/rerank."
        )
        model: str = Field(min_length=1, description="The model's name there.")
        api_key: SecretStr | None = Field(
            default=None, description="Where the server asks for one."
        )
        timeout_s: float = Field(
            default=5.0, gt=0, le=60, description="Longest wait; people wait with it."
        )

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        headers = {"User-Agent": "heed"}
        if settings.api_key is not None:
            headers["Authorization"] = f"Bearer {settings.api_key.get_secret_value()}"
        self._client = httpx.Client(headers=headers, timeout=settings.timeout_s, trust_env=False)

    def rerank(self, question: str, passages: Sequence[ShownPassage]) -> Sequence[float]:
        """The server's score of each passage; PluginError where it gives none."""
        if not passages:
            return []
        documents = [f"{passage.title}\n\n{passage.text}" for passage in passages]
        asked = {"model": self.settings.model, "query": question, "documents": documents}
        try:
            answer = self._client.post(self.settings.url, json=asked)
            answer.raise_for_status()
            return _scores(answer.json(), len(passages))
        except httpx.HTTPStatusError as error:
            raise PluginError(
                f"the rerank server answered {error.response.status_code}; check the options url, "
                "model and api_key"
            ) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise PluginError(
                f"the rerank server could not be reached ({error or type(error).__name__}); "
                "check the option url and whether it runs"
            ) from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise PluginError(
                "the rerank server's answer holds no score for each passage; check that url is "
                "the address of its rerank endpoint"
            ) from error


def _scores(answer: Any, count: int) -> list[float]:
    read = {int(row["index"]): float(row["relevance_score"]) for row in answer["results"]}
    scores = [read[number] for number in range(count)]
    if not all(map(math.isfinite, scores)):
        raise ValueError("a score is not finite")
    return scores


@hookimpl
def heed_rerankers() -> Sequence[type[Reranker]]:
    """One reranker."""
    return (RerankServer,)
