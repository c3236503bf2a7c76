#!/usr/bin/env python3
"""A smoke test of a running server: asks every endpoint once, says what works, and fails if anything does not.

    python -m fast_inference.cli_openai            # in one terminal
    python examples/openai_api_example.py          # in another one

It needs nothing but Python. `--base-url` names another server, `--model` another of its models, `--api-key` a key.
"""

import argparse
import json
import sys
import urllib.error
import urllib.request

TIMEOUT_S = 60


class Failed(Exception):
    """An answer is not what it should be."""


class Server:
    """The server that is asked."""

    def __init__(self, base_url, model, api_key):
        self.base_url = base_url.rstrip("/")
        self.model = model
        self.api_key = api_key

    def ask(self, path, body=None, expected_status=200):
        """The JSON of an answer; POST where there is a body."""
        return json.loads(self._open(path, body, expected_status).read() or b"null")

    def stream(self, path, body):
        """The chunks of a streamed answer, which must end in [DONE]."""
        chunks = []
        for line in self._open(path, {**body, "stream": True}, 200):
            if line.startswith(b"data: "):
                data = line.removeprefix(b"data: ").strip()
                if data == b"[DONE]":
                    return chunks
                chunks.append(json.loads(data))
        raise Failed("the stream ended without [DONE]")

    def _open(self, path, body, expected_status):
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.api_key}"}
        request = urllib.request.Request(self.base_url + path, data, headers)
        try:
            response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
        except urllib.error.HTTPError as error:
            response = error
        if response.status != expected_status:
            raise Failed(f"status {response.status} instead of {expected_status}: {response.read()[:300]!r}")
        return response


def check(condition, message):
    """Fail unless it holds."""
    if not condition:
        raise Failed(message)


def health(server):
    check(server.ask("/health")["status"] == "ready", "the server is not ready")
    server.ask("/ping")
    return "ready"


def models(server):
    names = [model["id"] for model in server.ask("/v1/models")["data"]]
    check(server.model in names, f"{server.model} is not among {names}")
    return ", ".join(names)


def _chat_body(server, **fields):
    return {"model": server.model, "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 16, **fields}


def chat(server):
    answer = server.ask("/v1/chat/completions", _chat_body(server))
    check(answer["choices"][0]["message"]["role"] == "assistant", "the answer has no message of the assistant")
    check(answer["usage"]["completion_tokens"] > 0, "no tokens were counted")
    return repr(answer["choices"][0]["message"]["content"])


def chat_stream(server):
    chunks = server.stream("/v1/chat/completions", _chat_body(server, temperature=0.8))
    check(chunks[-1]["choices"][0]["finish_reason"], "the last chunk has no finish_reason")
    return f"{len(chunks)} chunks"


def completion(server):
    body = {"model": server.model, "prompt": "The future of AI is", "max_tokens": 16, "temperature": 0.0}
    text = server.ask("/v1/completions", body)["choices"][0]["text"]
    check(server.ask("/v1/completions", body)["choices"][0]["text"] == text, "a greedy answer was not repeated")
    return repr(text)


def completion_stream(server):
    body = {"model": server.model, "prompt": "Once upon a time", "max_tokens": 16, "temperature": 0.0}
    whole = server.ask("/v1/completions", body)["choices"][0]["text"]
    streamed = "".join(chunk["choices"][0]["text"] for chunk in server.stream("/v1/completions", body))
    check(streamed == whole, "the streamed text differs from the whole one")
    return "equal to the whole answer"


def embeddings(server):
    body = {"model": server.model, "input": "This is a test sentence."}
    vector = server.ask("/v1/embeddings", body)["data"][0]["embedding"]
    check(abs(sum(value * value for value in vector) - 1) < 1e-3, "the vector is not normalized")
    return f"{len(vector)} dimensions"


def tokenization(server):
    text = "Hello, world!"
    body = {"model": server.model, "prompt": text, "add_special_tokens": False}
    ids = server.ask("/v1/tokenize", body)["tokens"]
    back = server.ask("/v1/detokenize", {"model": server.model, "tokens": ids})["prompt"]
    check(back == text, f"{text!r} became {back!r}")
    return f"{len(ids)} tokens and back"


def errors(server):
    missing = server.ask("/v1/chat/completions", {"model": server.model}, expected_status=400)["error"]
    check(missing["param"] == "messages", f"the error does not name the field: {missing}")
    server.ask("/v1/completions", {"model": "no-such-model", "prompt": "x"}, expected_status=404)
    return "400 and 404, in the envelope"


CHECKS = (health, models, chat, chat_stream, completion, completion_stream, embeddings, tokenization, errors)


def main():
    """Ask everything; exit status 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-url", default="http://localhost:8000", help="where the server is")
    parser.add_argument("--model", default="fast-inference-model", help="name of the model")
    parser.add_argument("--api-key", default="dummy", help="key of the server, where it wants one")
    arguments = parser.parse_args()
    server = Server(arguments.base_url, arguments.model, arguments.api_key)
    num_failed = 0
    for item in CHECKS:
        name = item.__name__.replace("_", " ")
        try:
            print(f"✓ {name}: {item(server)}", flush=True)
        except (Failed, OSError, ValueError, LookupError) as error:
            num_failed += 1
            print(f"✗ {name}: {error or type(error).__name__}", flush=True)
    print("all works" if not num_failed else f"{num_failed} of {len(CHECKS)} failed")
    return 1 if num_failed else 0


if __name__ == "__main__":
    sys.exit(main())
