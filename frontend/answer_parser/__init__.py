"""What the text of a chat answer is made of: reasoning, content, tool calls.

One incremental parser serves streamed and whole answers: the whole answer is the fold of its parts
(`frontend/answer_parts.py`). Pure functions of text; nothing here knows HTTP or the engine.

- `formats`: how a model writes its calls, found in its chat template; makes the parser.
- `call_scanner`, `json_span`: one call as JSON, read character by character.
- `tagged_calls`: calls behind a tag (hermes, mistral); `bare_calls`: objects that are the whole answer (llama);
  `python_calls`: a list of calls in Python's syntax.
- `reasoning`: `<think>…</think>` before all that; `partial_tag`: text that may still become a tag.
- `tool_grammar`: the grammar under which a model can only write calls that these parsers read.
- `callable_tools`: what that grammar is made for.
- `schema_annotations`: what a grammar does not need of a schema.
- `tool_prompt`: the tools as text, for models whose template does not know them.

Reading order: `formats`, `tagged_calls`, `call_scanner`, `bare_calls`, `reasoning`, `tool_grammar`, `tool_prompt`.
"""
