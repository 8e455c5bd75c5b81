"""The gate: planted better, worse and equal models, leaks, falls of the data, and odd data."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.small_models import stored_version

from reckeeper import __version__, clock, evaluation, matrix
from reckeeper.artifact import Artifact, Metadata
from reckeeper.errors import JobCancelledError
from reckeeper.matrix import IdIndex, InteractionLog
from reckeeper.policy import Policy
from reckeeper.ranking import Ranker
from reckeeper.recipes import recipe_named
from reckeeper.registry import ActiveModel
from reckeeper.training import gate
from reckeeper.training.drift import Change, Drift, PerDay
from reckeeper.training.verdict import Verdict, metrics_to_json

DAY = 86_400_000_000
POLICY = Policy(min_users=30, min_new_interactions=200)
DATA = POLICY.data()
WORSE, BETTER = ("svd", {"n_components": 1}), ("svd", {"n_components": 4})
METRICS = {"recall@10", "ndcg@10", "hit_rate@10", "map@10"}
BY_USER = METRICS | {"precision@10", "mrr@10", "without_hit@10"}
OF_LISTS = {"coverage@10", "novelty@10", "gini@10", "popularity_lift@10"}


def log_of(rows, *, n_users, n_items, with_times=True):
    """Make a log of rows ``(user, item, weight, listing, time)``."""
    user, item, weight, listing, at = np.array(rows, dtype=np.float64).reshape(-1, 5).T
    return InteractionLog(
        IdIndex([f"u{number:04}" for number in range(n_users)]),
        IdIndex([f"i{number:04}" for number in range(n_items)]),
        user.astype(np.int32),
        item.astype(np.int32),
        weight.astype(np.float64),
        at.astype(np.int64) if with_times else None,
        listing.astype(np.int8),
    )


def by_ids(trained):
    """Return the weights of a matrix by external ids."""
    entries = trained.weights.tocoo()
    return {
        (trained.users.ids[user], trained.items.ids[item]): weight
        for user, item, weight in zip(entries.row, entries.col, entries.data, strict=True)
    }


def tastes(n_users=160, n_items=80, *, n_kinds=4, of_kind=0.9, n_each=16, with_times=True):
    """Return a log of users who each like one kind of items most; one component per kind."""
    random = np.random.default_rng(7)
    rows = []
    for _ in range(n_each):
        for user in random.permutation(n_users):
            item = random.integers(n_items)
            if random.random() < of_kind:
                item = item // n_kinds * n_kinds + user % n_kinds
            rows.append((user, item, 1.0, 0, 1_000_000 * len(rows)))
    return log_of(rows, n_users=n_users, n_items=n_items, with_times=with_times)


def row_of(recipe, settings, log, /, **changed):
    """Return the record of version 3, fitted to a log."""
    known = {
        "data": DATA,
        "training_samples": len(log),
        "n_users": len(log.users),
        "n_items": len(log.items),
        "trained_at": clock.now(),
        **changed,
    }
    return stored_version(**{"version": 3, "recipe": recipe, "settings": settings, **known})


def fitted(recipe, settings, interactions):
    """Return version 3 in memory."""
    model = recipe_named(recipe).fit(interactions, settings=settings)
    metadata = Metadata(
        version=3,
        recipe=recipe,
        settings=model.settings,
        n_users=len(interactions.users),
        n_items=len(interactions.items),
        training_samples=interactions.n_interactions,
        explained_variance=model.explained_variance,
        watermark=1,
        trained_at=clock.now(),
        seconds=1.0,
        trigger="manual",
    )
    return ActiveModel(3, Artifact.of(metadata, interactions, model), 1)


def judge(held_out, candidate, *, log=None, is_automatic=True, **changed):
    log = held_out.log if log is None else log
    return gate.judge(
        gate.Candidate(*candidate, log, is_automatic),
        held_out,
        **{
            "active": None,
            "previous": None,
            "policy": POLICY,
            "report": lambda _: None,
            **changed,
        },
    )


def judged(method, candidate, active, *, log=None, policy=POLICY, **changed):
    """Judge a candidate beside an active version by either method."""
    log = tastes() if log is None else log
    n_seen = len(log) * 3 // 4 if method == "new_interactions" else 0
    row = row_of(*active, log)
    seed = changed.get("seed", 0)
    held_out = gate.hold_out(log, n_seen=n_seen, active=row, policy=policy, seed=seed)
    model = fitted(*active, log.matrix(np.arange(len(log)) < n_seen) if n_seen else log.matrix())
    verdict = judge(held_out, candidate, active=model, policy=policy, **changed)
    assert verdict.method == method
    return verdict


def timeless(verdict):
    """Return a verdict without what is another each time."""
    return dataclasses.replace(verdict, seconds=0.0, decided_at=0)


each_method = pytest.mark.parametrize("method", ["new_interactions", "refit"])


@each_method
@pytest.mark.parametrize("is_automatic", [True, False])
def test_a_worse_model_is_rejected(method, is_automatic):
    verdict = judged(method, WORSE, BETTER, is_automatic=is_automatic)
    assert verdict.decision == "reject"
    assert verdict.sentence.startswith("Worse than version 3")
    assert verdict.reasons[0].startswith("It is worse than version 3 by more than 2.0% of its ")
    difference = verdict.versus_active["ndcg@10"]
    assert difference.high < -0.02 * verdict.active["ndcg@10"].mean
    assert f"(difference {difference.difference:+.3f}, 95% interval" in verdict.reasons[0]


@each_method
def test_a_better_model_is_promoted(method):
    verdict = judged(method, BETTER, WORSE)
    assert (verdict.decision, verdict.reasons, verdict.warnings) == ("promote", (), ())
    assert verdict.sentence.startswith("Better than version 3")
    assert verdict.versus_active["ndcg@10"].low > 0
    assert verdict.versus_popularity["ndcg@10"].low > 0


def test_a_model_that_is_the_active_one_is_not_compared_and_is_promoted():
    verdict = judged("new_interactions", BETTER, BETTER)
    assert (verdict.decision, verdict.reasons, verdict.warnings) == ("promote", (), ())
    # The same interactions give the same model: it answers as the active one does.
    assert verdict.standing == "not_compared"
    assert (verdict.active, verdict.versus_active, verdict.n_users_needed) == (None, None, None)
    ours, popular = (
        f"{side['ndcg@10'].mean:.3f}" for side in (verdict.candidate, verdict.popularity)
    )
    assert verdict.sentence.startswith(
        "Not compared: without the newer interactions, its recipe and settings give version 3 "
        f"itself. On {verdict.n_users} users' newer interactions: NDCG@10 {ours} against {popular} "
        "of popularity (difference +0."
    )
    assert verdict.sentence.endswith(
        ". Asked for: each newer interaction, from the history just before it."
    )


def test_an_active_version_that_the_fit_would_give_again_stands_for_the_candidate():
    log = tastes()
    n_seen = len(log) * 3 // 4
    first = log.part(slice(n_seen))
    known = {"fingerprint": first.fingerprint(), "libraries": {"reckeeper": __version__}}
    changes = [{}, known, {**known, "fingerprint": log.fingerprint()}]
    changes += [{**known, "libraries": {"reckeeper": "0.0"}}, {**known, "settings": WORSE[1]}]

    def verdict_of(changed, model):
        row = row_of(*BETTER, log, **changed)
        held_out = gate.hold_out(log, n_seen=n_seen, active=row, policy=POLICY)
        return timeless(judge(held_out, BETTER, active=model))

    same = fitted(*BETTER, first.matrix())
    for changed in changes[:-1]:
        assert verdict_of(changed, same) == verdict_of({}, same)
    assert verdict_of(changes[-1], same).versus_active["ndcg@10"].difference == 0.0
    # Of what is not what its row says it shows which was fitted.
    other = fitted(*WORSE, first.matrix())
    verdicts = [verdict_of(changed, other) for changed in changes]
    assert verdicts[1].standing == "not_compared"
    assert all(
        verdict.versus_active["ndcg@10"].difference > 0.05
        for verdict in verdicts[:1] + verdicts[2:]
    )


ALIKE = ("svd", {"n_components": 5})


def test_a_model_with_other_settings_that_is_as_good_is_promoted():
    verdict = judged("refit", ALIKE, BETTER, policy=POLICY.model_copy(update={"margin": 0.2}))
    assert (verdict.decision, verdict.standing) == ("promote", "no_worse")
    assert verdict.n_users >= verdict.n_users_needed
    assert verdict.sentence.startswith(
        "No worse than version 3, fitted again on the same interactions, on what was held out of "
        f"{verdict.n_users} users' histories: NDCG@10 "
    )


def test_with_too_few_users_to_tell_none_is_called_no_worse():
    verdict = judged("refit", ALIKE, BETTER)
    assert (verdict.decision, verdict.standing, verdict.reasons) == ("promote", "too_few", ())
    assert verdict.n_users < verdict.n_users_needed
    assert verdict.sentence.startswith(
        "Too few to tell beside version 3, fitted again on the same interactions, on what was held "
        f"out of {verdict.n_users} users' histories: NDCG@10 "
    )
    needed = f"To find a loss of 4.0% takes {verdict.n_users_needed:,} users. "
    assert needed in verdict.sentence


def test_the_margin_says_how_much_worse_is_allowed():
    verdict = judged("refit", WORSE, BETTER, policy=POLICY.model_copy(update={"margin": 0.95}))
    assert verdict.sentence.startswith("Worse by less than the margin than version 3")
    assert not [reason for reason in verdict.reasons if "version 3 by more" in reason]


@pytest.mark.parametrize("metric", sorted(METRICS))
def test_the_metric_is_that_of_the_policy(metric):
    verdict = judged("refit", BETTER, WORSE, policy=POLICY.model_copy(update={"metric": metric}))
    assert verdict.metric == metric
    name = {"recall": "Recall", "ndcg": "NDCG", "hit_rate": "HitRate", "map": "MAP"}
    assert f"histories: {name[metric.removesuffix('@10')]}@10 0." in verdict.sentence
    assert f"{verdict.candidate[metric].mean:.3f} against" in verdict.sentence


@each_method
def test_a_verdict_is_whole_and_json_and_repeatable(method):
    first, again = (judged(method, BETTER, WORSE) for _ in range(2))
    told = first.to_json()
    assert json.loads(json.dumps(told)) == told
    assert Verdict.from_json(told) == first
    assert first.seconds >= 0
    assert 0 <= clock.now() - first.decided_at < 60_000_000
    assert told["decided_at"].endswith("Z")
    assert timeless(first) == timeless(again)
    assert not told.keys() & {"disposition", "outcome", "action"}  # not decided yet
    for name in ("candidate", "active", "popularity"):
        assert told[name].keys() == BY_USER | OF_LISTS
        assert told[name]["ndcg@10"].keys() == {"mean", "low", "high"}
        assert told[name]["coverage@10"].keys() == {"mean"}
    assert (first.k, first.margin, first.active_version) == (10, 0.02, 3)
    assert first.versus_active.keys() == first.versus_popularity.keys() == BY_USER
    for metric, versus in first.versus_active.items():
        difference = first.candidate[metric].mean - first.active[metric].mean
        assert versus.difference == pytest.approx(difference)


# What is held out


def test_newer_interactions_are_held_out_where_there_are_enough():
    log = tastes()
    n_seen = len(log) - 300
    row = row_of(*BETTER, log)
    held_out = gate.hold_out(log, n_seen=n_seen, active=row, policy=POLICY)
    assert held_out.splits[0].kind == "new"
    first = np.arange(len(log)) < n_seen
    assert len(held_out.training_log) == n_seen
    assert held_out.training_log.fingerprint() == log.part(first).fingerprint()
    assert by_ids(held_out.training_log.matrix()) == by_ids(log.matrix(first))


@pytest.mark.parametrize(
    ("changed", "n_seen", "is_active"),
    [
        ({"min_new_interactions": 301}, -300, True),
        ({"min_users": 170}, -300, True),
        ({}, 0, True),  # an imported version: nobody knows what it has seen
        ({}, -300, False),
    ],
    ids=["few interactions", "few users", "no watermark", "no version"],
)
@pytest.mark.parametrize("with_times", [True, False])
def test_else_a_part_of_each_history_is_held_out(changed, n_seen, is_active, with_times):
    log = tastes(with_times=with_times)
    policy = POLICY.model_copy(update=changed)
    row = row_of(*BETTER, log) if is_active else None
    held_out = gate.hold_out(log, n_seen=n_seen % len(log), active=row, policy=policy)
    log, _ = evaluation.canonical(log)
    expected = evaluation.pooled_splits(log, "next" if with_times else "random")
    assert len(held_out.splits) == len(expected) == (3 if with_times else 5)
    for split, likewise in zip(held_out.splits, expected, strict=True):
        assert (split.kind, split.how) == (likewise.kind, likewise.how)
        assert (split.held_out != likewise.held_out).nnz == 0
    kept = np.logical_and.reduce([split.keep for split in expected])
    assert len(held_out.training_log) == np.count_nonzero(kept)


@pytest.mark.parametrize("with_times", [True, False])
def test_what_settings_are_found_on_is_without_the_one_cut(with_times):
    log = tastes(with_times=with_times)
    held_out = gate.hold_out(log, n_seen=0, active=None, policy=POLICY, tunes=True)
    log, _ = evaluation.canonical(log)
    (split,) = held_out.splits
    assert (split.how,) == tuple(one.how for one in evaluation.pooled_default(log, below=0))
    assert len(held_out.training_log) == split.train.n_interactions
    assert 0.7 < len(held_out.training_log) / len(log) < 0.9


@each_method
def test_the_candidate_does_not_see_what_is_held_out(method):
    """Of noise nothing can be learned; who has seen the answers finds them all the same."""
    log = tastes(n_users=120, n_items=100, of_kind=0.0, n_each=12)
    candidate = ("svd", {"n_components": 90})
    by_chance = 10 / 100
    verdict = judged(method, candidate, candidate, log=log)
    assert verdict.candidate["recall@10"].low < by_chance * 1.5

    n_seen = len(log) * 3 // 4 if method == "new_interactions" else 0
    row = row_of(*candidate, log)
    split = gate.hold_out(log, n_seen=n_seen, active=row, policy=POLICY).splits[0]
    log, _ = evaluation.canonical(log, is_newer=np.arange(len(log)) >= n_seen if n_seen else None)
    leaking = dataclasses.replace(split, train=log.matrix())
    seen_all = recipe_named("svd").fit(leaking.train, settings=candidate[1])
    quality = evaluation.measure_split(Ranker.of(seen_all, leaking.train), leaking, k=10)
    assert quality.by_user["recall@10"].mean() > by_chance * 3


def test_a_candidate_has_as_much_as_the_active_version_had():
    """A window that ends with the newest interaction would leave the candidate less."""
    log = tastes(n_each=24)
    data = {"window_days": 10 * 160 / 86_400, "max_interactions_per_user": 9}  # ten of each user
    n_seen = 16 * 160
    whole, places = matrix.choose(log, **data)
    seen, _ = matrix.choose(log.part(slice(n_seen)), **data)
    row = row_of(*BETTER, seen)
    held_out = gate.hold_out(
        whole, n_seen=int(np.searchsorted(places, n_seen)), active=row, policy=POLICY, seen=seen
    )
    assert held_out.splits[0].kind == "new"
    assert by_ids(held_out.splits[0].train) == by_ids(seen.matrix())
    assert (
        held_out.splits[0].train.weights.sum() > 1.5 * whole.matrix(places < n_seen).weights.sum()
    )
    # What came later of the users and items that there were, and nothing that was known.
    known = {
        (seen.users.ids[user], seen.items.ids[item])
        for user, item in zip(seen.user_index, seen.item_index, strict=True)
    }
    later = {
        (whole.users.ids[user], whole.items.ids[item])
        for user, item, weight in zip(
            whole.user_index[places >= n_seen],
            whole.item_index[places >= n_seen],
            whole.weight[places >= n_seen],
            strict=True,
        )
        if weight > 0
    }
    split = held_out.splits[0]
    rows, items = split.held_out.nonzero()
    held = {
        (split.train.users.ids[user], split.train.items.ids[item])
        for user, item in zip(split.user_index[rows], items, strict=True)
    }
    assert held == {
        (user, item)
        for user, item in later - known
        if seen.users.find(user) is not None and seen.items.find(item) is not None
    }
    model = fitted(*BETTER, seen.matrix())
    verdict = judge(held_out, BETTER, active=model)
    assert verdict.standing == "not_compared"  # the fit gives the active version itself


@pytest.mark.parametrize("with_times", [True, False])
def test_users_and_items_that_came_later_are_left_out_of_a_continued_log(with_times):
    seen = log_of([(0, 0, 1, 0, 1), (1, 1, 1, 0, 2)], n_users=2, n_items=2, with_times=with_times)
    rows = [(0, 1, 1, 0, 3), (2, 0, 1, 0, 4), (1, 2, 1, 0, 5), (1, 0, 0.5, 1, 6)]
    later = log_of([(0, 0, 1, 0, 1), *rows], n_users=3, n_items=3, with_times=with_times)
    policy = Policy(min_users=2, min_new_interactions=4)
    held_out = gate.hold_out(
        later, n_seen=1, active=row_of(*BETTER, seen), policy=policy, seen=seen
    )
    log = held_out.log
    times = [None] * len(log) if log.occurred_at is None else log.occurred_at.tolist()
    rows = zip(
        [log.users.ids[user] for user in log.user_index],
        [log.items.ids[item] for item in log.item_index],
        log.weight.tolist(),
        log.listing.tolist(),
        times,
        strict=True,
    )
    assert sorted(rows) == [
        ("u0000", "i0000", 1.0, 0, 1 if with_times else None),
        ("u0000", "i0001", 1.0, 0, 3 if with_times else None),
        ("u0001", "i0000", 0.5, 1, 6 if with_times else None),
        ("u0001", "i0001", 1.0, 0, 2 if with_times else None),
    ]


# What stands beside the candidate


def only_items(log, kept):
    """Return a log with some of its items, numbered again."""
    part = log.part(np.isin(log.item_index, kept))
    items = IdIndex([log.items.ids[index] for index in kept])
    return dataclasses.replace(
        part, items=items, item_index=np.searchsorted(kept, part.item_index).astype(np.int32)
    )


def test_an_active_version_that_lacks_items_never_recommends_them():
    log = tastes()
    n_seen = len(log) * 3 // 4
    first = log.part(slice(n_seen))
    kept = np.flatnonzero(np.arange(len(log.items)) % 10 > 3)
    model = fitted("popularity", {}, only_items(first, kept).matrix())
    row = row_of("popularity", {}, log)
    held_out = gate.hold_out(log, n_seen=n_seen, active=row, policy=POLICY)
    verdict = judge(held_out, BETTER, active=model)

    of_item = np.bincount(first.matrix().weights.indices, minlength=len(log.items))
    items = held_out.splits[0].train.items.places_in(log.items)
    counts = np.where(np.isin(items, kept), of_item[items], -np.inf)

    class Table:
        is_personal = False

        def score(self, histories):
            return np.tile(counts, (len(histories), 1))

    expected = evaluation.measure_split(
        Ranker(Table(), popularity=counts), held_out.splits[0], k=10
    ).summary()
    assert metrics_to_json(verdict.active) == metrics_to_json(expected)
    assert verdict.active["coverage@10"].mean <= len(kept) / len(log.items)


def test_what_only_the_active_version_knows_makes_no_difference():
    """Its lists are those of a model that never had these users and items."""
    log = tastes()
    n_seen = len(log) * 3 // 4
    first = log.part(slice(n_seen))
    settings = {"n_components": 0}  # co-occurrence alone: what is apart does not mix
    random = np.random.default_rng(3)
    strange = log_of(
        [(user, item, 1.0, 0, 1) for user in range(20) for item in random.choice(9, 4)],
        n_users=20,
        n_items=9,
    )
    strange = dataclasses.replace(  # their ids stand before and between those of the log
        strange,
        users=IdIndex([f"a{number:03}" for number in range(20)]),
        items=IdIndex([f"i{number:03}5x" for number in range(9)]),
    )
    items = IdIndex(sorted([*first.items.ids, *strange.items.ids]))
    both = InteractionLog(
        IdIndex([*strange.users.ids, *first.users.ids]),
        items,
        np.concatenate([strange.user_index, first.user_index + np.int32(20)]),
        np.concatenate(
            [
                log.items.places_in(items)[strange_or_first.item_index].astype(np.int32)
                for log, strange_or_first in ((strange, strange), (first, first))
            ]
        ),
        np.concatenate([strange.weight, first.weight]),
        np.concatenate([strange.occurred_at, first.occurred_at]),
        np.concatenate([strange.listing, first.listing]),
    )
    row = row_of("spectral", settings, log)
    held_out = gate.hold_out(log, n_seen=n_seen, active=row, policy=POLICY)
    alone, beside = (
        judge(held_out, WORSE, active=fitted("spectral", settings, one.matrix()))
        for one in (first, both)
    )
    for metric in METRICS:
        assert beside.active[metric].mean == pytest.approx(alone.active[metric].mean)


def test_a_recipe_is_not_compared_with_itself():
    verdict = judged("refit", BETTER, BETTER)
    assert (verdict.decision, verdict.reasons, verdict.warnings) == ("promote", (), ())
    assert verdict.active is None
    assert verdict.versus_active is None
    assert verdict.versus_popularity["ndcg@10"].low > 0
    assert verdict.sentence.startswith(
        "Recipe and settings are those of version 3, and there are too few newer interactions to "
        "tell the two apart. On what was held out of 160 users' histories: NDCG@10 0."
    )
    assert " of popularity (difference +0." in verdict.sentence


def test_settings_are_compared_once_they_are_complete():
    verdict = judged("refit", ("svd", {}), ("svd", {"n_components": 10}))
    assert verdict.versus_active is None
    assert judged("refit", ("svd", {}), ("svd", {"n_components": 9})).versus_active is not None


def test_what_changed_in_the_data_cannot_be_seen_by_a_refit_and_is_said():
    log = tastes()
    held_out = gate.hold_out(log, n_seen=0, active=row_of(*BETTER, log), policy=POLICY)
    policy = POLICY.model_copy(update={"half_life_days": 30.0})
    verdict = judge(held_out, BETTER, policy=policy)
    assert verdict.warnings == (
        "Interactions are weighed or chosen otherwise than for version 3. What that changes shows "
        "on newer interactions alone.",
    )
    for known in ({}, policy.data()):
        held_out = dataclasses.replace(held_out, active=row_of(*BETTER, log, data=known))
        assert judge(held_out, BETTER, policy=policy).warnings == ()


def test_lists_that_cover_too_little_are_a_reason():
    candidate = ("popularity", {})
    generous = POLICY.model_copy(update={"margin": 0.99})
    verdict = judged("refit", candidate, BETTER, policy=generous)
    assert verdict.decision == "reject"
    (reason,) = verdict.reasons
    ours, theirs = (side["coverage@10"].mean for side in (verdict.candidate, verdict.active))
    assert ours < 0.5 * theirs
    assert reason == (
        f"Its lists have {ours:.1%} of all items, less than 50% of the {theirs:.1%} that those of "
        "version 3 have."
    )
    lower = generous.model_copy(update={"min_coverage_share": 0.1})
    assert judged("refit", candidate, BETTER, policy=lower).decision == "promote"


def test_the_same_recipe_is_held_to_the_coverage_that_it_had():
    log, recipe = tastes(), ("popularity", {})
    held_out = gate.hold_out(log, n_seen=0, active=None, policy=POLICY)
    before = judge(held_out, recipe).to_json()

    def reasons(**then):
        told = {"method": "refit", "n_users": 160, "candidate": {"coverage@10": {"mean": 0.9}}}
        row = row_of(*recipe, log, verdict={**before, **told, **then})
        held_out = gate.hold_out(log, n_seen=0, active=row, policy=POLICY)
        # The version itself has seen what is held out: what it lists now says nothing.
        verdict = judge(held_out, recipe, active=fitted(*BETTER, log.matrix()))
        assert (verdict.active, verdict.versus_active) == (None, None)
        return verdict.reasons

    (reason,) = reasons()
    assert reason.startswith("Its lists have ")
    assert reason.endswith("less than 50% of the 90.0% that those of version 3 have.")
    assert reasons(n_users=161) == ()  # more users have more lists
    assert reasons(method="new_interactions") == ()
    assert reasons(candidate={"coverage@10": {"mean": 0.01}}) == ()
    assert reasons(candidate=None) == reasons(method="none") == ()
    assert reasons(candidate="told by another program") == ()


def test_the_same_again_is_no_worse():
    log = tastes()
    for recipe in (("spectral", {}), BETTER):
        held_out = gate.hold_out(log, n_seen=0, active=None, policy=POLICY)
        first = judge(held_out, recipe)
        row = row_of(*recipe, log, verdict=first.to_json())
        held_out = gate.hold_out(log, n_seen=0, active=row, policy=POLICY)
        again = judge(held_out, recipe, active=fitted(*recipe, log.matrix()))
        assert (again.decision, again.reasons, again.method) == ("promote", (), "refit")


def popular_things():
    """Return a log where popularity is all that there is to know."""
    random = np.random.default_rng(2)
    share = 1 / np.arange(1, 81)
    rows = [
        (user, item, 1.0, 0, 1_000_000 * number)
        for number, user in enumerate(np.tile(np.arange(200), 12))
        for item in random.choice(80, 1, p=share / share.sum())
    ]
    return log_of(rows, n_users=200, n_items=80)


def test_a_model_that_falls_below_popularity_is_rejected_unless_nothing_serves():
    log, noisy = popular_things(), ("svd", {"n_components": 60})
    held_out = gate.hold_out(log, n_seen=0, active=row_of(*noisy, log), policy=POLICY)
    verdict = judge(held_out, noisy)
    assert verdict.decision == "reject"
    (reason,) = verdict.reasons
    assert reason.startswith("It is worse than the same popular items for everybody: NDCG@10 0.")

    verdict = judge(dataclasses.replace(held_out, active=None), noisy)
    assert (verdict.decision, verdict.reasons, verdict.warnings) == (
        "promote",
        (),
        (reason,),
    )
    assert verdict.sentence.startswith("No version is active to compare it with. On what was held")
    assert verdict.active_version is None


def test_below_popularity_is_a_warning_where_the_active_version_is_below_it_too():
    log, noisy = popular_things(), ("svd", {"n_components": 60})
    active = row_of("svd", {"n_components": 62}, log)
    held_out = gate.hold_out(log, n_seen=0, active=active, policy=POLICY)
    verdict = judge(held_out, noisy)
    assert (verdict.decision, verdict.reasons) == ("promote", ())
    (said,) = [one for one in verdict.warnings if "popular items" in one]
    assert said.startswith(
        "It is worse than the same popular items for everybody, as version 3 is: NDCG@10 0."
    )


def test_an_active_version_that_cannot_be_fitted_again_is_said():
    log = tastes()
    for broken in ({"recipe": "gone"}, {"settings": {"n_factors": 3}}):
        row = dataclasses.replace(row_of(*WORSE, log), **broken)
        held_out = gate.hold_out(log, n_seen=0, active=row, policy=POLICY)
        verdict = judge(held_out, BETTER)
        assert (verdict.decision, verdict.active) == ("promote", None)
        (warning,) = verdict.warnings
        assert warning.startswith("Version 3 could not be measured beside it: The")
        assert verdict.sentence.startswith("It could not be compared with version 3. On what")


def test_a_version_that_cannot_be_loaded_is_fitted_again():
    log = tastes()
    held_out = gate.hold_out(
        log, n_seen=len(log) * 3 // 4, active=row_of(*WORSE, log), policy=POLICY
    )
    assert held_out.splits[0].kind == "new"
    verdict = judge(held_out, BETTER, active=None)
    assert verdict.method == "refit"
    assert verdict.versus_active["ndcg@10"].low > 0


def test_too_few_users_reject_nothing():
    verdict = judged("refit", WORSE, BETTER, policy=POLICY.model_copy(update={"min_users": 161}))
    assert (verdict.decision, verdict.reasons) == ("promote", ())
    sentence = "Too few to tell: 160 user(s) could be judged, and the policy asks for 161."
    assert (verdict.sentence, verdict.warnings) == (sentence, (sentence,))
    assert verdict.versus_active["ndcg@10"].high < 0


def test_just_enough_users_decide():
    verdict = judged("refit", WORSE, BETTER, policy=POLICY.model_copy(update={"min_users": 160}))
    assert (verdict.n_users, verdict.decision) == (160, "reject")


def test_popularity_by_time_may_fall_below_popularity():
    log, fleeting = popular_things(), ("popularity", {"half_life_days": 0.01})
    log = dataclasses.replace(log, occurred_at=log.occurred_at * 3_600)
    held_out = gate.hold_out(log, n_seen=0, active=row_of(*fleeting, log), policy=POLICY)
    verdict = judge(held_out, fleeting)
    assert verdict.versus_popularity["ndcg@10"].high < 0
    assert (verdict.decision, verdict.reasons) == ("promote", ())


def test_of_many_users_some_are_drawn(monkeypatch):
    monkeypatch.setattr(gate, "_USERS", (50, 50))
    first, again, other = (judged("refit", BETTER, WORSE, seed=seed) for seed in (1, 1, 2))
    assert first.n_users == 50
    assert first.active == again.active
    means = [verdict.active["ndcg@10"].mean for verdict in (first, other)]
    assert means[0] != means[1]


# The same rows, in any order and under any names


def under_other_names(log, random):
    """Return a log with its rows, users and items in another order, and other ids."""
    users, items = random.permutation(len(log.users)), random.permutation(len(log.items))
    rows = random.permutation(len(log))
    return InteractionLog(
        IdIndex([f"x{number}" for number in range(len(users))]),
        IdIndex([f"y{number}" for number in range(len(items))]),
        users[log.user_index[rows]].astype(np.int32),
        items[log.item_index[rows]].astype(np.int32),
        log.weight[rows],
        None if log.occurred_at is None else log.occurred_at[rows],
        log.listing[rows],
    )


@given(
    seed=st.integers(0, 2**32 - 1),
    kept=st.sets(st.integers(0, 15), min_size=6, max_size=16),
    times=st.sampled_from(["each its own", "days", "one", None]),
    candidate=st.sampled_from([WORSE, ("spectral", {"n_components": 3}), ("popularity", {})]),
)
@settings(max_examples=12)
def test_a_verdict_does_not_depend_on_the_order_of_rows_or_on_ids(seed, kept, times, candidate):
    log = tastes(60, 40, with_times=times is not None)
    log = log.part(np.isin(np.arange(len(log)) // 60, list(kept)))
    if times in {"days", "one"}:
        coarse = log.occurred_at // (400_000_000 if times == "days" else 10**12)
        log = dataclasses.replace(log, occurred_at=coarse)

    def verdict(log):
        held_out = gate.hold_out(log, n_seen=0, active=row_of(*BETTER, log), policy=POLICY)
        return timeless(judge(held_out, candidate, log=log))

    first = verdict(log)
    assert first.method == "refit"
    assert verdict(under_other_names(log, np.random.default_rng(seed))) == first


def test_newer_interactions_give_one_verdict_in_any_order():
    log = tastes()
    is_newer = np.arange(len(log)) >= len(log) * 3 // 4
    model = fitted(*WORSE, log.matrix(~is_newer))

    def verdict(places):
        part = log.part(places)
        row = row_of(*WORSE, part)
        n_seen = np.count_nonzero(~is_newer)
        held_out = gate.hold_out(part, n_seen=n_seen, active=row, policy=POLICY)
        return timeless(judge(held_out, BETTER, log=part, active=model))

    random = np.random.default_rng(5)
    first = verdict(np.arange(len(log)))
    assert first.method == "new_interactions"
    for _ in range(3):
        older, newer = np.flatnonzero(~is_newer), np.flatnonzero(is_newer)
        assert verdict(np.concatenate([random.permutation(older), random.permutation(newer)])) == (
            first
        )


# Segments


def test_a_verdict_has_users_and_items_by_segment():
    verdict = judged("refit", BETTER, WORSE)
    found = {(segment.by, segment.name): segment for segment in verdict.segments}
    assert {by for by, _ in found} == {"history_length", "popularity"}
    assert {name for by, name in found if by == "popularity"} <= {"head", "middle", "tail"}
    for segment in verdict.segments:
        assert 0 < segment.n_users <= verdict.n_users
        assert segment.candidate.keys() == segment.active.keys() == {"ndcg@10", "hit_rate@10"}
        difference = segment.candidate["ndcg@10"].mean - segment.active["ndcg@10"].mean
        assert segment.versus_active["ndcg@10"].difference == pytest.approx(difference)
    alone = judged("refit", BETTER, BETTER).segments
    assert alone
    assert all((segment.active, segment.versus_active) == (None, None) for segment in alone)


def test_a_segment_that_loses_too_much_is_a_reason_where_the_policy_asks():
    lenient = {"margin": 0.95, "min_coverage_share": 0.0, "min_segment_users": 30}

    def against(**changed):
        policy = POLICY.model_copy(update={**lenient, **changed})
        return judged("refit", WORSE, BETTER, policy=policy).reasons

    assert not [reason for reason in against() if "version 3" in reason]
    reasons = [reason for reason in against(max_segment_loss=0.1) if "version 3" in reason]
    assert reasons
    for reason in reasons:
        assert reason.startswith("It is worse than version 3 by more than 10.0% for ")
        assert " users): NDCG@10 0." in reason
    few = against(max_segment_loss=0.1, min_segment_users=10_000)
    assert not [reason for reason in few if "version 3" in reason]


def test_a_segment_that_is_worse_is_a_warning_where_the_whole_is_not():
    policy = POLICY.model_copy(update={"min_segment_users": 30})
    worse = judged("refit", WORSE, BETTER, policy=policy)
    assert worse.standing == "worse"
    assert worse.warnings == ()  # the reason says it of all
    better = judged("refit", BETTER, WORSE, policy=policy)
    assert better.warnings == ()


# The data beside the last version's


def with_previous(log, *, is_automatic=True, policy=POLICY, **changed):
    held_out = gate.hold_out(log, n_seen=0, active=row_of(*WORSE, log), policy=policy)
    previous = row_of(*WORSE, log, version=7, **changed)
    return judge(held_out, BETTER, previous=previous, policy=policy, is_automatic=is_automatic)


@pytest.mark.parametrize(
    ("column", "name", "now"),
    [
        ("training_samples", "Interactions", 2560),
        ("n_users", "Users", 160),
        ("n_items", "Items", 80),
    ],
)
def test_a_fall_rejects_what_nobody_watches_and_warns_who_does(column, name, now):
    log = tastes()
    sentence = f"{name} fell by 75%: {now:,} now, {4 * now:,} for version 7."
    verdict = with_previous(log, **{column: 4 * now})
    assert (verdict.decision, verdict.reasons) == ("reject", (sentence,))
    assert getattr(verdict.data, name.lower()) == Change(before=4 * now, now=now)
    assert verdict.versus_active["ndcg@10"].low > 0  # judged all the same

    verdict = with_previous(log, is_automatic=False, **{column: 4 * now})
    assert (verdict.decision, verdict.reasons) == ("promote", ())
    assert verdict.warnings == (sentence,)

    lenient = POLICY.model_copy(update={"max_fall": 0.75})
    assert with_previous(log, policy=lenient, **{column: 4 * now}).decision == "promote"
    assert with_previous(log, **{column: 2 * now}).decision == "promote"


def test_data_that_are_chosen_otherwise_may_be_fewer():
    verdict = with_previous(tastes(), training_samples=99_999, data={**DATA, "window_days": 9.0})
    assert verdict.decision == "promote"
    assert verdict.data.interactions == Change(before=99_999, now=2560)


def test_without_a_version_that_serves_a_fall_is_a_warning():
    log = tastes()
    held_out = gate.hold_out(log, n_seen=0, active=None, policy=POLICY)
    verdict = judge(held_out, BETTER, previous=row_of(*WORSE, log, n_items=1000))
    assert (verdict.decision, verdict.reasons) == ("promote", ())
    assert verdict.warnings == ("Items fell by 92%: 80 now, 1,000 for version 3.",)


def at_times(times):
    """Return the log of tastes with other times, repeated as often as needed."""
    log = tastes()
    rows = np.resize(np.arange(len(log)), len(times))
    return dataclasses.replace(
        log,
        user_index=log.user_index[rows],
        item_index=log.item_index[rows],
        weight=log.weight[rows],
        listing=log.listing[rows],
        occurred_at=np.sort(np.asarray(times, dtype=np.int64)),
    )


def rates(log, *, trained_days_ago):
    trained_at = clock.now() - int(trained_days_ago * DAY)
    verdict = with_previous(log, trained_at=trained_at)
    return verdict.data.per_day, verdict.reasons


def every(days, *, until, n_a_day):
    """Return times at equal distances, the last so many days ago."""
    n = int(days * n_a_day)
    return clock.now() - ((until + np.arange(n) / n_a_day) * DAY).astype(np.int64)


def test_interactions_that_stop_coming_are_a_reason():
    per_day, reasons = rates(at_times(every(40, until=3, n_a_day=100)), trained_days_ago=3)
    assert per_day.usual == pytest.approx(100, rel=0.02)
    assert per_day.recent == pytest.approx(0, abs=1)
    assert reasons == (
        "Interactions come more slowly by 100%: 0 a day since version 7 was trained, 100 at the "
        "same times of the weeks before.",
    )


def test_interactions_that_come_as_usual_are_none():
    per_day, reasons = rates(at_times(every(40, until=0, n_a_day=100)), trained_days_ago=3)
    assert per_day.usual == pytest.approx(100, rel=0.02)
    assert per_day.recent == pytest.approx(100, rel=0.02)
    assert reasons == ()


def test_a_quiet_weekend_is_as_usual():
    now = clock.now()
    times = every(40, until=0, n_a_day=400)
    is_busy = (now - times) // DAY % 7 >= 2  # the last two days of each week are quiet
    per_day, reasons = rates(at_times(times[is_busy]), trained_days_ago=1.5)
    assert (per_day, reasons) == (PerDay(), ())  # nothing was expected
    per_day, reasons = rates(at_times(times[is_busy]), trained_days_ago=7)
    assert per_day.recent == pytest.approx(per_day.usual, rel=0.02)
    assert reasons == ()


def test_a_long_time_without_training_looks_at_its_last_week():
    times = np.concatenate([every(40, until=7, n_a_day=100), every(7, until=0, n_a_day=20)])
    per_day, reasons = rates(at_times(times), trained_days_ago=100)
    assert per_day.recent == pytest.approx(20, rel=0.05)
    assert per_day.usual == pytest.approx(100, rel=0.02)
    assert len(reasons) == 1


@pytest.mark.parametrize(
    ("times", "trained_days_ago"),
    [
        (every(40, until=3, n_a_day=30), 3),
        (every(6, until=3, n_a_day=100), 3),
        (every(40, until=2000, n_a_day=100), 3),
        (every(40, until=3, n_a_day=100), -1),
    ],
    ids=["too few to tell", "too young", "history that was imported", "a clock that went back"],
)
def test_no_rate_is_told_where_none_is_usual(times, trained_days_ago):
    assert rates(at_times(times), trained_days_ago=trained_days_ago) == (
        PerDay(),
        (),
    )


def test_without_a_last_version_and_without_times_nothing_is_compared():
    log = tastes(with_times=False)
    held_out = gate.hold_out(log, n_seen=0, active=None, policy=POLICY)
    verdict = judge(held_out, BETTER)
    sizes = [Change(before=None, now=now) for now in (2560, 160, 80)]
    assert verdict.data == Drift(*sizes, per_day=PerDay())
    assert verdict.to_json()["data"] == {
        "interactions": {"before": None, "now": 2560},
        "users": {"before": None, "now": 160},
        "items": {"before": None, "now": 80},
        "per_day": {"usual": None, "recent": None},
    }
    previous = row_of(*WORSE, log, trained_at=0)
    assert judge(held_out, BETTER, previous=previous).data.per_day.usual is None


# Odd data, and its end


odd_rows = st.tuples(
    st.integers(0, 3),
    st.integers(0, 3),
    st.sampled_from([0.0, 1.0, 2.5, -1.0]),
    st.sampled_from([-1, 0, 0, 1]),
    st.integers(0, 4),
)


@given(
    rows=st.lists(odd_rows, max_size=12),
    n_seen=st.integers(0, 12),
    with_times=st.booleans(),
    has_active=st.booleans(),
    candidate=st.sampled_from([WORSE, ("spectral", {}), ("popularity", {})]),
    is_automatic=st.booleans(),
)
def test_odd_data_give_a_verdict(rows, n_seen, with_times, has_active, candidate, is_automatic):
    log = log_of(rows, n_users=4, n_items=4, with_times=with_times)
    policy = Policy(min_users=2, min_new_interactions=1)
    row = row_of(*BETTER, log) if has_active else None
    held_out = gate.hold_out(log, n_seen=min(n_seen, len(log)), active=row, policy=policy)
    assert len(held_out.training_log) <= len(log)
    model = fitted(*BETTER, log.matrix()) if has_active else None
    verdict = judge(
        held_out, candidate, active=model, previous=row, policy=policy, is_automatic=is_automatic
    )
    told = verdict.to_json()
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert Verdict.from_json(told) == verdict
    assert verdict.sentence
    assert (verdict.decision == "reject") == bool(verdict.reasons)


@pytest.mark.parametrize(
    ("rows", "n_users", "n_items"),
    [
        ([], 0, 0),
        ([(0, item, 1.0, 0, item) for item in range(4)], 1, 4),
        ([(user, 0, 1.0, 0, user) for user in range(4)], 4, 1),
        ([(user, user, 1.0, 0, user) for user in range(4)], 4, 4),
    ],
    ids=["nothing", "one user", "one item", "nothing to hold out"],
)
def test_where_nothing_can_be_measured_that_is_said(rows, n_users, n_items):
    log = log_of(rows, n_users=n_users, n_items=n_items)
    held_out = gate.hold_out(log, n_seen=0, active=row_of(*BETTER, log), policy=POLICY)
    verdict = judge(held_out, BETTER)
    assert (verdict.method, verdict.decision, verdict.n_users) == ("none", "promote", 0)
    assert verdict.warnings == (verdict.sentence,)
    assert verdict.sentence.startswith("Nothing could be measured. ")
    assert verdict.candidate is None


@each_method
def test_it_tells_how_far_it_is(method):
    told = []
    judged(method, BETTER, WORSE, report=told.append)
    assert told == sorted(told)
    assert (told[0], told[-1]) == (0.0, 1.0)
    assert len(told) > 6


@pytest.mark.parametrize("after", [0.0, 0.2, 0.5, 0.9])
def test_what_a_report_raises_ends_the_judging(after):
    def report(fraction):
        if fraction >= after:
            raise JobCancelledError("enough")

    with pytest.raises(JobCancelledError, match="enough"):
        judged("refit", BETTER, WORSE, report=report)
