"""What is done with all that is known of a user."""

from fastapi import APIRouter

from reckeeper import people, wire
from reckeeper.api.answers import failures
from reckeeper.api.parameters import ActorName, UserId
from reckeeper.api.runtime import Needs
from reckeeper.interactions import checked_id
from reckeeper.security import actor_of

router = APIRouter(tags=["people"])


@router.post("/users/{user_id:id}/merge", responses=failures(409, 413, 422))
def merge_users(
    runtime: Needs, actor_name: ActorName, user_id: UserId, asked: wire.MergeRequest
) -> wire.Merge:
    """Give a visitor's interactions and watchlist to an account, as after a login.

    Whatever comes under the visitor's id from then on is the account's too: give visitors a new
    id after a logout. Asked again it changes nothing. It cannot be taken back.
    """
    user_id = checked_id("user_id", user_id)
    n_moved = people.merge(
        runtime.database,
        user_id,
        checked_id("from", asked.from_),
        actor=actor_of(actor_name),
    )
    runtime.newer.follow_up()
    return wire.Merge(user_id=user_id, interactions=n_moved)
