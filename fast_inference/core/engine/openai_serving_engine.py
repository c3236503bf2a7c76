"""Serves an in-process engine over the OpenAI API: the application of every frontend, in this process.

The application talks to the engine's core over its socket, as a frontend process does. It ends with its server; the
engine stays until it is closed. Next: `frontend/app.py`.
"""

import time
from typing import Any

from fastapi import FastAPI

from fast_inference.core.engine.create import frontend_config
from fast_inference.core.engine.universal_engine import UniversalEngine
from fast_inference.settings import served_names
from frontend.app import create_app
from frontend.state import FrontendState
from ipc.client import EngineClient
from ipc.config import DEFAULT_MODEL_ALIAS
from ipc.messages import ClientRole


class OpenAIServingEngine:
    """An engine with an HTTP API; `app` is an ASGI application, to which routes may be added before it is served.

    An application is served once; whoever wants to serve the engine again makes another one.
    """

    def __init__(self, engine: UniversalEngine, model_name: str = DEFAULT_MODEL_ALIAS) -> None:
        """The model is served as `model_name`, and as `fast-inference-model` too.

        Raises:
            ConfigError: one of the engine's adapters has one of these names.
        """
        self.engine = engine
        self.model_name = model_name
        names = served_names(
            engine.settings.model_copy(
                update={"served_model_name": tuple(dict.fromkeys((model_name, DEFAULT_MODEL_ALIAS)))}
            )
        )
        client = EngineClient(engine.run_dir.core_socket, name="app", role=ClientRole.FRONTEND)
        config = frontend_config(engine.settings, served_model_name=names)
        self.app: FastAPI = create_app(FrontendState(config, client, created_at=int(time.time())))

    def serve(self, host: str = "127.0.0.1", port: int = 8000, **options: Any) -> None:
        """Serve until a signal comes; `options` are those of `uvicorn.run`."""
        import uvicorn

        uvicorn.run(self.app, host=host, port=port, **options)
