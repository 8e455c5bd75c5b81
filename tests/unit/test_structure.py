"""What the library's structure promises, counted."""

from benchmarks import structure


def test_no_count_is_above_what_is_allowed():
    counted = structure.counts()
    assert len(counted) == 6
    assert not [(what, found) for what, most, found in counted if sum(found.values()) > most]
