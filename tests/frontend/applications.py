"""The application in this process, on a core in another one."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
from fastapi import FastAPI

from frontend.app import create_app
from frontend.state import FrontendState
from ipc.client import EngineClient
from ipc.config import FrontendConfig
from ipc.endpoints import RunDir
from ipc.messages import ClientRole


@dataclass(frozen=True, slots=True)
class Application:
    app: FastAPI
    state: FrontendState
    http: httpx.AsyncClient


@asynccontextmanager
async def application(run_dir: RunDir, **settings) -> AsyncGenerator[Application, None]:
    """Ready to serve the model `fake`."""
    client = EngineClient(run_dir.core_socket, name="frontend-0", role=ClientRole.FRONTEND)
    state = FrontendState(FrontendConfig(**settings), client, created_at=1, config_file=run_dir.config_file)
    app = create_app(state)
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://x", timeout=20) as http,
    ):
        await client.wait_ready(20)
        await state.became_ready.wait()
        yield Application(app, state, http)
