"""`app`: the server as an ASGI application, to which routes may be added before `uvicorn.run(app)`.

Its settings are those of `python -m fast_inference.cli_openai` without flags: `MODEL_PATH`, `TOKENIZER_PATH`,
`MODEL_NAME` and `FAST_INFERENCE_*`, read when this is imported. Nothing runs before its lifespan starts, which starts
an engine core of its own, in a child process (`supervised_core.py`); /health says 503 until that is ready. An engine
that was made in this process is served by `OpenAIServingEngine(engine, name).app` instead.
Every route, also one that was added, needs an API key where there are any, and has the limits of the others.
"""

import os
import secrets
import tempfile
import time
from pathlib import Path

from fastapi import FastAPI

from fast_inference.cli_openai import no_flags, openai_settings
from fast_inference.core.engine.create import frontend_config
from fast_inference.core.engine.supervised_core import SupervisedCore
from fast_inference.settings import served_names
from frontend.app import create_app
from frontend.state import FrontendState
from frontend.tracing import Tracing
from ipc.client import EngineClient
from ipc.endpoints import RunDir
from ipc.messages import ClientRole
from ipc.recovery import CoreLossPolicy


def create_server_app() -> FastAPI:
    """An application with an engine core of its own, by the environment as it is now.

    Raises:
        ConfigError: a setting is wrong.
    """
    settings = openai_settings(no_flags(), os.environ)
    settings = settings.model_copy(update={"served_model_name": served_names(settings)})
    path = settings.run_dir or Path(tempfile.gettempdir()) / f"fast-inference-{secrets.token_hex(8)}"
    run_dir = RunDir(path)
    client = EngineClient(
        run_dir.core_socket,
        name="app",
        role=ClientRole.FRONTEND,
        on_core_loss=CoreLossPolicy(settings.on_core_loss),
    )
    tracing = Tracing.of(settings)
    state = FrontendState(frontend_config(settings), client, created_at=int(time.time()), tracing=tracing)
    return create_app(state, engine=SupervisedCore(settings, run_dir))


app = create_server_app()
