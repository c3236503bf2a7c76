"""A request that kills whatever core takes it, on a server with three of them."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest

from tests.servers import Server
from tests.waiting import wait_until

NUM_INNOCENTS = 20


def ask(client: openai.OpenAI, prompt: str, max_tokens: int) -> str:
    extra = {"ignore_eos": True}
    answer = client.completions.create(model="fake", prompt=prompt, max_tokens=max_tokens, extra_body=extra)
    return answer.choices[0].text


def test_it_kills_two_cores_and_is_refused_and_all_others_are_answered_exactly(tmp_path):
    server = Server(tmp_path, "fake", "--cores", "3", "--fake-step-ms", "4", "--fake-faults", "poison@5")
    prompts = [f"innocent number {number}" for number in range(NUM_INNOCENTS)]
    try:
        # its default pool of connections is smaller
        http = httpx.Client(limits=httpx.Limits(max_connections=NUM_INNOCENTS + 1), timeout=60)
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="dummy", max_retries=0, http_client=http)
        with client, ThreadPoolExecutor(NUM_INNOCENTS) as pool:
            expected = list(pool.map(lambda prompt: ask(client, prompt, 150), prompts))
            answers = [pool.submit(ask, client, prompt, 150) for prompt in prompts]
            with pytest.raises(openai.InternalServerError) as caught:
                ask(client, "this is poison", 10)
            assert caught.value.code == "request_quarantined"
            assert [answer.result() for answer in answers] == expected
            with pytest.raises(openai.InternalServerError):  # every core knows it by now, those that lived too
                ask(client, "this is poison", 10)
        wait_until(lambda: [core["state"] for core in server.status["cores"]] == ["ready"] * 3)
        assert server.stderr.count("restart in") == 2
    finally:
        server.close()
