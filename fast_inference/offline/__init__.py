"""`LLM` and `AsyncLLM`: many prompts answered from a Python program, in vLLM's words.

    from fast_inference import LLM, SamplingParams
    outputs = LLM("smollm2-135m-instruct").generate(["The future of AI is"], SamplingParams(max_tokens=20))

They are one more client of an engine core, which is in this process (`fast_inference/core/engine/`) or belongs to a
running server (`attach=`). A prompt goes the way of an HTTP body, so defaults, ranges, errors and answers are the same.
Reading order: `llm` → `base` → `connection` (the core) → `generate_job` (one prompt) → `window` (many) → `outputs`.
"""
