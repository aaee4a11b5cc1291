"""The web application: the parts of the service made at start, joined to the handlers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from importlib.metadata import version

import structlog
from litestar import Litestar
from litestar.datastructures import State
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin

from service.answering import Answering
from service.database import check_schema, open_database
from service.heartbeat import Heartbeat
from service.plugin_state import open_host
from service.scheduler import Scheduler
from service.serving import EngineFactory, Serving
from service.settings import Settings
from service.sign_in_company import IdentityProvider
from service.source_desk import SourceDesk
from service.swap import Swapper
from service.tables import new_id
from service.training import Conductor
from service.web import (
    account,
    asking,
    export,
    feedback_figures,
    health,
    history,
    leaderboard,
    my_feedback,
    notices,
    openai_chat,
    openai_feedback,
    openai_models,
    page,
    passages,
    people,
    plugins,
    review,
    run_details,
    runs,
    sign_in,
    signals,
    snapshots,
    sources,
    versions,
    vote_queue,
    voting,
)
from service.web.openai_errors import to_response
from service.web.parts import Parts, provide_parts
from service.web.rights import SCHEMES, operation_id
from service.web.security import LONGEST_BODY, RequestRules, add_headers
from service.web.sessions import (
    provide_admin,
    provide_asker,
    provide_caller,
    provide_guest,
    provide_operator,
    provide_person,
    provide_reviewer,
    provide_visitor,
)

log = structlog.get_logger(__name__)


def create_app(settings: Settings, *, engine_factory: EngineFactory | None = None) -> Litestar:
    """The application for these settings; DatabaseError unless the database is migrated.

    It serves the page at once and answers questions as soon as the base policy is loaded.
    `engine_factory` makes the engine from the base policy's folder; by default TorchEngine.
    """
    database = open_database(settings.database)
    check_schema(database)
    serving = Serving(settings, engine_factory)
    answering = Answering(database, settings, serving)
    swapper = Swapper(database, settings, serving)
    provider = _provider(settings)
    desk = SourceDesk(partial(open_host, settings, database))
    parts = Parts(settings, database, serving, answering, swapper, sources=desk, provider=provider)
    return Litestar(
        route_handlers=[
            page.page,
            page.shell,
            page.static_files,
            page.me,
            asking.ask,
            asking.follow,
            asking.stop,
            voting.compare,
            voting.thumb,
            voting.correct,
            vote_queue.next_pair,
            vote_queue.vote_on_pair,
            vote_queue.voting_figures,
            vote_queue.list_checks,
            my_feedback.list_feedback,
            my_feedback.list_effects,
            my_feedback.reveal,
            my_feedback.change_comparison,
            my_feedback.withdraw_comparison,
            my_feedback.change_thumb,
            my_feedback.withdraw_thumb,
            my_feedback.change_correction,
            my_feedback.withdraw_correction,
            history.list_conversations,
            history.show_conversation,
            history.change_conversation,
            history.delete_conversation,
            history.show_turn,
            passages.show_passage,
            runs.list_runs,
            runs.show_run,
            run_details.show_plot,
            run_details.show_log,
            run_details.show_curves,
            run_details.show_samples,
            snapshots.show_snapshot,
            snapshots.show_votes,
            snapshots.show_thumbs,
            snapshots.show_gold_answers,
            snapshots.show_documents,
            runs.start_run,
            runs.cancel_run,
            runs.resume_run,
            runs.approve_run,
            runs.reject_run,
            versions.list_policies,
            versions.show_policy,
            versions.show_answer_line,
            versions.promote,
            versions.roll_back,
            leaderboard.show_leaderboard,
            review.show_waiting,
            review.list_queue,
            review.accept_correction,
            review.reject_correction,
            review.write_answer,
            review.settle,
            review.withdraw_verified,
            review.confirm_verified,
            export.export,
            feedback_figures.show_figures,
            feedback_figures.show_topics,
            sources.list_sources,
            sources.show_source,
            sources.preview,
            sources.preview_known,
            sources.make_source,
            sources.change_source,
            sources.remove_source,
            sources.sync_now,
            signals.list_signals,
            signals.read_text,
            plugins.list_plugins,
            plugins.switch,
            notices.list_notices,
            notices.read_notice,
            notices.read_all_notices,
            openai_chat.complete,
            openai_models.list_models,
            openai_models.show_model,
            openai_feedback.give_feedback,
            sign_in.ways,
            sign_in.sign_in,
            sign_in.sign_out,
            sign_in.look,
            sign_in.welcome,
            sign_in.leave_for_provider,
            sign_in.arrive_from_provider,
            account.show_account,
            account.rename,
            account.change_password,
            account.end_session,
            account.sign_out_everywhere,
            account.make_key,
            account.revoke_key,
            account.export_data,
            account.erase,
            people.list_people,
            people.change_person,
            people.reset_password,
            people.erase_person,
            people.list_invitations,
            people.invite,
            people.withdraw_invitation,
            people.list_keys,
            people.revoke_any_key,
            people.list_audit,
            health.live,
            health.ready,
        ],
        dependencies={
            "parts": Provide(provide_parts),
            "asker": Provide(provide_asker, sync_to_thread=True),
            "guest": Provide(provide_guest, sync_to_thread=True),
            "visitor": Provide(provide_visitor, sync_to_thread=False),
            "person": Provide(provide_person, sync_to_thread=False),
            "caller": Provide(provide_caller, sync_to_thread=False),
            "reviewer": Provide(provide_reviewer, sync_to_thread=False),
            "operator": Provide(provide_operator, sync_to_thread=False),
            "admin": Provide(provide_admin, sync_to_thread=False),
        },
        lifespan=[_lifespan(parts)],
        state=State({"parts": parts}),
        middleware=[RequestRules(settings)],
        before_send=[add_headers],
        exception_handlers={Exception: to_response},
        request_max_body_size=LONGEST_BODY,
        openapi_config=OpenAPIConfig(
            title="Heed",
            version=version("heed"),
            path="/schema",
            components=SCHEMES,
            operation_id_creator=operation_id,
            render_plugins=[JsonRenderPlugin(path=["/", "/openapi.json"])],
        ),
        logging_config=None,
    )


def _provider(settings: Settings) -> IdentityProvider | None:
    if settings.oidc.issuer is None:
        return None
    # Imported here: its libraries take long, and most deployments do without.
    from service.sign_in_provider import Provider

    return Provider(settings.oidc)


def _lifespan(parts: Parts) -> Callable[[Litestar], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_app: Litestar) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await _start(stack, parts)
            yield
            drain_s = parts.settings.answers.drain_s
            log.info("server_stops", next=f"answers may end for up to {drain_s:.0f} s")
            await parts.answering.drain(drain_s)
            await asyncio.to_thread(parts.answering.close)
            await asyncio.to_thread(parts.sources.close)

    return lifespan


async def _start(stack: AsyncExitStack, parts: Parts) -> None:
    """Start everything, each with its end on the stack; ended in the opposite order."""
    settings, database, serving = parts.settings, parts.database, parts.serving
    instance_id = new_id()
    stack.callback(database.dispose)

    async def begin(part: Heartbeat | Swapper | Scheduler | Conductor) -> None:
        await asyncio.to_thread(part.start)
        stack.push_async_callback(asyncio.to_thread, part.stop)

    await begin(Heartbeat(database, instance_id, f"http://{settings.host}:{settings.port}"))
    stack.push_async_callback(asyncio.to_thread, serving.close, 0.0)
    await begin(parts.swapper)
    await begin(Conductor(database, settings, instance_id))
    await begin(Scheduler(database, settings, instance_id))
