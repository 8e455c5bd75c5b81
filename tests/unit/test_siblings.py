"""The processes of a server are as well off as the worst of them, and know who changed what."""

from reckeeper.api.siblings import Siblings
from reckeeper.serving import Readiness

OK = Readiness("ok", [], 3, None)
DEGRADED = Readiness("degraded", ["The catalogue cannot be read."], 2, 1)
GONE = Readiness("unavailable", ["The database cannot be reached."], None, None)


def test_the_worst_counts_until_it_recovers_or_ends(tmp_path):
    one, two, three = Siblings.family(tmp_path, 3)
    assert not one.is_up
    assert one.worst(OK) == OK

    for siblings in (one, two, three):
        siblings.tell(OK)
        assert siblings.is_up
    assert one.worst(OK) == OK
    two.tell(DEGRADED)
    assert one.worst(OK) == DEGRADED
    three.tell(GONE)
    assert [one.worst(OK), two.worst(DEGRADED), three.worst(GONE)] == [GONE] * 3
    three.forget()
    assert not three.is_up
    assert one.worst(OK) == DEGRADED
    assert two.worst(OK) == OK
    two.tell(OK)
    assert one.worst(OK) == OK


def test_a_process_is_not_held_to_what_it_told_before(tmp_path):
    one, two = Siblings.family(tmp_path, 2)
    one.tell(GONE)
    two.tell(OK)
    assert one.worst(OK) == OK
    assert two.worst(OK) == GONE
    other = Readiness("unavailable", ["No version can be loaded."], None, None)
    assert two.worst(other) == other


def test_what_one_changed_is_news_to_all_until_they_take_it_in(tmp_path):
    one, two = Siblings.family(tmp_path, 2)

    def take_in(siblings):
        with siblings.taking_in():
            pass

    for _ in range(2):
        take_in(one)
        take_in(two)
        assert not one.has_news
        assert not two.has_news
        one.note_change()
        assert two.has_news
    with two.taking_in():
        one.note_change()  # which the block may have missed
    assert two.has_news
    take_in(two)
    again = Siblings(tmp_path, 0)  # in place of one that died
    again.note_change()
    assert two.has_news
