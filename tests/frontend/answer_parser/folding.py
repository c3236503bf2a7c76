"""Parts of answers put together again."""

from frontend.answer_parts import ContentDelta, ReasoningDelta, ToolCallArguments, ToolCallStart


def fold(parts):
    """(reasoning, content, [(name, arguments)]) of all parts; the ids are checked and left out."""
    reasoning, content, calls, ids = "", "", [], []
    for part in parts:
        match part:
            case ReasoningDelta(text):
                reasoning += text
            case ContentDelta(text):
                content += text
            case ToolCallStart(index, call_id, name):
                assert index == len(calls)
                ids.append(call_id)
                calls.append([name, ""])
            case ToolCallArguments(index, text):
                assert index == len(calls) - 1
                calls[index][1] += text
    assert len(set(ids)) == len(ids)
    return reasoning, content, [tuple(call) for call in calls]


def parse(parser, *pieces):
    """What a parser makes of a text in pieces."""
    parts = [part for piece in pieces for part in parser.push(piece)]
    return fold(parts + parser.finish())


def cut(text, positions):
    """The text in pieces that end at these positions."""
    edges = sorted({position % (len(text) + 1) for position in positions})
    return [text[start:end] for start, end in zip([0, *edges], [*edges, len(text)], strict=True)]
