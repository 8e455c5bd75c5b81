"""What a caller of the API says of itself."""

import pytest

from reckeeper import security
from reckeeper.errors import DataError


@pytest.mark.parametrize("name", ["alice", "a.b_c@d-9", "X" * 64])
def test_a_name_becomes_an_actor(name):
    said = security.checked_name(name)
    assert security.actor_of(security.Caller(said=said)) == f"api:{name}"


def test_nobody_is_the_api_itself():
    assert security.checked_name(None) is None
    assert security.actor_of(security.Caller()) == "api"


@pytest.mark.parametrize(
    "name", ["", " ", "alice ", "a b", "a:b", "x" * 65, "alice\n", "Zoë", "\x00", "a/b"], ids=ascii
)
def test_what_is_no_name_is_refused_and_shown(name):
    with pytest.raises(DataError) as caught:
        security.checked_name(name)
    assert caught.value.message.startswith(f"X-Reckeeper-Actor: {name[:80]!r} is no name")


@pytest.mark.parametrize("reason", [None, "", "x" * 1000, "Zoë: 🎬\nand more"], ids=ascii)
def test_a_reason_is_taken_as_it_is(reason):
    assert security.checked_reason(reason) == reason


@pytest.mark.parametrize("reason", [7, ["x"], {}, True, "x" * 1001, "a\x00b", "\ud800"], ids=ascii)
def test_what_is_no_reason_is_refused(reason):
    with pytest.raises(DataError, match=r"^reason: must be a text of up to 1000 characters"):
        security.checked_reason(reason)
