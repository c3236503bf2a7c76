"""The engine in Python: in this process, with any model, also one that is a module of your own.

    engine = create_universal_vllm_style_engine(model=…, tokenizer=…)
    OpenAIServingEngine(engine, "my-model").serve(port=8000)

Importing this costs little: torch is imported when an engine is made. An in-process engine is the real core: requests
go to it over its socket, from `universal_engine.py` as from any frontend.
Reading order: `create` → `engine_thread` (the core) → `client_thread` (its client) → `universal_engine` →
`openai_serving_engine`. `openai_api_server` is something else: an application that starts a core of its own.
"""

from engine_core.model.paged_attention_config import PagedAttentionConfig
from fast_inference.core.engine.create import create_universal_vllm_style_engine
from fast_inference.core.engine.openai_serving_engine import OpenAIServingEngine
from fast_inference.core.engine.universal_engine import UniversalEngine

__all__ = ["OpenAIServingEngine", "PagedAttentionConfig", "UniversalEngine", "create_universal_vllm_style_engine"]
