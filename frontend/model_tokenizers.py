"""The tokenizers of the models that the core runs and ran, found by the model's fingerprint.

Owned by `state.py`. While one core replaces another, both models have theirs. Loading takes up to a second and runs off
the event loop. Invariant: a model whose tokenizer cannot be used is looked at once and refused from then on.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from frontend.tokenizer import FrontendTokenizer
from ipc.errors import ConfigError, EngineUnavailableError
from ipc.messages import Welcome

log = logging.getLogger(__name__)

_MAX_MODELS = 2


class ModelTokenizers:
    """At most one tokenizer for each model."""

    def __init__(self, chat_template_file: Path | None, find_folder: Callable[[Welcome], Awaitable[Path]]) -> None:
        """`chat_template_file` is used instead of the templates of the models; `find_folder` gives the folder of a
        core's tokenizer, or raises what `EngineClient.tokenizer_dir` does.
        """
        self._chat_template_file = chat_template_file
        self._find_folder = find_folder
        self._by_fingerprint: dict[str, FrontendTokenizer] = {}
        self._loading = asyncio.Lock()
        self._refused_fingerprint = ""

    def of(self, core: Welcome) -> FrontendTokenizer | None:
        """The tokenizer of the core's model; None while it is not loaded."""
        return self._by_fingerprint.get(core.model_fingerprint)

    def is_refused(self, core: Welcome) -> bool:
        """True if the tokenizer of the core's model cannot be used."""
        return core.model_fingerprint == self._refused_fingerprint

    async def load(self, core: Welcome) -> bool:
        """Load the tokenizer of the core's model, if that was not tried before; True if it was loaded now. It is to be
        tried again where the core is on another host and does not give its tokenizer in time.

        Raises:
            ConfigError: it cannot be used, and there is no other model to serve.
        """
        async with self._loading:
            if self.of(core) is not None or self.is_refused(core):
                return False
            try:
                folder = await self._find_folder(core)
                tokenizer = await asyncio.to_thread(FrontendTokenizer.load, folder, self._chat_template_file)
            except EngineUnavailableError as error:
                log.warning("cannot get the tokenizer now: %s", error.message)
                return False
            except ConfigError as error:
                if not self._by_fingerprint:
                    raise
                log.error("the engine's new model cannot be served: %s", error.message)
                self._refused_fingerprint = core.model_fingerprint
                return False
            while len(self._by_fingerprint) >= _MAX_MODELS:
                del self._by_fingerprint[next(iter(self._by_fingerprint))]
            self._by_fingerprint[core.model_fingerprint] = tokenizer
            return True
