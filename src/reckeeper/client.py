"""The HTTP client of the server, for the page, the command line and users.

::

    from reckeeper.client import Client

    with Client("http://localhost:8000") as client:
        client.send([{"user_id": "u1", "item_id": "i7", "interaction_type": "click"}])
        print(client.retrain()["message"])
        print(client.recommendations("u1", n=5)["items"])
"""

import re
import uuid
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Literal, NotRequired, Self, TypedDict, cast
from urllib.parse import quote

import httpx
import tenacity

from reckeeper import errors

__all__ = [
    "Client",
    "Demo",
    "Difference",
    "Evaluation",
    "Interaction",
    "Job",
    "JobPage",
    "MeasuredRecipe",
    "Metric",
    "Model",
    "Readiness",
    "Recipe",
    "RecipeSetting",
    "RecommendationList",
    "RecommendedItem",
    "Refused",
    "RetrainAnswer",
    "RetrainDetails",
    "RetrainRequest",
    "SendAnswer",
    "StoredInteraction",
    "TuningProgress",
    "WatchlistItem",
]


class Model(TypedDict):
    """A version, as ``GET /models`` lists it."""

    name: str
    path: str
    type: str
    status: Literal["active", "inactive"]
    n_users: int
    n_items: int
    explained_variance: str
    trained_on: str
    version: int
    recipe: str
    settings: dict[str, Any]
    training_samples: int
    seconds: float
    trigger: str
    job_id: int | None
    is_demo: bool


class RecipeSetting(TypedDict):
    """A setting of a recipe."""

    name: str
    default: Any
    help: str


class Recipe(TypedDict):
    """A recipe that a version can be trained with."""

    name: str
    summary: str
    decomposes: bool
    settings: list[RecipeSetting]


class RetrainRequest(TypedDict, total=False):
    """What a retrain was asked to do otherwise than the active version was trained."""

    recipe: str
    settings: dict[str, Any]
    tune: bool
    tune_seconds: float


class RetrainDetails(TypedDict):
    """What a retrain made."""

    training_samples: int
    n_users: int
    n_items: int
    explained_variance: float


class RetrainAnswer(TypedDict):
    """The answer to a ``POST /retrain`` that waited."""

    status: str
    message: str
    details: RetrainDetails
    version: int
    job_id: int


class JobError(TypedDict):
    """Why a job did not succeed."""

    code: str
    message: str


class TuningProgress(TypedDict):
    """What tuning has found so far; `ndcg` and `settings` are the best's, None before the first."""

    n_tried: int
    ndcg: float | None
    settings: dict[str, Any] | None
    seconds_left: float | None


class Metric(TypedDict):
    """A metric; one that is a mean over users has the bounds of its confidence interval."""

    mean: float
    low: NotRequired[float]
    high: NotRequired[float]


class Difference(TypedDict):
    """The difference of two means over the same users, and its confidence interval."""

    difference: float
    low: float
    high: float


class MeasuredRecipe(TypedDict):
    """How well a recipe did on what was held out.

    `metrics` has ``recall@20``, ``ndcg@20``, ``hit_rate@20`` and ``map@20``,
    and, of all lists together, ``coverage@20`` and ``novelty@20``.
    `versus_popularity` has the first four as differences to the recipe
    ``popularity`` on the same users.
    """

    recipe: str
    settings: dict[str, Any]
    tuned: bool
    fit_seconds: float
    tune_seconds: float
    metrics: dict[str, Metric]
    versus_popularity: dict[str, Difference]


class Evaluation(TypedDict):
    """Recipes measured on one split of the stored interactions, a row as soon as it is there."""

    split: str
    k: int
    n_users: int
    recipes: list[MeasuredRecipe]


class Job(TypedDict):
    """A job; times are RFC 3339, `fraction` lies in [0, 1].

    One of the kind ``retrain`` makes a version; one of the kind ``evaluate``
    has a `result`, which a list of jobs leaves out.
    """

    job_id: int
    kind: Literal["retrain", "evaluate"]
    request: RetrainRequest
    status: Literal["running", "succeeded", "failed", "interrupted"]
    trigger: str
    stage: str
    fraction: float
    seconds_elapsed: float
    seconds_left: float | None
    progress: TuningProgress | None
    finish_requested: bool
    started_at: str
    finished_at: str | None
    version: int | None
    peak_memory_bytes: int | None
    error: JobError | None
    result: NotRequired[Evaluation | None]


class JobPage(TypedDict):
    """Jobs, the latest first, and when the schedule starts the next one."""

    status: str
    jobs: list[Job]
    schedule: str | None
    next_scheduled_at: str | None


class Interaction(TypedDict):
    """An interaction to send; ids may be integers."""

    event_id: NotRequired[str | int]
    user_id: str | int
    item_id: str | int
    interaction_type: str
    weight: NotRequired[float]
    occurred_at: NotRequired[str]


class Refused(TypedDict):
    """A row that was not stored."""

    index: int
    field: str
    message: str


class SendAnswer(TypedDict):
    """What became of interactions that were sent."""

    status: str
    accepted: int
    duplicates: int
    refused: NotRequired[list[Refused]]


class StoredInteraction(TypedDict):
    """An interaction of a user, with the item's title."""

    event_id: str
    item_id: str
    title: str | None
    interaction_type: str
    weight: float
    occurred_at: str


class WatchlistItem(TypedDict):
    """An item on a watchlist."""

    item_id: str
    title: str | None
    attributes: dict[str, Any]
    added_at: str


class RecommendedItem(TypedDict):
    """An item of a recommendation list."""

    rank: int
    item_id: str
    score: float
    title: str | None
    attributes: dict[str, Any]


class RecommendationList(TypedDict):
    """Recommendations for a user; `strategy` says how they were made."""

    status: str
    user_id: str
    model_version: int
    strategy: Literal["model", "fold_in", "popular"]
    items: list[RecommendedItem]
    request_id: str
    generated_at: str


class Demo(TypedDict):
    """The demo data, if it is loaded."""

    status: str
    loaded: bool
    interactions: int
    sample_users: list[str]


class Readiness(TypedDict):
    """Whether a process can do its work, and what stands in the way.

    `offer_version` is a sound version to activate when the active one is not.
    """

    status: Literal["ok", "degraded", "unavailable"]
    problems: list[str]
    model_version: int | None
    offer_version: int | None


class Client:
    """A connection to a Reckeeper server; safe to share between threads.

    Calls that are safe to repeat are tried again, with growing pauses, while
    the server does not answer. Every error is a `reckeeper.errors.ReckeeperError`:
    what the server answered, as the class of its code, or `UnavailableError`
    when it did not answer.

    Parameters
    ----------
    url : str
        Of the server. The worker answers `models` and `retrain` too.
    timeout_seconds : float
        For one try; a retrain that waits has no limit.
    retry_seconds : float
        How long to go on trying.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        timeout_seconds: float = 30.0,
        retry_seconds: float = 5.0,
    ) -> None:
        self.url = url.rstrip("/")
        # A proxy of the environment leads out of this machine, never back to it.
        is_here = httpx.URL(self.url).host in {"127.0.0.1", "::1", "localhost"}
        self._http = httpx.Client(base_url=self.url, timeout=timeout_seconds, trust_env=not is_here)
        self._retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(errors.UnavailableError),
            wait=tenacity.wait_exponential_jitter(multiplier=0.1, max=2.0, jitter=0.1),
            stop=tenacity.stop_after_delay(retry_seconds),
            reraise=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def models(self) -> list[Model]:
        """List the versions, the newest first."""
        return cast(list[Model], self._get("/models")["models"])

    def model(self, version: int) -> Model:
        """Describe one version."""
        return cast(Model, self._get(f"/models/{version}")["model"])

    def activate(self, version: int, *, reason: str | None = None) -> Model:
        """Let a version serve."""
        body = {} if reason is None else {"reason": reason}
        answer = self._call("POST", f"/models/{version}/activate", json=body, repeat=True)
        return cast(Model, answer["model"])

    def recipes(self) -> list[Recipe]:
        """List the recipes, and the settings that each has."""
        return cast(list[Recipe], self._get("/recipes")["recipes"])

    def retrain(
        self,
        *,
        recipe: str | None = None,
        settings: Mapping[str, Any] | None = None,
        tune: bool = False,
        tune_seconds: float | None = None,
    ) -> RetrainAnswer:
        """Train a new version, wait until it serves, and say what was made.

        Parameters
        ----------
        recipe : str, optional
            Default: that of the active version; ``spectral`` where tuning is asked for.
        settings : mapping, optional
            Of the recipe; those left out have its defaults. Default: those of the active
            version, where it has the same recipe, else the defaults.
        tune : bool
            Find the settings on a part of the data that is held out.
        tune_seconds : float, optional
            How long to look for them, above 0 and at most 86,400; only with `tune`. Default:
            just under five times what one fit takes.
        """
        request = _retrain_request(recipe, settings, tune=tune, tune_seconds=tune_seconds)
        return cast(RetrainAnswer, self._call("POST", "/retrain", json=request, waits=True))

    def start_retrain(
        self,
        *,
        recipe: str | None = None,
        settings: Mapping[str, Any] | None = None,
        tune: bool = False,
        tune_seconds: float | None = None,
    ) -> Job:
        """Start training a new version and return its job at once; see `retrain`."""
        request = _retrain_request(recipe, settings, tune=tune, tune_seconds=tune_seconds)
        answer = self._call("POST", "/retrain", params={"wait": "false"}, json=request)
        return cast(Job, answer["job"])

    def start_evaluation(self) -> Job:
        """Start measuring which recipe suits the stored interactions; return the job at once.

        Its `result` grows while it runs: `job` shows it.
        """
        return cast(Job, self._call("POST", "/evaluations", params={"wait": "false"})["job"])

    def finish_job(self, job_id: int) -> Job:
        """Let the tuning of a job end now, with the best that it has; the job goes on."""
        return cast(Job, self._call("POST", f"/jobs/{job_id}/finish", repeat=True)["job"])

    def jobs(self, *, limit: int = 20, before: int | None = None) -> JobPage:
        """List jobs, the latest first, with numbers below `before`."""
        params = {"limit": limit} if before is None else {"limit": limit, "before": before}
        return cast(JobPage, self._get("/jobs", params=params))

    def job(self, job_id: int) -> Job:
        """Describe one job."""
        return cast(Job, self._get(f"/jobs/{job_id}")["job"])

    def send(
        self, interactions: Iterable[Interaction], *, on_error: Literal["refuse", "skip"] = "refuse"
    ) -> SendAnswer:
        """Store up to 10,000 interactions.

        One without an ``event_id`` gets one here, so that a repeated try
        stores nothing twice.

        Parameters
        ----------
        interactions : iterable of Interaction
        on_error : str
            ``refuse``: a bad row raises `DataError` and nothing is stored.
            ``skip``: good rows are stored, the answer lists the others.
        """
        rows = [dict(interaction) for interaction in interactions]
        for row in rows:
            if row.get("event_id") is None:
                row["event_id"] = str(uuid.uuid4())
        answer = self._call(
            "POST", "/user_interactions", params={"on_error": on_error}, json=rows, repeat=True
        )
        return cast(SendAnswer, answer)

    def interactions(self, user_id: str, *, n: int = 20) -> list[StoredInteraction]:
        """List a user's latest interactions."""
        answer = self._get(f"/user_interactions/{_segment(user_id)}", params={"n": n})
        return cast(list[StoredInteraction], answer["interactions"])

    def watchlist(self, user_id: str) -> list[WatchlistItem]:
        """List a user's watchlist, the latest addition first."""
        return cast(list[WatchlistItem], self._get(f"/watchlist/{_segment(user_id)}")["items"])

    def add_to_watchlist(self, user_id: str, item_id: str) -> SendAnswer:
        """Put an item on a user's watchlist; nothing changes if it is there."""
        path = f"/watchlist/{_segment(user_id)}/{_segment(item_id)}"
        return cast(SendAnswer, self._call("POST", path, repeat=True))

    def remove_from_watchlist(self, user_id: str, item_id: str) -> SendAnswer:
        """Take an item off a user's watchlist; nothing changes if it is not there."""
        path = f"/watchlist/{_segment(user_id)}/{_segment(item_id)}"
        return cast(SendAnswer, self._call("DELETE", path, repeat=True))

    def recommendations(self, user_id: str, *, n: int = 10) -> RecommendationList:
        """Recommend up to `n` items that the user has not seen."""
        answer = self._get(f"/recommendations/{_segment(user_id)}", params={"n": n})
        return cast(RecommendationList, answer)

    def demo(self) -> Demo:
        """Say whether the demo data is loaded."""
        return cast(Demo, self._get("/demo"))

    def clear_demo(self) -> dict[str, Any]:
        """Remove the demo data, and the versions that were trained on it."""
        return self._call("DELETE", "/demo", repeat=True, waits=True)

    def ready(self) -> Readiness:
        """Say whether the server can do its work; one that answers so never raises."""
        try:
            return cast(Readiness, self._get("/health/ready"))
        except errors.UnavailableError as exc:
            if exc.details is None or "problems" not in exc.details:
                raise
            return cast(Readiness, exc.details)

    def is_live(self) -> bool:
        """Say whether the server runs, at the first try."""
        try:
            self._call("GET", "/health/live")
        except errors.UnavailableError:
            return False
        return True

    def metrics(self) -> str:
        """Return the server's metrics in Prometheus' text format."""
        return self._retrying(lambda: self._request("GET", "/metrics")).text

    def _get(self, path: str, *, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return self._call("GET", path, params=params, repeat=True)

    def _call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        repeat: bool = False,
        waits: bool = False,
    ) -> dict[str, Any]:
        timeout = None if waits else httpx.USE_CLIENT_DEFAULT

        def once() -> dict[str, Any]:
            return _decoded(self._request(method, path, params=params, json=json, timeout=timeout))

        return self._retrying(once) if repeat else once()

    def _request(self, method: str, path: str, **more: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **more)
        except httpx.HTTPError as exc:
            reason = re.sub(r"\[Errno -?\d+\] ", "", str(exc)) or type(exc).__name__
            raise errors.UnavailableError(
                f"{self.url} does not answer ({reason}). See that it runs there (`reckeeper up` "
                "starts all), then try again."
            ) from exc


def _retrain_request(
    recipe: str | None,
    settings: Mapping[str, Any] | None,
    *,
    tune: bool,
    tune_seconds: float | None,
) -> RetrainRequest | None:
    """Return the body that says what was given; None, and so no body, if nothing was."""
    request: RetrainRequest = {}
    if recipe is not None:
        request["recipe"] = recipe
    if settings is not None:
        request["settings"] = dict(settings)
    if tune:
        request["tune"] = True
    if tune_seconds is not None:
        request["tune_seconds"] = tune_seconds
    return request or None


def _segment(external_id: str) -> str:
    # As they stand, "." and ".." would be taken out of the path on its way.
    return quote(str(external_id), safe="").replace(".", "%2E")


def _decoded(response: httpx.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError:
        body = None
    if isinstance(body, dict) and response.is_success:
        return body
    if not isinstance(body, dict) or "code" not in body:
        if isinstance(body, dict) and "problems" in body:
            raise errors.UnavailableError(" ".join(body["problems"]), details=body)
        raise errors.UnavailableError(
            f"{response.url} answered {response.status_code} and not as Reckeeper does. "
            "See that the address is that of a Reckeeper server."
        )
    raise errors.error_of(str(body["code"]), str(body.get("message")), details=body.get("details"))
