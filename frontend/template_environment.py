"""The jinja environment of chat templates: that of `transformers`, in a sandbox that reports to a meter.

As in `transformers`: trimmed blocks, loop controls, `raise_exception`, `strftime_now`, `tojson` without HTML escapes,
`{% generation %}` blocks; it is made here because importing transformers costs a frontend more memory than all the
rest. What jinja has hooks for (filters, calls, operators, outputs) is reported from here, the rest through
`template_rewriting.py`. Next: `template_limits.py`, `template_meter.py`.
"""

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from types import BuiltinMethodType
from typing import Any, NoReturn, cast

import jinja2
import jinja2.ext
import jinja2.filters
import jinja2.nodes as nodes
import jinja2.parser
import jinja2.sandbox
from jinja2.runtime import Context, Macro, Undefined
from jinja2.utils import _PassArg

from frontend.template_limits import (
    GROWING,
    WIDE_FORMAT,
    WIDE_PERCENT_FORMAT,
    check_format,
    check_growth,
    check_power,
    check_product,
    check_replacement,
    checked_method,
)
from frontend.template_meter import TemplateLimitError, TemplateMeter
from frontend.template_rewriting import COUNTED, JOINED, SPENT, WEIGHED, MeteredTemplate

METER = "meter of the rendering"
"""Where the variables of a rendering have its `TemplateMeter`; no template can spell this name."""

_MAX_PATTERN_CHARS = 256
_LEFT_OUT_FILTERS = ("pprint", "random", "urlize", "wordwrap", "xmlattr")
"""No chat template needs them, and what they cost cannot be counted."""
_SHALLOW_FILTERS = {"count", "d", "default", "first", "items", "last", "length", "list", "map", "reject", "rejectattr"}
_SHALLOW_FILTERS |= {"reverse", "select", "selectattr", "batch", "slice", "attr"}
_DEEP_TESTS = {"!=", "<", "<=", "==", ">", ">=", "eq", "equalto", "ge", "greaterthan", "gt", "in", "le", "lessthan"}
_DEEP_TESTS |= {"lower", "lt", "ne", "upper"}


def meter_of(context: Context) -> TemplateMeter:
    """The meter of the rendering that this context belongs to."""
    meter = context.parent[METER]
    assert isinstance(meter, TemplateMeter)
    return meter


class ChatTemplateEnvironment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """Compiles chat templates; each rendering needs a meter under the name `METER`."""

    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "%", "**"))

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_GenerationBlock, jinja2.ext.loopcontrols],
            finalize=_output_text,
        )
        for name in _LEFT_OUT_FILTERS:
            del self.filters[name]
        self.filters |= {"tojson": _tojson, "join": _join}
        self.filters = {name: _metered_filter(name, function) for name, function in self.filters.items()}
        self.filters |= {COUNTED: _counted, SPENT: _spent, WEIGHED: _weighed, JOINED: _joined}
        self.tests |= {name: _metered_test(cast("Callable[..., bool]", self.tests[name])) for name in _DEEP_TESTS}
        del self.globals["lipsum"]
        functions: dict[str, Callable[..., Any]] = {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
        self.globals.update(functions)

    def compile_metered(self, tree: nodes.Template) -> jinja2.Template:
        """Compile a parsed template, which is changed."""
        return self.from_string(MeteredTemplate().visit(tree))

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call an object from a template; macros count their own work."""
        meter = meter_of(context)
        if isinstance(obj, Macro):
            return meter.made(super().call(context, obj, *args, **kwargs))
        meter.spend(1)
        if not isinstance(obj, type):  # dict() and namespace() read nothing of what they hold
            for value in (*args, *kwargs.values()):
                meter.weigh(value)
        if isinstance(obj, BuiltinMethodType):
            args = checked_method(meter, obj, args, kwargs)
        return meter.made(super().call(context, obj, *args, **kwargs))

    def call_binop(self, context: Context, operator_name: str, left: Any, right: Any) -> Any:
        """Apply an operator."""
        meter = meter_of(context)
        if operator_name == "*":
            check_product(meter, left, right)
        elif operator_name == "**":
            check_power(left, right)
        elif operator_name == "%" and isinstance(left, str):
            check_format(WIDE_PERCENT_FORMAT, left)
            meter.weigh(right)
        return meter.made(super().call_binop(context, operator_name, left, right))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """`str.format` in the sandbox, without formats that write more than they are given."""
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            check_format(WIDE_FORMAT, value.__self__.replace("{{", "").replace("}}", ""))
        return wrapped


class _GenerationBlock(jinja2.ext.Extension):
    """`{% generation %}…{% endgeneration %}` marks what the model said, for training; here it is transparent."""

    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> list[nodes.Node]:
        """The body of the block."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


# --- what is reported -------------------------------------------------------------------------------------------


@jinja2.pass_context
def _counted(context: Context, iterable: Any, units: int) -> Any:
    return iterable if isinstance(iterable, Undefined) else meter_of(context).items(iterable, units)


@jinja2.pass_context
def _spent(context: Context, value: Any, units: int) -> Any:
    meter_of(context).spend(units)
    return value


@jinja2.pass_context
def _weighed(context: Context, value: Any) -> Any:
    return meter_of(context).weigh(value)


@jinja2.pass_context
def _output_text(context: Context, value: Any) -> str:
    """What `{{ value }}` writes."""
    meter = meter_of(context)
    if not isinstance(value, str):
        meter.weigh(value)
        value = str(value)
    text: str = meter.made(value)
    return text


@jinja2.pass_context
def _joined(context: Context, values: Sequence[Any]) -> str:
    """`values[0] ~ values[1] ~ …`, and what joins without a separator."""
    text: str = _join(context, values)
    return text


@jinja2.pass_context
def _join(context: Context, values: Any, separator: Any = "", attribute: str | int | None = None) -> str:
    """jinja's filter `join`, counting as it goes."""
    meter = meter_of(context)
    if attribute is not None:
        values = map(jinja2.filters.make_attrgetter(context.environment, attribute), values)
    separator, size = str(separator), 0
    texts: list[str] = []
    for value in values:
        text = _output_text(context, value)
        size += len(separator) + len(text)
        meter.check_size(size)
        texts.append(text)
    joined: str = separator.join(texts)
    return joined


def _metered_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    pass_arg = _PassArg.from_obj(function)
    is_deep = name not in _SHALLOW_FILTERS

    @jinja2.pass_context
    def metered(context: Context, *args: Any, **kwargs: Any) -> Any:
        meter = meter_of(context)
        meter.spend(1)
        if is_deep:
            for value in (*args, *kwargs.values()):
                meter.weigh(value)
        if name in GROWING:
            check_growth(meter, name, args, kwargs)
        elif name == "format":
            check_format(WIDE_PERCENT_FORMAT, args[0])
        elif name == "replace":
            check_replacement(meter, args, kwargs)
        if pass_arg is not None:
            args = (_passed(context, pass_arg), *args)
        return meter.made(function(*args, **kwargs))

    return metered


def _metered_test(function: Callable[..., bool]) -> Callable[..., bool]:
    @jinja2.pass_context
    def metered(context: Context, *args: Any) -> bool:
        for value in args:
            meter_of(context).weigh(value)
        return function(*args)

    return metered


def _passed(context: Context, pass_arg: _PassArg) -> Any:
    if pass_arg is _PassArg.context:
        return context
    return context.eval_ctx if pass_arg is _PassArg.eval_context else context.environment


# --- functions of templates ---------------------------------------------------------------------------------------


@jinja2.pass_context
def _tojson(
    context: Context,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    if indent is None:
        return encoder.encode(value)
    meter, size = meter_of(context), 0
    texts: list[str] = []
    for text in encoder.iterencode(value):  # indentation grows with the depth, without a limit
        size += len(text)
        meter.spend(1)
        meter.check_size(size)
        texts.append(text)
    return "".join(texts)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    if len(pattern) > _MAX_PATTERN_CHARS:
        raise TemplateLimitError("it formats a date with a pattern that is too long")
    return datetime.now().strftime(pattern)
