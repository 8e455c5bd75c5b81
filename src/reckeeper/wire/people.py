"""What is done with all that is known of a user."""

from pydantic import ConfigDict, Field

from .events import Id
from .forms import Done, Request


class MergeRequest(Request):
    """Whose history an account is given."""

    model_config = ConfigDict(strict=True, populate_by_name=True)

    from_: Id = Field(
        alias="from",
        description="The id that the visitor had before the login.",
        examples=["visitor-8f3a"],
    )


class Merge(Done):
    """How many interactions an account was given; 0 where that was done before."""

    user_id: str
    interactions: int
