"""A plan of blows depends on the seed alone, and never kills the core so often that the server gives up."""

import itertools
import random

from tests.chaos.harness.nemesis import Blow, plan


def test_a_seed_repeats_its_plan():
    assert plan(random.Random(1), 60) == plan(random.Random(1), 60) != plan(random.Random(2), 60)


def test_blows_follow_each_other():
    strikes = plan(random.Random(3), 600)
    assert all(first.at_s + first.for_s < then.at_s for first, then in itertools.pairwise(strikes))


def test_every_blow_is_in_a_long_plan_and_the_core_is_not_killed_too_often():
    strikes = plan(random.Random(4), 600)
    assert {strike.blow for strike in strikes} == set(Blow)
    kills = [strike.at_s for strike in strikes if strike.blow is Blow.KILL and strike.role == "core"]
    assert len(kills) > 3
    assert min(then - first for first, then in itertools.pairwise(kills)) >= 15
