"""The OpenAI-compatible endpoints: one module each, plus `protocol` (bodies), `unsupported` and `streaming` (SSE)."""
