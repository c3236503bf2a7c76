"""Hostile templates end in a refusal: soon, in a bounded budget, and without much memory."""

import asyncio
import time
from collections.abc import Callable

import pytest

from frontend.chat_template import ChatTemplate
from frontend.input_processor import render_chat_text
from frontend.openai.protocol import ChatMessage
from frontend.render_options import RenderOptions
from frontend.state import ServedModel
from frontend.template_meter import TemplateBudgetError, TemplateLimitError, deep_size
from ipc.errors import InvalidRequestError

MESSAGES = [ChatMessage(role="user", content="hello there")]
LOOP = "{% for a in range(99999) %}"
DOUBLED = (
    "{% set ns = namespace(s=(1,), t=(1,)) %}"
    "{% for a in range(60) %}{% set ns.s = (ns.s, ns.s) %}{% set ns.t = (ns.t, ns.t) %}{% endfor %}"
)
"""Makes two values of 2^60 leaves that take hardly any memory."""

ENDLESS = {
    "loops": LOOP * 3 + "{% endfor %}" * 3,
    "macros": "{% macro f(n) %}{% if n > 0 %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "recursive loops": "{% for a in range(999) recursive %}{% if loop.depth < 9 %}{{ loop(range(999)) }}{% endif %}"
    "{% endfor %}",
    "filtered loops": LOOP + "{% for b in range(99999) if b < 0 %}{% endfor %}{% endfor %}",
    "callers": "{% macro f() %}" + LOOP + "{{ caller() }}{% endfor %}{% endmacro %}"
    "{% call f() %}" + LOOP + "x{% endfor %}{% endcall %}",
    "lazy filters": LOOP + "{{ range(99999) | map('string') | list | length }}{% endfor %}",
    "searching": "{% set big = 'ab' * 2000000 %}" + LOOP + "{% if 'ba' * 99 ~ 'c' in big %}{% endif %}{% endfor %}",
    "comparing": "{% set x = 'ab' * 2000000 %}{% set y = 'ab' * 2000000 %}"
    + LOOP
    + "{% if x == y %}{% endif %}{% endfor %}",
}
TOO_LARGE = {
    "product": "{{ 'x' * 10**9 }}",
    "list product": "{{ [1] * 10**9 }}",
    "power": "{{ 10 ** (10**9) }}",
    "sum": "{% set ns = namespace(s='ab') %}" + LOOP + "{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "concatenation": "{% set ns = namespace(s='ab') %}" + LOOP + "{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    "set block": "{% set ns = namespace(s='ab') %}"
    + LOOP
    + "{% set x %}{{ ns.s }}{{ ns.s }}{% endset %}{% set ns.s = x %}"
    "{% endfor %}",
    "written": DOUBLED + "{{ ns.s }}",
    "json": DOUBLED + "{{ ns.s | tojson }}",
    "compared": DOUBLED + "{{ ns.s == ns.t }}",
    "tested": DOUBLED + "{{ ns.s is eq(ns.t) }}",
    "hashed": DOUBLED + "{{ {ns.s: 1} }}",
    "looked up": DOUBLED + "{{ {}[ns.s] }}",
    "looked for": DOUBLED + "{{ ns.s in {} }}",
    "formatted": DOUBLED + "{{ '{}'.format(ns.s) }}",
    "percent": DOUBLED + "{{ '%s' % [ns.s] }}",
    "raised": DOUBLED + "{{ raise_exception(ns.s) }}",
    "namespaces": "{% set ns = namespace(s=1) %}"
    "{% for a in range(60) %}{% set ns.s = namespace(a=ns.s, b=ns.s) %}{% endfor %}{{ ns.s }}",
    "center": "{{ 'x' | center(10**9) }}",
    "center by name": "{{ 'x' | center(width=10**9) }}",
    "ljust": "{{ 'x'.ljust(10**9) }}",
    "tabs": "{{ ('\t' * 100000).expandtabs(100000) }}",
    "indent": "{{ ('\n' * 100000) | indent(100000) }}",
    "indent by text": "{{ ('\n' * 100000) | indent('x' * 100000) }}",
    "mapped": "{{ range(9999) | map('center', 10**9) | list | length }}",
    "format filter": "{{ '%1000000000d' | format(1) }}",
    "named format": "{{ '%(a)1000000000d' | format(a=1) }}",
    "starred format": "{{ '%*d' % (10**9, 1) }}",
    "str.format": "{{ '{:>1000000000}'.format(1) }}",
    "nested str.format": "{{ '{:>{}}'.format(1, 10**9) }}",
    "replace": "{{ ('x' * 1000000) | replace('', 'y' * 1000000) }}",
    "replace by name": "{{ ('x' * 1000000) | replace(old='x', new='y' * 1000000) }}",
    "replace method": "{{ ('x' * 1000000).replace('x', 'y' * 1000000) }}",
    "join": "{{ (['x' * 1000000] * 100000) | join }}",
    "join method": "{{ ('x' * 1000000).join([''] * 100000) }}",
    "translate": "{{ ('x' * 1000000).translate({120: 'y' * 1000000}) }}",
    "bytes": "{{ (1).to_bytes(10**9, 'big') }}",
    "batch": "{{ [1] | batch(10**9, 0) | list }}",
    "many lists": "{% set ns = namespace(l=[]) %}" + LOOP + "{% set ns.l = ns.l + [range(99999) | list] %}{% endfor %}",
    "many texts": "{% set ns = namespace(l=[]) %}" + LOOP + "{% set ns.l = ns.l + ['x' * 8000000] %}{% endfor %}",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_an_endless_template_ends_when_its_time_is_over(name: str):
    template = ChatTemplate(ENDLESS[name], {}, max_render_s=0.05)
    began_at = time.thread_time()
    with pytest.raises(InvalidRequestError, match=r"longer than 0\.05 s|too much") as caught:
        template.render(MESSAGES, RenderOptions())
    assert time.thread_time() - began_at < 1.0
    assert caught.value.param == "messages"


@pytest.mark.parametrize("name", TOO_LARGE)
def test_what_would_be_too_large_is_refused_before_it_is_made(name: str):
    with pytest.raises(InvalidRequestError, match=r"too large|too much|it calls") as caught:
        ChatTemplate(TOO_LARGE[name], {}, max_render_s=20).render(MESSAGES, RenderOptions())
    assert caught.value.param == "messages"


@pytest.mark.parametrize("source", [*ENDLESS.values(), *TOO_LARGE.values()], ids=[*ENDLESS, *TOO_LARGE])
def test_a_budget_ends_any_template_soon(source: str):
    template = ChatTemplate(source, {})
    began_at = time.thread_time()
    with pytest.raises((TemplateBudgetError, InvalidRequestError)):
        template.render(MESSAGES, RenderOptions(), max_units=20_000)
    assert time.thread_time() - began_at < 0.2


def test_what_is_as_large_as_it_may_be_is_measured():
    assert deep_size(["ab", {"c": (1,)}]) == deep_size(("ab", {"c": [1]}))
    assert deep_size("abc" * 100) < 400
    with pytest.raises(TemplateLimitError):
        deep_size("x" * 1000, max_size=1000)


def test_the_reason_of_a_refusal_is_short():
    with pytest.raises(InvalidRequestError) as caught:
        ChatTemplate("{{ raise_exception('x' * 100000) }}", {}).render(MESSAGES, RenderOptions())
    assert len(caught.value.message) < 1000


LARGE = {
    "messages": [ChatMessage(role="user", content="x" * 1000)] * 4096,
    "text": [ChatMessage(role="user", content="word and " * 450_000)],
}
LONG_TEMPLATE = (
    "{% for message in messages %}{% if message.role == 'user' and 'tool' not in message.content %}"
    "<|{{ message.role }}|>{{ message.content | trim }}{{ '\n' }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize("name", LARGE)
def test_the_largest_conversations_are_rendered_in_time(name: str):
    text = ChatTemplate(LONG_TEMPLATE, {}).render(LARGE[name], RenderOptions())
    assert text.count("<|user|>") == len(LARGE[name])
    assert len(text) > 4_000_000


def test_a_hostile_template_lets_others_go_on(model_with_template: Callable[[str], ServedModel]):
    model = model_with_template(ENDLESS["loops"])

    async def run() -> tuple[float, float]:
        began_at, longest, last = time.perf_counter(), 0.0, time.perf_counter()
        rendering = asyncio.create_task(render_chat_text(model, MESSAGES, RenderOptions()))
        while not rendering.done():
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            longest, last = max(longest, now - last), now
        with pytest.raises(InvalidRequestError):
            rendering.result()
        return time.perf_counter() - began_at, longest

    elapsed_s, longest_s = asyncio.run(run())
    assert elapsed_s < 10
    assert longest_s < 0.5
