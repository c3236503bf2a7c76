"""Seconds of steps: the closed form, and profiles as files."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fast_inference.bench.fleet.step_time import PROFILES_DIR, StepTime, load_profile, save_profile
from ipc.errors import ConfigError

TIME = StepTime(0.004, 0.0004, 6e-7, 3e-4)


@given(st.integers(1, 200), st.integers(1, 64), st.integers(1, 100_000))
def test_a_run_takes_as_long_as_its_steps(num_steps, num_decodes, context):
    one_by_one = sum(TIME.decode_s(num_decodes, context + step * num_decodes) for step in range(num_steps))
    assert TIME.run_s(num_steps, num_decodes, context) == pytest.approx(one_by_one)


@given(st.floats(0, 5), st.integers(1, 64), st.integers(1, 100_000), st.sampled_from([0.0, 6e-7, 1e-5]))
def test_as_many_steps_have_begun_as_the_time_asks_for(seconds, num_decodes, context, per_context_token_s):
    time = StepTime(0.004, 0.0004, per_context_token_s, 3e-4)
    count = time.num_steps_begun(seconds, num_decodes, context)
    assert time.run_s(count, num_decodes, context) >= seconds
    assert count == 1 or time.run_s(count - 1, num_decodes, context) < seconds


@pytest.mark.parametrize("path", sorted(PROFILES_DIR.glob("*.json")), ids=lambda path: path.stem)
def test_profiles_can_be_read_and_name_their_command(path, tmp_path):
    profile = load_profile(path.stem)
    assert profile.command.startswith("scripts/")
    save_profile(profile, tmp_path / path.name)
    assert json.loads((tmp_path / path.name).read_text()) == json.loads(path.read_text())
    assert load_profile(str(tmp_path / path.name)) == profile


def test_an_unknown_profile_is_refused_with_the_names_of_the_others():
    with pytest.raises(ConfigError, match="h200-8b"):
        load_profile("nonesuch")
