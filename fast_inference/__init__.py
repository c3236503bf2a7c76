"""fast-inference: an OpenAI-compatible LLM server for one machine.

The public face of the program: the command line (`cli`, `cli_openai`), the settings, the launcher that starts and
supervises the other processes, and the model store. It sits on top: `frontend` and `engine_core` never import it.

Reading order: `cli` → `flags` → `settings` → `launcher` → `child`.
"""

__version__ = "0.1.0"
