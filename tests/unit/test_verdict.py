"""What a paired difference says: the standings, and the users that it takes."""

import numpy as np
import pytest

from reckeeper.evaluation import PairedDifference
from reckeeper.training.verdict import found


def difference(mean, *, sd=0.1, n=10_000, half=None):
    half = 1.96 * sd / np.sqrt(n) if half is None else half
    return PairedDifference(mean, mean - half, mean + half, sd, n)


@pytest.mark.parametrize(
    ("versus", "standing"),
    [
        (difference(0.02, half=0.01), "better"),
        (difference(0.0, half=0.005), "no_worse"),
        (difference(0.005, half=0.008), "no_worse"),
        (difference(-0.005, half=0.004), "slightly_worse"),
        (difference(-0.02, half=0.009), "worse"),
        (difference(-0.02, half=0.009, sd=0.4), "too_few"),
        (difference(-0.02, half=0.011), "slightly_worse"),
        (None, "not_compared"),
    ],
)
def test_an_interval_is_held_against_zero_and_the_margin(versus, standing):
    assert found(versus, mean=0.5, margin=0.02).standing == standing


@pytest.mark.parametrize(
    ("high", "margin", "expected"),
    [(-0.011, 0.02, True), (-0.009, 0.02, False), (-0.001, 0.0, True), (0.0, 0.0, False)],
)
def test_worse_is_what_lies_below_the_margin_as_a_whole(high, margin, expected):
    versus = PairedDifference(difference=-0.2, low=-0.3, high=high, sd=0.1, n=500)
    assert (found(versus, mean=0.5, margin=margin).standing == "worse") == expected


@pytest.mark.parametrize("mean", [-0.005, 0.0, 0.005])
def test_with_fewer_users_than_it_takes_nothing_is_called_no_worse(mean):
    needed = found(difference(mean), mean=0.5, margin=0.02).n_users_needed
    assert needed == np.ceil((3.858 * 0.1 / 0.01) ** 2)
    told = {found(difference(mean, n=needed - 1), mean=0.5, margin=0.02).standing}
    told.add(found(difference(mean, half=0.002, n=needed - 1), mean=0.5, margin=0.02).standing)
    assert told <= {"too_few", "better"}
    assert found(difference(0, n=needed), mean=0.5, margin=0.02).standing == "no_worse"


def test_few_users_may_show_that_it_is_better_or_worse():
    for loss, standing in ((0.2, "better"), (-0.2, "worse")):
        assert found(difference(loss, n=50), mean=0.5, margin=0.02).standing == standing


def test_fewer_users_than_the_policy_asks_for_tell_nothing():
    finding = found(difference(-0.2, n=50, sd=0.001), mean=0.5, margin=0.02, min_users=51)
    assert (finding.standing, finding.n_users_needed) == ("too_few", 51)


def test_without_a_margin_only_what_is_alike_is_no_worse():
    alike = found(difference(0.0, sd=0.0), mean=0.5, margin=0.0)
    assert (alike.standing, alike.n_users_needed) == ("no_worse", 2)
    finding = found(difference(0.0), mean=0.5, margin=0.0)
    assert (finding.standing, finding.n_users_needed) == ("too_few", None)
    assert found(difference(-0.1), mean=0.5, margin=0.0).standing == "worse"


def test_beside_a_figure_of_zero_nothing_can_be_lost():
    assert found(difference(0.0, n=5), mean=0.0, margin=0.02).standing == "no_worse"


def test_the_users_needed_find_a_loss_of_twice_the_margin_in_nine_of_ten_cases():
    random = np.random.default_rng(4)
    mean, margin, sd = 0.4, 0.02, 0.12
    needed = found(difference(0.0, sd=sd), mean=mean, margin=margin).n_users_needed
    n_found = 0
    for _ in range(1_000):
        lost = random.normal(-2 * margin * mean, sd, needed)
        versus = difference(lost.mean(), sd=lost.std(ddof=1), n=needed)
        n_found += found(versus, mean=mean, margin=margin).standing == "worse"
    assert 870 <= n_found <= 930
