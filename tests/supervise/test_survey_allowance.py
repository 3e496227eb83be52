"""What surveys may cost: a succession at first, a trickle after, and the debt of a dear one is waited for."""

from __future__ import annotations

import pytest

from unsloth_watch.supervise.allowance import LARGE_S, SAVED_S, SHARE, VAIN_SHARE, Allowance

pytestmark = pytest.mark.quick


def test_what_was_saved_up_may_be_used_at_once():
    allowance = Allowance(0.0)
    taken = 0
    while allowance.has_left(0.0):
        allowance.take(SAVED_S / 4)
        taken += 1
    assert taken == 4


def test_in_the_long_run_a_survey_comes_as_often_as_its_share_allows():
    allowance, cost_s, hours = Allowance(0.0), 0.25, 10
    taken = 0
    for now in range(3600 * hours):
        if allowance.has_left(now):
            allowance.take(cost_s)
            taken += 1
    assert taken * cost_s == pytest.approx(SAVED_S + SHARE * 3600 * hours, abs=2 * cost_s)


def test_one_that_cost_more_than_there_was_is_paid_off_before_the_next():
    allowance = Allowance(0.0)
    allowance.take(SAVED_S + 1.0)
    assert not allowance.has_left(0.99 / SHARE)
    assert allowance.has_left(1.01 / SHARE)


def test_no_more_is_saved_up_than_the_most():
    allowance = Allowance(0.0)
    assert allowance.has_left(1e6)
    allowance.take(SAVED_S)
    assert not allowance.has_left(1e6)


def test_a_large_one_that_could_not_be_finished_is_not_repeated_before_its_share_allows():
    allowance = Allowance(0.0)
    assert not allowance.is_resting(0.0)
    allowance.rest_after(4.0, 86400.0, now=10.0)
    assert allowance.is_resting(10.0 + 0.99 * 4.0 / VAIN_SHARE)
    assert not allowance.is_resting(10.0 + 1.01 * 4.0 / VAIN_SHARE)


@pytest.mark.parametrize("stall_s", [20.0, 180.0])
def test_several_of_the_dearest_fit_into_a_stall_timeout(stall_s: float):
    allowance = Allowance(0.0)
    allowance.rest_after(60.0, stall_s, now=10.0)
    assert not allowance.is_resting(10.0 + 1.01 * stall_s / 6)


def test_a_small_one_that_could_not_be_finished_may_be_repeated_at_once():
    allowance = Allowance(0.0)
    allowance.rest_after(0.99 * LARGE_S, 180.0, now=10.0)
    assert not allowance.is_resting(10.0)
