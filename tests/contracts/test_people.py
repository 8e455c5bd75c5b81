"""A visitor who becomes an account, on each database."""

import json

import pytest

from reckeeper import audit, clock, people, storage
from reckeeper.errors import ConflictError, DataError

ADD, REMOVE = "watchlist_add", "watchlist_remove"


def of(database, user_id):
    with database.read() as connection:
        rows = storage.interactions.of_user(connection, user_id).to_pylist()
        listed = storage.interactions.watchlist_of(connection, user_id)
    return [(row["item_id"], row["interaction_type"]) for row in rows], [item for item, _ in listed]


def everything(database):
    with database.read() as connection:
        batches = list(storage.interactions.read_batches(connection))
    return [tuple(row.values()) for batch in batches for row in batch.to_pylist()]


def merge(database, user_id, visitor_id):
    return people.merge(database, user_id, visitor_id, actor="test")


def test_a_visitors_history_becomes_the_accounts(database, add):
    add(("v", "a"), ("u", "a"), ("v", "b"), ("w", "c"))
    assert merge(database, "u", "v") == 2
    assert [row[0] for row in of(database, "u")[0]] == ["a", "a", "b"]
    assert of(database, "v") == ([], [])
    assert [row[0] for row in of(database, "w")[0]] == ["c"]


def test_a_merge_that_is_asked_again_changes_nothing(database, add):
    add(("v", "a"), ("u", "b"))
    merge(database, "u", "v")
    before = everything(database), audit.entries(database, limit=9)
    assert merge(database, "u", "v") == 0
    assert (everything(database), audit.entries(database, limit=9)) == before


def test_of_both_watchlists_the_latest_change_of_an_item_counts(database, add):
    add(("u", "a", REMOVE, 1.0, 30), ("v", "a", ADD, 1.0, 20), ("v", "b", ADD, 1.0, 40))
    add(("u", "b", REMOVE, 1.0, 10), ("u", "c", ADD, 1.0, 50), ("v", "c", REMOVE, 1.0, 60))
    add(("v", "d", ADD, 1.0, 70), ("u", "e", ADD, 1.0, 5))
    assert of(database, "u")[1] == ["c", "e"]
    merge(database, "u", "v")
    assert of(database, "u")[1] == ["d", "b", "e"]
    assert of(database, "v")[1] == []


@pytest.mark.parametrize("n_rows", [1, 60, 600])  # few and many are taken in other ways
def test_what_comes_late_under_the_visitors_id_is_the_accounts(database, add, n_rows):
    merge(database, "u", "v")
    assert add(*[("v", f"i{n}", ADD, 1.0, n) for n in range(n_rows)], ("w", "a")) == n_rows + 1
    assert of(database, "u")[0] == [(f"i{n}", ADD) for n in range(n_rows)]
    assert len(of(database, "u")[1]) == n_rows
    assert of(database, "v") == ([], [])
    assert of(database, "w")[0] == [("a", "click")]


def test_an_event_that_is_sent_again_after_the_merge_is_a_duplicate(database, add):
    add(("v", "a", "click", 1.0, 1, "once"))
    merge(database, "u", "v")
    assert add(("v", "a", "click", 1.0, 1, "once")) == 0
    assert len(everything(database)) == 1


def test_an_import_is_taken_out_of_the_account_too(database, add):
    with database.write() as connection:
        import_id = storage.imports.begin(connection, source="f", fingerprint="f")
    add(("v", "a", ADD), import_id=import_id)
    add(("v", "b"))
    merge(database, "u", "v")
    with database.write() as connection:
        assert storage.interactions.delete_imported(connection, import_id, limit=9) == 1
    assert of(database, "u") == ([("b", "click")], [])


def test_a_visitor_who_became_another_visitor_goes_along(database, add):
    add(("v1", "a"), ("v2", "b"))
    merge(database, "v2", "v1")
    merge(database, "u", "v2")
    add(("v1", "c"))
    assert [row[0] for row in of(database, "u")[0]] == ["a", "b", "c"]
    assert merge(database, "u", "v1") == 0


def test_what_cannot_be_merged_is_refused_and_changes_nothing(database, add):
    add(("v", "a"), ("u", "b"))
    with pytest.raises(DataError, match="is the account itself"):
        merge(database, "u", "u")
    merge(database, "u", "v")
    before = everything(database)
    with pytest.raises(ConflictError, match="'v' belongs to 'u'"):
        merge(database, "other", "v")
    with pytest.raises(ConflictError, match="'v' was merged into 'u'"):
        merge(database, "v", "u")
    assert everything(database) == before


def test_the_trail_has_the_merge_and_no_id(database, add, settings):
    add(("visitor of yesterday", "a"), ("visitor of yesterday", "b"))
    merge(database, "anna@example.org", "visitor of yesterday")
    (entry, *_) = audit.entries(database, limit=1)
    assert (entry.actor, entry.action, entry.details["interactions"]) == ("test", "merge", 2)
    told = json.dumps([entry.subject, entry.details])
    assert "anna" not in told
    assert "visitor of" not in told
    with database.read() as connection:
        assert entry.subject == f"user {audit.pseudonym(connection, 'anna@example.org')}"
    assert audit.verify(database, settings).ok


def test_merges_are_listed_from_a_moment_on(database):
    began = clock.now()
    people.merge(database, "account", "first", actor="test")
    people.merge(database, "account", "second", actor="test")
    with database.read() as connection:
        found = storage.merges.since(connection, began)
        assert [row[:2] for row in found] == [("first", "account"), ("second", "account")]
        assert storage.merges.since(connection, found[-1][2]) == found[1:]
        assert storage.merges.since(connection, clock.now() + 1) == []
        accounts = {account for _, account, _ in found}
        asked = [*accounts, "nobody"]
        assert storage.merges.accounts_since(connection, asked, began) == accounts
        assert storage.merges.accounts_since(connection, ["nobody"], began) == set()
        assert storage.merges.accounts_since(connection, asked, clock.now() + 1) == set()
