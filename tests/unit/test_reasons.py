"""What a score is made of."""

import numpy as np
import pytest
from scipy import sparse

from reckeeper import storage
from reckeeper.catalogue import Catalogue
from reckeeper.matrix import Histories, IdIndex, InteractionMatrix
from reckeeper.recipes import recipe_named
from reckeeper.serving.reasons import MOST_REASONS, reasons_of
from reckeeper.storage import Item

IDS = [f"i{number:02}" for number in range(30)]


def fitted(recipe, settings):
    random = np.random.default_rng(0)
    dense = random.poisson(0.8, (60, 30)) * random.choice([0.5, 1.0, 2.0], (60, 30))
    weights = sparse.csr_array(dense)
    users = IdIndex([f"u{number}" for number in range(60)])
    times = 1_700_000_000_000_000 + np.arange(weights.nnz) * 86_400_000_000
    given = InteractionMatrix(users, IdIndex(IDS), weights, weights.nnz, times)
    return recipe_named(recipe).fit(given, settings=settings), given


@pytest.mark.parametrize(
    ("recipe", "given_settings"),
    [
        ("svd", {}),
        ("svd", {"weighting": "log"}),
        ("spectral", {"order": 0.0}),
        ("spectral", {"order": 0.5, "recency": 2.0, "weighting": "raw"}),
    ],
    ids=str,
)
def test_reasons_are_the_largest_contributions_and_add_up(recipe, given_settings, database):
    with database.write() as connection:
        storage.items.put(connection, [Item("i03", "Three", {}), Item("i04", "Four", {})])
    catalogue = Catalogue(database, every_seconds=60)
    catalogue.refresh()
    model, given = fitted(recipe, given_settings)
    weights = sparse.csr_array(np.where(np.arange(30) < 16, 1.0, 0.0)[None, :])
    for history in (
        given.histories[5:6],
        Histories.of_times(weights, np.arange(16)),
        Histories(sparse.csr_array((1, 30))),
    ):
        scores = model.score(history)[0].astype(np.float64)
        items = np.array([29, 20, 17])
        made = reasons_of(model, history, items, scores[items], item_ids=IDS, catalogue=catalogue)
        assert len(made) == 3
        for item, of_item in zip(items, made, strict=True):
            shares = [reason.contribution for reason in of_item.reasons]
            assert shares == sorted(shares, reverse=True)
            assert sum(shares) + of_item.rest == pytest.approx(scores[item], abs=1e-12)
            whole = model.contributions(history, np.array([item]))[:, 0]
            by_size = sorted(whole[whole != 0].tolist(), key=abs, reverse=True)
            assert shares == pytest.approx(sorted(by_size[:MOST_REASONS], reverse=True))
            assert of_item.rest == pytest.approx(sum(by_size[MOST_REASONS:]), abs=1e-6)
            titles = {reason.item_id: reason.title for reason in of_item.reasons}
            expected = {"i03": "Three", "i04": "Four"}
            assert titles == {each: expected.get(each) for each in titles}


def test_who_gets_what_everybody_gets_has_no_reasons(database):
    model, given = fitted("popularity", {})
    items = np.array([4, 2])
    made = reasons_of(
        model,
        given.histories[:1],
        items,
        model.item_scores[items],
        item_ids=IDS,
        catalogue=Catalogue(database, every_seconds=60),
    )
    assert [(each.reasons, each.rest) for each in made] == [
        ([], score) for score in model.item_scores[items].tolist()
    ]
