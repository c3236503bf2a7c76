"""The application in this process, on the cores of a run dir, which are other ones."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
from fastapi import FastAPI

from frontend.app import create_app
from frontend.server_client import client_of_server
from frontend.state import FrontendState
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
    """Ready to serve the model `fake` by all cores that the run dir lists; by one where it has no list."""
    client = client_of_server(run_dir, name="frontend-0", role=ClientRole.FRONTEND)
    state = FrontendState(FrontendConfig(**settings), client, created_at=1, config_file=run_dir.config_file)
    app = create_app(state)
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://x", timeout=20) as http,
    ):
        await client.wait_ready(20)
        await state.became_ready.wait()
        async with asyncio.timeout(20):
            while not all(core.is_ready for core in client.cores):  # noqa: ASYNC110  there is no event for it
                await asyncio.sleep(0.001)
        yield Application(app, state, http)
