"""The HTTP side: one stateless process of N that share a listening port and talk to one engine core.

Reading order, along one request: `__main__` (the process), `app` (routes), `middleware`, `request_body`,
`openai/chat_completions` (or `completions`, `embeddings`), `input_processor` (text to token ids and sampling
parameters), `generation` (the engine's streams), `output_processor` with `detokenizer` and `stop_strings` (token ids
to text), `openai/streaming` (text to SSE bytes).

Nothing here imports torch or transformers, nor `engine_core`: both sides meet in `ipc`.
"""
