"""Recommendations, from memory."""

import contextlib
import re
import uuid

from fastapi import APIRouter, Request, Response
from pydantic_core import to_json
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from reckeeper import clock, errors, serving, telemetry, wire
from reckeeper.api import bodies, openapi
from reckeeper.api.answers import failures
from reckeeper.api.parameters import UserId, id_in
from reckeeper.api.rules import AskedRules
from reckeeper.api.runtime import Needs, Runtime
from reckeeper.interactions import checked_id
from reckeeper.serving import FinishedList, ListState, Recommendation, Recommendations, Rules

_OF_A_BODY = frozenset({b"content-length", b"transfer-encoding"})
_PATH = re.compile(r"/recommendations/([^/]+)")
_ASKED_FOR_A_LENGTH = re.compile(rb"(?:n=([1-9][0-9]{0,2}|1000))?")


router = APIRouter(tags=["recommendations"])


@router.get(
    "/recommendations/{user_id:id}",
    response_model=wire.RecommendationList,
    responses=failures(404, 409, 414, 422),
)
def get_recommendations(runtime: Needs, user_id: UserId, rules: AskedRules) -> Response:
    """Recommend items that a user has not seen; `strategy` says how the list was made.

    ``model``: from what the user did, as the model was trained on it. ``fold_in``: from that
    and what the user has done since. ``popular``: nothing is known of the user, or no version
    is active yet. What is asked for holds before the list is cut: `n` items come back whenever
    so many are left.
    """
    user_id = checked_id("user_id", user_id)
    is_kept = rules == Rules(n=rules.n)
    state = runtime.serving.state_for(user_id) if is_kept else None
    answer = runtime.serving.recommend(user_id, rules)
    body = _whole(_finished(runtime, answer, state, n=rules.n))
    return Response(body, media_type="application/json")


class AtHand:
    """Sends a list that is finished, or made in a moment, before anything is routed or waited for.

    All other requests take the usual way. So does what is to be refused.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._route = router.routes[0]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        found = None
        if scope["type"] == "http" and scope["method"] == "GET":
            with contextlib.suppress(errors.ReckeeperError):
                found = _at_hand(scope)
        if found is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = self._route
        body = _whole(found)
        headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _at_hand(scope: Scope) -> FinishedList | None:
    """Return the list that a request asks for, if it is there or made in a moment."""
    path = _PATH.fullmatch(scope["path"])
    if path is None:
        return None
    asked = _ASKED_FOR_A_LENGTH.fullmatch(scope["query_string"])
    if asked is None or not _OF_A_BODY.isdisjoint(name for name, _ in scope["headers"]):
        return None
    runtime: Runtime = scope["app"].state.runtime
    user_id, n = id_in(path[1]), int(asked[1] or 10)
    state = runtime.serving.state_for(user_id)
    if state is None:
        return None
    # The key is all that was asked for: requests that ask for more than `n` are not kept.
    found = runtime.finished.get((user_id, n), state)
    if found is not None:
        telemetry.count_list(found.strategy)
        return found
    answer = runtime.serving.recommend_at_once(checked_id("user_id", user_id), Rules(n=n))
    return None if answer is None else _finished(runtime, answer, state, n=n)


def _finished(
    runtime: Runtime, answer: Recommendations, state: ListState | None, *, n: int
) -> FinishedList:
    """Return a list as JSON without what is of one answer alone, and keep it for the next one."""
    finished = FinishedList(_written(answer), answer.strategy)
    if state is not None:
        runtime.finished.put((answer.user_id, n), state, finished)
    return finished


def _written(answer: Recommendations) -> bytes:
    """Return a `wire.RecommendationList` as JSON, up to what is of one answer alone."""
    return _json(user_id=answer.user_id, model_version=answer.model_version, **_list(answer))[:-1]


def _json(**told: object) -> bytes:
    """Return an answer as JSON, as its shape in `wire` has it.

    What was made here is not checked once more: that takes ten times as long as to write it.
    """
    return to_json({"status": "ok", **told})


def _list(answer: Recommendations) -> dict[str, object]:
    """Return what all lists have: `wire.UserList`, but for the user."""
    return {"strategy": answer.strategy, "items": [_item(each) for each in answer.items]}


def _item(each: Recommendation) -> dict[str, object]:
    """Return `wire.RecommendedItem`; reasons are there where they were asked for."""
    item: dict[str, object] = {
        "rank": each.rank,
        "item_id": each.item_id,
        "score": each.score,
        "title": each.title,
        "attributes": each.attributes,
    }
    return item if each.reasons is None else item | {"reasons": each.reasons, "rest": each.rest}


def _own() -> dict[str, str]:
    """Return what is of one answer alone: its name and its time."""
    return {"request_id": str(uuid.uuid4()), "generated_at": clock.rfc3339(clock.now())}


def _whole(finished: FinishedList) -> bytes:
    """Return the answer with a list, under a name and a time of its own."""
    return b"%b,%b" % (finished.body, to_json(_own())[1:])


@router.post(
    "/recommendations",
    response_model=wire.HistoryRecommendations,
    responses=failures(404, 409, 413, 422),
    openapi_extra=openapi.body(openapi.reference("HistoryRequest")),
)
async def recommend_from_history(runtime: Needs, request: Request) -> Response:
    """Recommend items to somebody who did what the request tells; nothing is stored.

    Where the model knows the order of things, what came last says most. ``fold_in``: from the
    history. ``popular``: the model knows nothing of these items, or no version is active yet.
    """
    body = await bodies.whole(request)

    def answer() -> bytes:
        told, rules = serving.parse_history(body, types=runtime.policy.weights())
        found = runtime.serving.recommend_from(told, rules)
        return _json(
            model_version=found.model_version,
            **_list(found),
            **_own(),
        )

    return Response(await run_in_threadpool(answer), media_type="application/json")


@router.post(
    "/recommendations/batch",
    response_model=wire.BatchRecommendations,
    responses=failures(404, 409, 413, 422),
    openapi_extra=openapi.body(openapi.reference("BatchRequest")),
)
async def recommend_to_users(runtime: Needs, request: Request) -> Response:
    """Recommend items to up to 1,000 users, to each as if asked alone, by one version.

    The lists come in the order of the users. One bad id, or one that comes twice, refuses the
    whole request and is named with its index.
    """
    body = await bodies.whole(request)

    def answer() -> bytes:
        user_ids, rules = serving.parse_users(body)
        found = runtime.serving.recommend_to_each(user_ids, rules)
        return _json(
            model_version=found[0].model_version,
            lists=[{"user_id": each.user_id, **_list(each)} for each in found],
            **_own(),
        )

    return Response(await run_in_threadpool(answer), media_type="application/json")
