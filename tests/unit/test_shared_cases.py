"""Small inputs that once told untruths; see the README beside them."""

import dataclasses
import random
from pathlib import Path

import pytest
from tests.unit.small_models import stored_version

from reckeeper import evaluation
from reckeeper.cli.evaluation_files import read_interactions
from reckeeper.policy import Policy
from reckeeper.ranking import Ranker
from reckeeper.recipes import recipe_named
from reckeeper.training import gate

CASES = Path(__file__).parents[3] / "shared" / "cases"


@pytest.fixture
def sorted_csv():
    path = CASES / "sorted.csv"
    if not path.exists():
        pytest.skip(f"The cases are not in {CASES}")
    return path


def judged(path):
    """Return how a file is cut, and what `popularity` and `spectral` find."""
    log, _ = read_interactions(path)
    log, _ = evaluation.canonical(log)
    splits = evaluation.pooled_splits(log, "next" if evaluation.is_timed(log) else "random")
    qualities = []
    for recipe, settings in (("popularity", {}), ("spectral", {"n_components": 0})):
        of_cuts = []
        for split in splits:
            model = recipe_named(recipe).fit(split.train, settings=settings)
            of_cuts.append(evaluation.measure_split(Ranker.of(model, split.train), split, k=20))
        qualities.append(evaluation.pool(of_cuts))
    return {
        "how": evaluation.how_pooled(splits),
        "popularity": qualities[0].summary(),
        "spectral": qualities[1].summary(),
        "difference": evaluation.compare(*qualities),
    }


def test_a_file_without_times_is_judged_alike_in_any_order(sorted_csv, tmp_path):
    expected = judged(sorted_csv)
    assert expected["how"] == (
        "a random fifth of each user's interactions: they carry no times; 5 such cuts, pooled by "
        "user"
    )
    assert expected["spectral"]["ndcg@20"].mean > 0.3
    header, *lines = sorted_csv.read_text().splitlines(keepends=True)
    orders = {"reversed": lines[::-1], "shuffled": random.Random(3).sample(lines, len(lines))}
    for name, order in orders.items():
        path = tmp_path / f"{name}.csv"
        path.write_text(header + "".join(order))
        assert judged(path) == expected
    assert judged(CASES / "shuffled.csv") == expected


def test_the_gate_gives_one_verdict_on_a_file_in_any_order(sorted_csv, tmp_path):
    def verdict(path):
        log, _ = read_interactions(path)
        row = stored_version(version=3, recipe="popularity", settings={})
        policy = Policy(min_users=30)
        held_out = gate.hold_out(log, n_seen=0, active=row, policy=policy)
        verdict = gate.judge(
            gate.Candidate("spectral", {"n_components": 0}, log, is_automatic=True),
            held_out,
            active=None,
            previous=None,
            policy=policy,
            report=lambda _: None,
        )
        return dataclasses.replace(verdict, seconds=0.0, decided_at=0)

    expected = verdict(sorted_csv)
    assert expected.standing == "better"
    assert expected.how.startswith(
        "a random fifth of each user's interactions: they carry no times"
    )
    assert expected.sentence.endswith(f" Asked for: {expected.how}.")
    header, *lines = sorted_csv.read_text().splitlines(keepends=True)
    reversed_csv = tmp_path / "reversed.csv"
    reversed_csv.write_text(header + "".join(lines[::-1]))
    for path in (CASES / "shuffled.csv", reversed_csv):
        assert verdict(path) == expected


def test_a_file_with_one_time_for_all_is_cut_at_random(sorted_csv, tmp_path):
    log, _ = read_interactions(sorted_csv)
    header, *lines = sorted_csv.read_text().splitlines()
    path = tmp_path / "timed.csv"
    path.write_text("\n".join([f"{header},timestamp", *(f"{line},1700000000" for line in lines)]))
    timed, _ = read_interactions(path)
    assert not evaluation.is_timed(timed)
    assert evaluation.pooled_default(timed)[0].how == (
        "a random fifth of each user's interactions: they all carry one time"
    )
    same = dataclasses.replace(timed, occurred_at=None)
    assert same.fingerprint() == log.fingerprint()
