"""`fast-inference complete`: one completion of a text by a running server, for scripts.

stdout has the completion alone. Exit statuses: 0 it is whole, 1 no server, a refusal or an answer that broke off (one
line says why), 2 wrong usage, 130 interrupted.
"""

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from fast_inference.api_client.sampling import add_sampling_flags, given_sampling
from fast_inference.api_client.servers import add_key_flag, add_server_flags, client_of
from fast_inference.console import has_cursor, printable, replace_what_does_not_fit
from fast_inference.flags import FlagParser, utf8_text
from ipc.errors import ConfigError

if TYPE_CHECKING:
    from fast_inference.api_client.connection import ApiClient

_EXAMPLES = """\
examples:
  fast-inference complete "The capital of France is" --max-tokens 8 --temperature 0
  fast-inference complete --stream - <prompt.txt
  fast-inference complete "Once upon a time" --json | jq .usage

exit status: 0 whole, 1 no server or no whole answer, 2 wrong usage, 130 interrupted
"""


def add_complete(commands: "argparse._SubParsersAction[FlagParser]") -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "complete",
        usage="fast-inference complete [PROMPT|-] [flags]",
        help="let a running server complete a text",
        description="Let a running server go on with a text, without a chat template, and print what it says.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("prompt", nargs="?", type=utf8_text, metavar="PROMPT", help="the text; - or none: all of stdin")
    add_server_flags(parser)
    add_key_flag(parser)
    parser.add_argument("--model", metavar="NAME", help="name of the model (default: the first that the server lists)")
    output = parser.add_argument_group("Output")
    output.add_argument("--stream", action="store_true", help="print text as it comes (default: no)")
    output.add_argument("--echo", action="store_true", help="print the prompt before it (default: no)")
    output.add_argument(
        "--json",
        action="store_true",
        help="print the server's answer; with --stream, each chunk in a line (default: no)",
    )
    add_sampling_flags(parser)
    parser.set_defaults(run=lambda namespace: _run(parser, namespace))


def _run(parser: FlagParser, namespace: argparse.Namespace) -> int:
    from fast_inference.api_client.connection import ApiError
    from fast_inference.progress import StartProgress

    if "stream" in namespace.extra_body:
        parser.error("argument --extra-body: whether an answer streams is said by --stream")
    prompt = _prompt(parser, namespace.prompt)
    client = client_of(namespace)
    replace_what_does_not_fit(sys.stdout)
    try:
        with StartProgress() as progress:
            client.wait_ready(progress)
            model = namespace.model or next(iter(client.model_names()), None)
            if model is None:
                raise ConfigError(f"{client.url} lists no model")
            body = {"model": model, "prompt": prompt, **given_sampling(namespace)}
            if namespace.echo:
                body["echo"] = True
            if not namespace.stream:
                if has_cursor(sys.stderr):
                    progress("waiting for the answer")
                answer = client.post("/v1/completions", body)
        if namespace.stream:
            _print_stream(client, body, as_json=namespace.json)
        elif namespace.json:
            print(json.dumps(answer, ensure_ascii=False, indent=2))
        else:
            _print_text(answer)
    except ApiError as error:
        raise ConfigError(error.message) from error
    return 0


def _prompt(parser: FlagParser, given: str | None) -> str:
    if given not in (None, "-"):
        return str(given)
    if given is None and sys.stdin.isatty():
        parser.error("no PROMPT: give one, or a text on stdin")
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"stdin is no UTF-8 text: {error.reason} at byte {error.start}") from error


def _print_stream(client: "ApiClient", body: dict[str, Any], *, as_json: bool) -> None:
    from fast_inference.api_client.answer import StreamedAnswer

    chunks = client.stream("/v1/completions", body)
    if as_json:
        for chunk in chunks:
            print(json.dumps(chunk, ensure_ascii=False), flush=True)
        return
    try:
        for piece, _ in StreamedAnswer().pieces(chunks):
            print(_shown(piece), end="", flush=True)
    finally:
        print(flush=True)


def _print_text(answer: dict[str, Any]) -> None:
    from fast_inference.api_client.connection import ApiError

    try:
        texts = [choice["text"] for choice in answer["choices"]]
    except (LookupError, TypeError) as error:
        raise ApiError("the server's answer is no completion") from error
    print(_shown("\n".join(texts)))


def _shown(text: str) -> str:
    """What a terminal may get of an answer; a pipe or a file gets all of it."""
    return printable(text) if sys.stdout.isatty() else text
