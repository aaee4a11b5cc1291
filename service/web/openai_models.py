"""`GET /v1/models`: the policy versions that can be asked, and what the aliases stand for."""

from __future__ import annotations

from typing import Literal

import msgspec
from litestar import get
from litestar.params import FromPath

from service.askable import Askable, askable, find_askable
from service.database import session
from service.errors import NotFoundError
from service.web.openai_errors import ModelNotFoundError
from service.web.parts import GivenParts
from service.web.rights import key_only
from service.web.sessions import GivenPerson


class Model(msgspec.Struct):
    """A name for `model` in a request. `version` is the exact policy version it stands for now,
    `number` its number, `kind` the last stage that shaped it ("base", "sft", "ppo", ...)."""

    id: str
    created: int
    version: str
    number: int
    kind: str
    aliases: list[str]
    owned_by: str = "heed"
    object: Literal["model"] = "model"


class ModelList(msgspec.Struct):
    """All of them."""

    data: list[Model]
    object: Literal["list"] = "list"


@get(
    "/v1/models",
    security=key_only("chat"),
    tags=["OpenAI"],
    sync_to_thread=True,
    summary="List what can be asked",
)
def list_models(caller: GivenPerson, parts: GivenParts) -> ModelList:
    """The aliases, then the loaded policy versions, the newest first."""
    del caller
    with session(parts.database) as opened:
        return ModelList([_model(entry) for entry in askable(opened, parts.serving)])


@get(
    "/v1/models/{model:str}",
    security=key_only("chat"),
    tags=["OpenAI"],
    sync_to_thread=True,
    summary="Show one of them",
)
def show_model(caller: GivenPerson, parts: GivenParts, model: FromPath[str]) -> Model:
    """What a name stands for."""
    del caller
    with session(parts.database) as opened:
        try:
            return _model(find_askable(opened, parts.serving, model))
        except NotFoundError as error:
            raise ModelNotFoundError(str(error)) from error


def _model(entry: Askable) -> Model:
    version = entry.version
    return Model(
        id=entry.name,
        created=int(version.created_at.timestamp()),
        version=version.id,
        number=version.number,
        kind=version.kind,
        aliases=list(entry.aliases),
    )
