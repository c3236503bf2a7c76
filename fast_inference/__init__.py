"""fast-inference: an OpenAI-compatible LLM server for one machine.

The public face of the program: the command line (`cli`, `cli_openai`), the settings, the launcher that starts and
supervises the other processes, the model store, and `LLM` for Python programs (`offline`). It sits on top: `frontend`
and `engine_core` never import it. The names of `offline` are loaded when somebody asks for them, so that importing
this package stays cheap.

Reading order: `cli` → `flags` → `settings` → `launcher` → `child`.
"""

TYPE_CHECKING = False  # that of `typing` would cost more than all the rest
if TYPE_CHECKING:
    from fast_inference.offline.async_llm import AsyncLLM
    from fast_inference.offline.llm import LLM
    from fast_inference.offline.outputs import (
        CompletionOutput,
        EmbeddingOutput,
        EmbeddingRequestOutput,
        Logprob,
        RequestOutput,
    )
    from fast_inference.offline.sampling_params import SamplingParams
    from ipc.version import __version__ as __version__

__all__ = [
    "LLM",
    "AsyncLLM",
    "CompletionOutput",
    "EmbeddingOutput",
    "EmbeddingRequestOutput",
    "Logprob",
    "RequestOutput",
    "SamplingParams",
]

_MODULES = {
    "LLM": "fast_inference.offline.llm",
    "AsyncLLM": "fast_inference.offline.async_llm",
    "SamplingParams": "fast_inference.offline.sampling_params",
    "__version__": "ipc.version",
}
_OUTPUTS = "fast_inference.offline.outputs"


def __getattr__(name: str) -> object:
    """The public names."""
    from importlib import import_module

    if name not in __all__ and name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES.get(name, _OUTPUTS)), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
