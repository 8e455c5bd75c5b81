"""The processes of a server are as well off as the worst of them."""

from reckeeper.api.siblings import Siblings
from reckeeper.serving import Readiness

OK = Readiness("ok", [], 3, None)
DEGRADED = Readiness("degraded", ["The catalogue cannot be read."], 2, 1)
GONE = Readiness("unavailable", ["The database cannot be reached."], None, None)


def test_the_worst_counts_until_it_recovers_or_ends(tmp_path):
    one, two, three = (Siblings(tmp_path, number) for number in range(3))
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
    one, two = Siblings(tmp_path, 0), Siblings(tmp_path, 1)
    one.tell(GONE)
    two.tell(OK)
    assert one.worst(OK) == OK
    assert two.worst(OK) == GONE
    other = Readiness("unavailable", ["No version can be loaded."], None, None)
    assert two.worst(other) == other
