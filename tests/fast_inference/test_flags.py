"""Flags: their spelling, and that only given ones count."""

import argparse

import pytest

from fast_inference.flags import SECTIONS, FlagParser, add_setting_flags, environment_name, flag_name, given_flags


@pytest.fixture
def parser() -> FlagParser:
    parser = FlagParser(prog="x", argument_default=argparse.SUPPRESS)
    add_setting_flags(parser)
    return parser


def given(parser: FlagParser, *argv: str) -> dict[str, object]:
    return given_flags(parser, parser.parse_args(argv))


def test_nothing_given_is_nothing(parser):
    assert given(parser) == {}


def test_kebab_case_and_raw_strings(parser):
    assert given(parser, "--max-num-seqs", "4", "--dtype=float32") == {"max_num_seqs": "4", "dtype": "float32"}


@pytest.mark.parametrize("flag", ["--frontends", "--workers", "--api-server-count"])
def test_aliases_of_frontends(parser, flag):
    assert given(parser, flag, "3") == {"frontends": "3"}


def test_booleans_both_ways(parser):
    assert given(parser, "--enable-prefix-caching") == {"enable_prefix_caching": True}
    assert given(parser, "--no-enable-prefix-caching") == {"enable_prefix_caching": False}


def test_served_model_name_is_repeatable(parser):
    assert given(parser, "--served-model-name", "a", "--served-model-name", "b") == {"served_model_name": ["a", "b"]}


def test_model_as_argument_or_flag(parser):
    assert given(parser, "m") == given(parser, "--model", "m") == given(parser, "m", "--model", "m") == {"model": "m"}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--max-num-seq", "4"], "unknown argument --max-num-seq, did you mean --max-num-seqs?"),
        (["--max_num_seqs=4"], "unknown argument --max_num_seqs=4, did you mean --max-num-seqs?"),
        (["a", "b"], "unknown argument b "),
        (["a", "--model", "b"], "two models: a and --model b"),
        (["--port"], "expected one argument"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(parser, capsys, argv, message):
    with pytest.raises(SystemExit) as caught:
        given(parser, *argv)
    error = capsys.readouterr().err
    assert caught.value.code == 2
    assert message in error
    assert error.count("\n") == 1


def test_help_shows_flag_default_and_variable_of_every_setting(parser):
    text = parser.format_help()
    for section in SECTIONS:
        for name in section.model_fields:
            assert flag_name(name) in text
            assert environment_name(name) in text
    assert text.count("(default:") == sum(len(section.model_fields) for section in SECTIONS) + 1  # --config
