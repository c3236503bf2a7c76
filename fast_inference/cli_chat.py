"""`fast-inference chat`: a conversation with a running server; see `fast_inference/chat/`.

Where stdin is a pipe, each line of it is a message, and stdout carries the answers alone.
"""

import argparse
import sys
from typing import TYPE_CHECKING

from fast_inference.api_client.sampling import add_sampling_flags, given_sampling
from fast_inference.api_client.servers import add_key_flag, add_server_flags, client_of
from fast_inference.console import replace_what_does_not_fit
from fast_inference.flags import FlagParser, utf8_text
from ipc.errors import ConfigError

if TYPE_CHECKING:
    from fast_inference.api_client.connection import ApiClient

_EXAMPLES = """\
examples:
  fast-inference chat                                        with the server that runs here
  fast-inference chat --url https://llm.example.org --model mistral --system "Answer in French."
  printf 'What is the capital of France?\\nAnd of Spain?\\n' | fast-inference chat --temperature 0
"""


def add_chat(commands: "argparse._SubParsersAction[FlagParser]") -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "chat",
        usage="fast-inference chat [flags]",
        help="talk with a running server",
        description="Talk with a running server in the terminal: answers stream, Ctrl-C stops one, Ctrl-D ends, /help "
        "lists the commands. Where stdin is a pipe, each line is a message and stdout has the answers alone.",
        epilog=_EXAMPLES,
    )
    add_server_flags(parser)
    add_key_flag(parser)
    parser.add_argument("--model", metavar="NAME", help="name of the model (default: the first that the server lists)")
    parser.add_argument("--system", type=utf8_text, metavar="TEXT", default="", help="system prompt (default: none)")
    add_sampling_flags(parser)
    parser.set_defaults(run=_run)


def _run(namespace: argparse.Namespace) -> int:
    from fast_inference.api_client.connection import ApiError
    from fast_inference.chat.conversation import Conversation
    from fast_inference.chat.screen import Screen
    from fast_inference.chat.session import ChatSession

    client = client_of(namespace)
    try:
        models = _models_of(client, namespace.model)
    except ApiError as error:
        raise ConfigError(error.message) from error
    is_interactive = sys.stdin.isatty()
    replace_what_does_not_fit(sys.stdout)
    screen = Screen()
    conversation = Conversation(namespace.model or models[0], namespace.system, given_sampling(namespace))
    session = ChatSession(client, conversation, screen, is_interactive=is_interactive)
    replace_what_does_not_fit(sys.stdin)
    if not is_interactive:
        return session.run(line.rstrip("\r\n") for line in sys.stdin)

    from fast_inference.chat.line_editor import typed_lines

    screen.note(f"{conversation.model} at {client.url}. /help lists commands; Ctrl-C stops an answer, Ctrl-D ends.")
    return session.run(typed_lines(screen, models))


def _models_of(client: "ApiClient", wanted: str | None) -> list[str]:
    """The names that the server lists, once it is ready; raises `ApiError` and `ConfigError`."""
    from fast_inference.progress import StartProgress

    with StartProgress() as progress:
        client.wait_ready(progress)
        names = client.model_names()
    if not names:
        raise ConfigError(f"{client.url} lists no model")
    if wanted is not None and wanted not in names:
        raise ConfigError(f"the server has no model {wanted}: {', '.join(names)}")
    return names
