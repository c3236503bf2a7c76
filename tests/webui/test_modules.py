"""The modules that hold logic, in a real browser but without a server: their files come from the source."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route

ASSETS = Path(__file__).parents[2] / "frontend/webui_assets"
ORIGIN = "http://webui.test/webui/version/"


@pytest.fixture(scope="module")
def modules(browser: Browser):
    """A page that can import them."""
    context = browser.new_context()

    def serve(route: Route) -> None:
        name = route.request.url.removeprefix(ORIGIN)
        if name == "":
            route.fulfill(body="<!doctype html>", content_type="text/html")
        else:
            route.fulfill(body=(ASSETS / name).read_text(), content_type="text/javascript")

    context.route("http://webui.test/**", serve)
    page = context.new_page()
    page.goto(ORIGIN)
    yield page
    context.close()


def run(page: Page, module: str, body: str, argument: object = None):
    """What the body of an async function returns that knows the module as `m` and the argument as `a`."""
    return page.evaluate(f"async (a) => {{ const m = await import('./{module}.js'); {body} }}", argument)


STREAM = (
    'data: {"x":1}\n\n: ping\n\nevent: named\r\ndata: one\r\ndata:two\r\n\r\ndata: é😀\n\nid: 7\n\ndata: [DONE]\n\n'
)
ITEMS = [
    {"event": "message", "data": '{"x":1}'},
    {"comment": "ping"},
    {"event": "named", "data": "one\ntwo"},
    {"event": "message", "data": "é😀"},
    {"event": "message", "data": "[DONE]"},
]


def test_events_are_the_same_however_the_stream_is_cut(modules: Page):
    cut = """
        return Array.from(a, (_, at) => {
            const parser = new m.SseParser();
            return [...parser.push(a.slice(0, at)), ...parser.push(a.slice(at))];
        });"""
    every_cut = run(modules, "sse", cut, STREAM)
    assert len(every_cut) > 70
    assert all(items == ITEMS for items in every_cut)


def test_events_come_from_single_characters(modules: Page):
    one_by_one = "const p = new m.SseParser(); return Array.from(a).flatMap((char) => p.push(char));"
    assert run(modules, "sse", one_by_one, STREAM) == ITEMS


def html(page: Page, text: str) -> str:
    """What markdown becomes, without the buttons and attributes of its frame."""
    show = """
        const view = new m.MarkdownView();
        view.update(a);
        for (const node of view.node.querySelectorAll("button")) node.remove();
        for (const node of view.node.querySelectorAll("pre, .table")) node.removeAttribute("tabindex");
        for (const node of view.node.querySelectorAll("pre")) node.removeAttribute("aria-label");
        for (const node of view.node.querySelectorAll("a")) {
            for (const name of ["title", "target", "rel"]) node.removeAttribute(name);
        }
        return view.node.innerHTML;"""
    return run(page, "markdown_view", show, text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "<p>plain</p>"),
        ("one\ntwo\n\nthree", "<p>one<br>two</p><p>three</p>"),
        ("# Title #\ntext", "<h2>Title</h2><p>text</p>"),
        ("#hashtag", "<p>#hashtag</p>"),
        ("**bold** *it* __b__ _i_ ~~gone~~", None),
        ("***both***", "<p><em><strong>both</strong></em></p>"),
        ("a * b * c and snake_case_name 2*3*4", "<p>a * b * c and snake_case_name 2<em>3</em>4</p>"),
        ("**open", "<p>**open</p>"),
        (r"\*not\* \<b\>", "<p>*not* &lt;b&gt;</p>"),
        ("`a < b` ``x`y``", "<p><code>a &lt; b</code> <code>x`y</code></p>"),
        ("`open", "<p>`open</p>"),
        ("- a\n- b\n  - c\n- d", "<ul><li>a</li><li>b<ul><li>c</li></ul></li><li>d</li></ul>"),
        ("1. a\n  - b\n2. c", "<ol><li>a<ul><li>b</li></ul></li><li>c</li></ol>"),
        ("3. a\n4. b", '<ol start="3"><li>a</li><li>b</li></ol>'),
        ("- a\n\n- b", "<ul><li><p>a</p></li><li><p>b</p></li></ul>"),
        ("> a\n> > b", "<blockquote><p>a</p><blockquote><p>b</p></blockquote></blockquote>"),
        ("a\n\n---\nb", "<p>a</p><hr><p>b</p>"),
        ("<https://x.org/?a=1&b>", '<p><a href="https://x.org/?a=1&amp;b">https://x.org/?a=1&amp;b</a></p>'),
        ("(see https://x.org/a_(b).)", '<p>(see <a href="https://x.org/a_(b)">https://x.org/a_(b)</a>.)</p>'),
        ("[a **b**](https://x.org 'title')", '<p><a href="https://x.org/">a <strong>b</strong></a></p>'),
        ("[a] (b) [c", "<p>[a] (b) [c</p>"),
        ("![cat](https://x.org/cat.png)", '<p><a href="https://x.org/cat.png">cat</a></p>'),
        ("[mail](mailto:a@b.org)", '<p><a href="mailto:a@b.org">mail</a></p>'),
        ("1986\\. A great year", "<p>1986. A great year</p>"),
        ("&lt;b&gt; &amp;", "<p>&amp;lt;b&amp;gt; &amp;amp;</p>"),
    ],
)
def test_markdown(modules: Page, text: str, expected: str | None):
    if expected is None:
        expected = "<p><strong>bold</strong> <em>it</em> <strong>b</strong> <em>i</em> <del>gone</del></p>"
    assert html(modules, text) == expected


def test_markdown_of_code_tables_and_tasks(modules: Page):
    code = html(modules, "```text\nif a < b:\n\n    c\n```\nafter")
    assert "<pre><code>if a &lt; b:\n\n    c</code></pre>" in code
    assert code.endswith("<p>after</p>")
    assert '<span class="keyword">def</span> f' in html(modules, "```python\ndef f\n```")
    table = html(modules, "|a|b|\n|-|:-:|\n|1|x \\| y|\n|2|\n\nend")
    assert '<td class="left">1</td><td class="center">x | y</td>' in table
    assert '<td class="left">2</td><td class="center"></td>' in table
    tasks = html(modules, "- [x] done\n- [ ] open")
    assert tasks.count('type="checkbox"') == 2
    assert tasks.count("checked") == 0  # a property: an answer's boxes have no state of their own
    assert 'aria-label="done"' in tasks


UNSAFE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](java\tscript:alert(1))",
    "[x](<javascript:alert(1)>)",
    "[x](data:text/html,<script>alert(1)</script>)",
    "[x](vbscript:x) [y](file:///etc/passwd) [z](/v1/models) [w](//evil.org)",
    "<javascript:alert(1)>",
    "![x](javascript:alert(1))",
    '```"><script>alert(1)</script>\ncode\n```',
    "| <b>a</b> | b |\n|---|---|\n| <iframe src=x> | [x](javascript:1) |",
    "# <svg onload=alert(1)>",
    "&#106;avascript:alert(1)",
    '[x](https://x.org/"onmouseover="alert(1))',
]


@pytest.mark.parametrize("text", UNSAFE)
def test_nothing_of_a_text_becomes_markup(modules: Page, text: str):
    look = """
        const view = new m.MarkdownView();
        view.update(a);
        const all = [...view.node.querySelectorAll("*")];
        return {
            tags: [...new Set(all.map((node) => node.localName))],
            attributes: [...new Set(all.flatMap((node) => node.getAttributeNames()))],
            protocols: [...view.node.querySelectorAll("a")].map((node) => node.protocol),
        };"""
    found = run(modules, "markdown_view", look, text)
    assert not {"script", "img", "iframe", "object", "embed", "style", "form"} & set(found["tags"])
    assert not [name for name in found["attributes"] if name.startswith("on")]
    assert set(found["protocols"]) <= {"https:", "http:", "mailto:"}


LONG = (
    "# Head\n\nA **bold\nmove** with `code` and https://x.org/a.\n\n1. one\n   - in\n\n   more\n2. two\n1.5 million\n\n"
    "| a | b |\n|---|---|\n| 1 | 2 |\nafter\n> quote\nlazy\n\n```py\nx = '''a\n\n# no head\n```\n***\n"
    "- [ ] t\n\n\n- u\nend"
)


def test_a_growing_text_is_shown_as_if_it_had_come_at_once(modules: Page):
    compare = """
        const growing = new m.MarkdownView();
        const wrong = [];
        for (let end = 0; end <= a.length; end += 1) {
            growing.update(a.slice(0, end));
            const whole = new m.MarkdownView();
            whole.update(a.slice(0, end));
            if (whole.node.innerHTML !== growing.node.innerHTML) wrong.push(a.slice(0, end));
        }
        return wrong;"""
    assert run(modules, "markdown_view", compare, LONG) == []


def test_blocks_that_have_ended_keep_their_nodes(modules: Page):
    keep = """
        const view = new m.MarkdownView();
        view.update("one\\n\\ntwo\\n\\nthree\\n\\nfour");
        const first = view.node.firstChild;
        view.update("one\\n\\ntwo\\n\\nthree\\n\\nfour and more");
        const isKept = view.node.firstChild === first;
        view.update("another");
        return [isKept, view.node.textContent];"""
    assert run(modules, "markdown_view", keep) == [True, "another"]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("piece", ["*a ", "[", "![", "`", "> ", "- ", "**a** ", "# #", "| a ", "\\", "_a_ ", "~~a"])
def test_no_text_takes_long(modules: Page, piece: str):
    text = piece * 4000
    mirrored = text + piece[::-1] * 4000
    parse = "for (const text of a) new m.MarkdownView().update(text); return true;"
    assert run(modules, "markdown_view", parse, [text, mirrored, f"{text}x](https://x.org)"])


METRICS = r"""
# HELP fast_inference_num_requests_running Requests.
# TYPE fast_inference_num_requests_running gauge
fast_inference_num_requests_running{model_name="a",engine="0"} 3
fast_inference_rejects_total{reason="queue_full"} 2
fast_inference_rejects_total{reason="say \"no\\\"\n"} 5 1700000000000
vllm:num 1e3
up NaN
t_bucket{le="0.1"} 2
t_bucket{le="0.5"} 6
t_bucket{le="+Inf"} 8
t_sum 4
t_count 8
"""


def test_metrics_are_read(modules: Page):
    read = "return Object.fromEntries(m.parseMetrics(a));"
    found = run(modules, "prometheus", read, METRICS)
    assert found["fast_inference_num_requests_running"] == [{"labels": {"model_name": "a", "engine": "0"}, "value": 3}]
    assert [item["labels"]["reason"] for item in found["fast_inference_rejects_total"]] == [
        "queue_full",
        'say "no\\"\n',
    ]
    assert found["vllm:num"][0]["value"] == 1000
    assert (
        run(modules, "prometheus", "return m.sumOf(m.parseMetrics(a), 'fast_inference_rejects_total');", METRICS) == 7
    )
    assert run(modules, "prometheus", "return m.sumOf(m.parseMetrics(a), 'nothing');", METRICS) is None


@pytest.mark.parametrize(("quantile", "expected"), [(0.25, 0.1), (0.5, 0.3), (0.75, 0.5), (0.99, 0.5)])
def test_quantiles_are_those_of_promql(modules: Page, quantile: float, expected: float):
    ask = "return m.quantileOf(m.histogramIncrease(new Map(), m.parseMetrics(a.text), 't'), a.quantile);"
    assert run(modules, "prometheus", ask, {"text": METRICS, "quantile": quantile}) == pytest.approx(expected)


def test_what_a_histogram_counted_between_two_readings(modules: Page):
    before = 't_bucket{le="1"} 1\nt_bucket{le="+Inf"} 2\nt_sum 4\n'
    after = 't_bucket{le="1"} 4\nt_bucket{le="+Inf"} 6\nt_sum 10\n'
    between = "return m.histogramIncrease(m.parseMetrics(a[0]), m.parseMetrics(a[1]), 't');"
    grown = run(modules, "prometheus", between, [before, after])
    assert (grown["count"], grown["sum"], grown["buckets"][0]["count"]) == (4, 6, 3)
    anew = run(modules, "prometheus", between, [after, before])  # the core was started anew
    assert (anew["count"], anew["sum"]) == (2, 4)


def test_counters_that_start_anew_count_from_nothing(modules: Page):
    grow = "return m.increaseOf(m.parseMetrics(a[0]), m.parseMetrics(a[1]), 'c_total');"
    assert run(modules, "prometheus", grow, ["c_total 5", "c_total 9"]) == 4
    assert run(modules, "prometheus", grow, ["c_total 9", "c_total 2"]) == 2
    assert run(modules, "prometheus", grow, ["", "c_total 2"]) == 2
    assert run(modules, "prometheus", grow, ["", ""]) == 0


def test_a_core_that_begins_anew_adds_nothing_that_others_counted(modules: Page):
    before = 'c_total{core="0"} 1000\nc_total{core="1"} 7\n'
    after = 'c_total{core="0"} 1004\nc_total{core="1"} 2\n'
    grow = "return m.increaseOf(m.parseMetrics(a[0]), m.parseMetrics(a[1]), 'c_total');"
    assert run(modules, "prometheus", grow, [before, after]) == 6
    histogram = "return m.histogramIncrease(m.parseMetrics(a[0]), m.parseMetrics(a[1]), 'h');"
    texts = [
        f'h_bucket{{core="0",le="1.0"}} {one}\nh_bucket{{core="0",le="+Inf"}} {one + 5}\nh_sum{{core="0"}} {one * 2}\n'
        f'h_bucket{{core="1",le="1.0"}} {other}\nh_bucket{{core="1",le="+Inf"}} {other}\nh_sum{{core="1"}} {other}\n'
        for one, other in ((1000, 7), (1004, 2))
    ]
    told = run(modules, "prometheus", histogram, texts)
    assert (told["count"], told["sum"], told["buckets"][0]) == (6, 10, {"le": 1, "count": 6})


def test_rates_and_latencies_are_those_of_the_last_seconds(modules: Page):
    feed = """
        const { parseMetrics } = await import("./prometheus.js");
        const readings = new m.Readings();
        const text = (n) => `vllm:num_requests_running 1\\nvllm:generation_tokens_total{engine="b2"} ${n * 50}\\n`
            + `vllm:time_to_first_token_seconds_bucket{le="0.1"} ${n}\\n`
            + `vllm:time_to_first_token_seconds_bucket{le="+Inf"} ${n}\\n`
            + `vllm:time_to_first_token_seconds_sum ${n * 0.08}\\n`;
        const load = { num_requests_running: 2, num_requests_waiting: 1, kv_cache_usage: 0.25 };
        return [0, 1, 2].map((n) => readings.add(n * 1000, parseMetrics(text(n)), load));"""
    points = run(modules, "dashboard_data", feed)
    assert points[0] == {"time": 0, "running": 2, "waiting": 1, "kvUse": 0.25}
    assert (points[2]["generated"], points[2]["refused"]) == (50, 0)
    assert points[2]["generatedBy"] == {"b2": 50}
    assert points[2]["ttftMean"] == pytest.approx(0.08)
    assert points[2]["ttftP50"] == pytest.approx(0.05)
    assert points[2]["gapP99"] is None


def test_conversations_branch_and_come_back(modules: Page):
    talk = """
        const c = m.newConversation("be kind");
        const question = m.addMessage(c, c.leaf, "user", "<b>Hi</b>");
        m.addMessage(c, question.id, "assistant", "one");
        const second = m.addMessage(c, question.id, "assistant", "two");
        const shown = () => m.branchOf(c).map((message) => message.content);
        const before = shown();
        const others = m.alternativesOf(c, second);
        m.showBranch(c, others[0].id);
        return { title: c.title, before, after: shown(), api: m.apiMessages(c, question.id), number: others.length,
                 back: m.imported(m.exported([c]))[0], id: c.id };"""
    told = run(modules, "conversation", talk)
    assert told["title"] == "<b>Hi</b>"
    assert (told["before"], told["after"], told["number"]) == (["<b>Hi</b>", "two"], ["<b>Hi</b>", "one"], 2)
    assert told["api"] == [{"role": "system", "content": "be kind"}, {"role": "user", "content": "<b>Hi</b>"}]
    back = told["back"]
    assert back["id"] != told["id"]
    assert [message["content"] for message in back["messages"]] == ["<b>Hi</b>", "one", "two"]
    assert back["leaf"] == back["messages"][1]["id"]


def test_an_answer_that_failed_before_its_first_word_is_no_turn_of_the_conversation(modules: Page):
    talk = """
        const c = m.newConversation("");
        m.addMessage(c, c.leaf, "user", "Hi");
        m.addMessage(c, c.leaf, "assistant", "").error = "full";
        const last = m.addMessage(c, c.leaf, "user", "Hello?");
        return m.apiMessages(c, last.id);"""
    assert run(modules, "conversation", talk) == [{"role": "user", "content": "Hi\n\nHello?"}]


@pytest.mark.parametrize(
    "text",
    [
        "nothing",
        "[]",
        '{"format": "other", "conversations": []}',
        '{"format": "fast-inference-conversations", "conversations": [{}]}',
        '{"format": "fast-inference-conversations", "conversations": [{"messages": [{"role": "system"}]}]}',
        '{"format": "fast-inference-conversations", "conversations": [{"messages": [{"id": 1, "role": "assistant"}]}]}',
    ],
)
def test_files_that_hold_no_conversations_are_refused(modules: Page, text: str):
    take = "try { m.imported(a); return null; } catch (error) { return error.message; }"
    assert "." in run(modules, "conversation", take, text)


def test_of_an_imported_file_only_what_is_known_is_taken(modules: Page):
    file = (
        '{"format": "fast-inference-conversations", "conversations": [{"id": 1, "title": {"a": 1}, "leaf": "b", '
        '"__proto__": {"polluted": 1}, "messages": [{"id": "a", "parent": "b", "role": "user", "content": ["x"], '
        '"onclick": "x", "stats": {"tokens": 5, "ttftMs": "<b>"}}, {"id": "b", "parent": "a", "role": "assistant"}]}]}'
    )
    take = "const [c] = m.imported(a); return { c, shown: m.branchOf(c).length, polluted: ({}).polluted ?? null };"
    told = run(modules, "conversation", take, file)
    first, second = told["c"]["messages"]
    assert set(first) == {"id", "parent", "role", "content", "stats"}
    assert (first["content"], first["parent"], first["stats"]) == ("", None, {"tokens": 5})
    assert second["parent"] == first["id"]
    assert (told["c"]["title"], told["shown"], told["polluted"]) == ("", 2, None)


def test_a_pause_is_explained_and_a_cut_is_told(modules: Page):
    modules.clock.install()
    begin = """
        const encoder = new TextEncoder();
        window.fetch = async (url) => {
            if (String(url).endsWith("health")) return new Response(JSON.stringify({ status: "restarting" }));
            return new Response(new ReadableStream({ start: (controller) => (window.stream = controller) }));
        };
        window.message = { content: "" };
        window.notes = [];
        window.ended = new m.Generation(window.message, (note) => window.notes.push(note)).run({});
        await new Promise((resolve) => setTimeout(resolve));
        window.stream.enqueue(encoder.encode(a));"""
    run(modules, "generation", begin, 'data: {"choices":[{"index":0,"delta":{"content":"so far"}}]}\n\n: ping\n\n')
    modules.wait_for_function("window.message.content")
    modules.clock.run_for(4000)
    modules.wait_for_function("window.notes.length >= 2")
    note = modules.evaluate("window.notes.at(-1)")
    assert note.startswith("The engine is restarting. The answer goes on by itself")
    assert "still connected" in note
    code = modules.evaluate("async () => { window.stream.close(); return (await window.ended).code; }")
    assert code == "cut_off"
    message = modules.evaluate("window.message")
    assert (message["content"], message["finish"]) == ("so far", "error")
