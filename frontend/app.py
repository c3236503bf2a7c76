"""The ASGI application: routes, error handlers, middlewares, and the life of the link to the core.

`create_app` builds everything from one `FrontendState`; `__main__` serves it. Routes added by a user get the same
error envelope. Next: `openai/serving.py` for what happens to a completion.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Scope

from frontend.access import PUBLIC_ROUTES, ApiKeyMiddleware
from frontend.anthropic_api.error_envelope import AnthropicEnvelopeMiddleware
from frontend.anthropic_api.protocol import CountTokensRequest, MessagesRequest
from frontend.anthropic_api.serving import ServingCountTokens, ServingMessages
from frontend.batch_api.service import BatchApi
from frontend.batch_api.serving_batches import ServingBatches
from frontend.batch_api.serving_files import ServingFiles
from frontend.batch_api.upload import FORM_ROOM_BYTES
from frontend.cancellation import Cancellation
from frontend.cors import CrossOriginMiddleware
from frontend.docs_pages import add_docs_pages
from frontend.draining import DrainMiddleware
from frontend.edge import EdgeSettings
from frontend.errors import error_response, http_exception_response
from frontend.health import Health, package_version
from frontend.metrics.serving import ServingMetrics
from frontend.middleware import BodyLimitMiddleware, RequestContextMiddleware
from frontend.openai.chat_completions import OpenAIServingChat
from frontend.openai.completions import OpenAIServingCompletion
from frontend.openai.embeddings import OpenAIServingEmbedding
from frontend.openai.models import OpenAIServingModels
from frontend.openai.protocol import (
    ChatCompletionRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    RerankRequest,
    ScoreRequest,
    TokenizeRequest,
)
from frontend.openai.render import OpenAIServingRender
from frontend.openai.scoring import OpenAIServingRerank, OpenAIServingScore
from frontend.openai.tokenization import OpenAIServingTokenization
from frontend.openapi import body_schema, install_openapi
from frontend.responses_api.protocol import ResponsesRequest
from frontend.responses_api.serving import ServingResponses
from frontend.server_info import ServerInfo
from frontend.state import FrontendState
from frontend.webui import WebUI
from ipc.errors import FastInferenceError, InvalidRequestError

BodyEndpoint = Callable[[Request], Awaitable[Response]]


def create_app(state: FrontendState, engine: AbstractAsyncContextManager[None] | None = None) -> FastAPI:
    """The application of one frontend; its lifespan starts and closes `state`, within `engine` where it has its own."""

    batch_api = BatchApi(state.config)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None, None]:
        async with engine or nullcontext():
            await state.start()
            try:
                yield
            finally:
                await state.close()
                batch_api.close()

    app = FastAPI(
        title="fast-inference",
        version=package_version(),
        lifespan=lifespan,
        root_path=state.config.root_path,
        openapi_url="/openapi.json" if state.config.docs else None,
        docs_url=None,
        redoc_url=None,
        telemetry=state.tracing.telemetry,
    )
    app.state.edge = EdgeSettings.of(state.config)
    app.state.frontend = state  # for routes that a user adds
    uploads = {("POST", "/v1/files"): state.config.max_file_bytes + FORM_ROOM_BYTES}
    app.add_middleware(BodyLimitMiddleware, max_body_bytes=state.config.max_body_bytes, streamed_routes=uploads)
    webui = WebUI() if state.config.webui else None
    public_routes = PUBLIC_ROUTES | webui.public_routes if webui else PUBLIC_ROUTES
    app.add_middleware(ApiKeyMiddleware, config=state.config, public_routes=public_routes)
    app.add_middleware(DrainMiddleware, drain=state.drain)
    if state.config.allowed_origins:
        app.add_middleware(CrossOriginMiddleware, config=state.config)
    app.add_middleware(RequestContextMiddleware, echo_request_id=state.config.request_id_headers, metrics=state.metrics)
    app.add_middleware(AnthropicEnvelopeMiddleware)
    _add_error_handlers(app)
    _add_probes(app, Health(state))
    _add_endpoints(app, state)
    _add_batch_api(app, state, batch_api)
    metrics = ServingMetrics(state, batch_api)
    app.add_api_route("/metrics", metrics.metrics, methods=["GET"], tags=["server"], response_model=None)
    if state.config.docs:
        add_docs_pages(app)
    if webui is not None:
        webui.add_to(app)
    install_openapi(app, needs_key=bool(state.config.api_key))
    return app


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(FastInferenceError)
    async def _own_error(_: Request, error: FastInferenceError) -> Response:
        return error_response(error)

    @app.exception_handler(HTTPException)
    async def _http_error(request: Request, error: HTTPException) -> Response:
        headers = dict(error.headers) if error.headers else None
        if error.status_code == 405:
            headers = {"allow": ", ".join(_allowed_methods(app, request.scope))}
        return http_exception_response(error.status_code, str(error.detail), headers)

    @app.exception_handler(RequestValidationError)
    async def _invalid_body(_: Request, error: RequestValidationError) -> Response:
        """Only for routes that a user adds; ours check their bodies themselves."""
        detail = error.errors()[0]
        param = ".".join(str(step) for step in detail["loc"][1:])
        return error_response(InvalidRequestError(f"{param}: {detail['msg']}", param=param or None))


def _allowed_methods(app: FastAPI, scope: Scope) -> list[str]:
    """Of all routes with this path together; the router names those of the first one."""
    matching = [route for route in app.routes if isinstance(route, Route) and route.matches(scope)[0] is Match.PARTIAL]
    return sorted({method for route in matching for method in route.methods or ()})


def _add_probes(app: FastAPI, health: Health) -> None:
    probes = (
        ("/health", health.ready, ("GET",)),
        ("/health/live", health.live, ("GET",)),
        ("/ping", health.ready, ("GET", "POST")),
        ("/version", health.version, ("GET",)),
    )
    for path, endpoint, methods in probes:
        name = path.strip("/").replace("/", "_")
        for method in methods:
            app.add_api_route(
                path,
                endpoint,
                methods=[method],
                tags=["health"],
                response_model=None,
                operation_id=f"{name}_{method.lower()}",
            )
        app.add_api_route(path, endpoint, methods=["HEAD"], include_in_schema=False, response_model=None)


def _add_endpoints(app: FastAPI, state: FrontendState) -> None:
    models = OpenAIServingModels(state)
    tokenization = OpenAIServingTokenization(state)
    app.add_api_route("/v1/models", models.list_models, methods=["GET"], tags=["models"], response_model=None)
    app.add_api_route(
        "/v1/models/{model_id:path}", models.retrieve_model, methods=["GET"], tags=["models"], response_model=None
    )
    info = ServerInfo(state)
    app.add_api_route("/load", info.load, methods=["GET"], tags=["server"], response_model=None)
    app.add_api_route("/server_info", info.server_info, methods=["GET"], tags=["server"], response_model=None)
    cancellation = Cancellation(state)
    for path, method in (("/v1/requests/{request_id}/cancel", "POST"), ("/v1/requests/{request_id}", "DELETE")):
        app.add_api_route(path, cancellation.cancel, methods=[method], tags=["server"], response_model=None)
    chat = OpenAIServingChat(state)
    _add_post(app, "/v1/chat/completions", chat.serve, ChatCompletionRequest)
    _add_post(app, "/v1/completions", OpenAIServingCompletion(state).serve, CompletionRequest)
    render = OpenAIServingRender(state, tokenization)
    _add_post(app, "/v1/chat/completions/render", render.chat, ChatCompletionRequest)
    _add_post(app, "/v1/completions/render", render.completion, CompletionRequest)
    _add_post(app, "/v1/embeddings", OpenAIServingEmbedding(state).serve, EmbeddingRequest)
    _add_post(app, "/v1/responses", ServingResponses(state, chat).serve, ResponsesRequest)
    _add_post(app, "/v1/messages", ServingMessages(state, chat).serve, MessagesRequest, "anthropic")
    count_tokens = ServingCountTokens(state, tokenization)
    _add_post(app, "/v1/messages/count_tokens", count_tokens.serve, CountTokensRequest, "anthropic")
    score, rerank = OpenAIServingScore(state), OpenAIServingRerank(state)
    for prefix in ("", "/v1"):
        _add_post(app, f"{prefix}/score", score.serve, ScoreRequest)
        _add_post(app, f"{prefix}/tokenize", tokenization.tokenize, TokenizeRequest)
        _add_post(app, f"{prefix}/detokenize", tokenization.detokenize, DetokenizeRequest)
    for prefix in ("", "/v1", "/v2"):
        _add_post(app, f"{prefix}/rerank", rerank.serve, RerankRequest)


def _add_batch_api(app: FastAPI, state: FrontendState, api: BatchApi) -> None:
    files, batches = ServingFiles(state, api), ServingBatches(state, api)
    for method, path, endpoint in (
        ("POST", "/v1/files", files.upload),
        ("GET", "/v1/files", files.list_files),
        ("GET", "/v1/files/{file_id}", files.retrieve),
        ("DELETE", "/v1/files/{file_id}", files.delete),
        ("GET", "/v1/files/{file_id}/content", files.content),
        ("POST", "/v1/batches", batches.create),
        ("GET", "/v1/batches", batches.list_batches),
        ("GET", "/v1/batches/{batch_id}", batches.retrieve),
        ("POST", "/v1/batches/{batch_id}/cancel", batches.cancel),
    ):
        app.add_api_route(path, endpoint, methods=[method], tags=["batch"], response_model=None)


def _add_post(app: FastAPI, path: str, endpoint: BodyEndpoint, body_type: type[BaseModel], tag: str = "openai") -> None:
    """A route that reads its body itself, strictly; the schema is for the documentation."""
    extra: dict[str, Any] = {"requestBody": body_schema(body_type)}
    app.add_api_route(
        path,
        endpoint,
        methods=["POST"],
        tags=[tag],
        response_model=None,
        openapi_extra=extra,
        operation_id=path.strip("/").replace("/", "_"),
        name=path.rsplit("/", 1)[-1],
    )
