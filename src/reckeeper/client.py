"""The HTTP client of the server, for the page, the command line and users.

::

    from reckeeper.client import Client

    with Client("http://localhost:8000") as client:
        client.send([{"user_id": "u1", "item_id": "i7", "interaction_type": "click"}])
        print(client.retrain()["message"])
        print(client.recommendations("u1", n=5)["items"])
"""

import contextlib
import copy
import json
import os
import random
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NotRequired, Self, TypedDict, TypeVar, cast
from urllib.parse import quote

import httpx

# Relative, since `reckeeper-client` installs these files under a name of its own.
from . import errors

__all__ = [
    "ACTOR_HEADER",
    "AuditCheck",
    "AuditEntry",
    "Cause",
    "ChangedUser",
    "Client",
    "ComparedModel",
    "Comparison",
    "DailyRate",
    "DataChange",
    "DataChanges",
    "Deletion",
    "Demo",
    "Difference",
    "Evaluation",
    "Exposure",
    "ExposureChange",
    "Interaction",
    "Job",
    "JobError",
    "JobPage",
    "KnownUsers",
    "MeasuredRecipe",
    "Metric",
    "Model",
    "ModelDetails",
    "ModelFile",
    "Origin",
    "Pair",
    "Policy",
    "PolicyRevision",
    "Promotion",
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
    "SettingDifference",
    "StoredInteraction",
    "TimelineEntry",
    "TrainingData",
    "TuningProgress",
    "Verdict",
    "VerdictSummary",
    "WatchlistItem",
]


ACTOR_HEADER = "X-Reckeeper-Actor"

_Answer = TypeVar("_Answer")

_CHUNK_BYTES = 1024 * 1024
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.1, 2.0
_ZIP = {"Content-Type": "application/zip"}


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


class VerdictSummary(TypedDict):
    """What the gate thinks of a version, in short; `outcome` says what was done with it."""

    decision: Literal["promote", "reject", "unchanged"]
    sentence: str
    outcome: NotRequired[str]


class DataChange(TypedDict):
    """A size of the data at the version before, None where there was none, and now."""

    before: int | None
    now: int


class DailyRate(TypedDict):
    """Interactions a day: as usual, and of late; None where too little is known."""

    usual: float | None
    recent: float | None


class DataChanges(TypedDict):
    """How the data has changed since the version before."""

    interactions: DataChange
    users: DataChange
    items: DataChange
    per_day: DailyRate


class Verdict(VerdictSummary):
    """What the gate thinks of a version, and what it measured.

    `reasons` speak against the version, `warnings` do not decide. `candidate`,
    `active` and `popularity` have the metrics of each by name, ``ndcg@10`` for
    one; `versus_active` and `versus_popularity` are the candidate's less theirs.
    With the `method` ``none`` nothing could be measured, and they are None.
    """

    method: Literal["new_interactions", "refit", "none"]
    reasons: list[str]
    warnings: list[str]
    metric: str
    margin: float
    k: int
    n_users: int
    active_version: int | None
    candidate: dict[str, Metric] | None
    active: dict[str, Metric] | None
    popularity: dict[str, Metric] | None
    versus_active: dict[str, Difference] | None
    versus_popularity: dict[str, Difference] | None
    data: DataChanges
    seconds: float


class Cause(TypedDict):
    """The rule that started a job, with its numbers, and the same as a sentence."""

    rule: Literal["schedule", "every_interactions", "max_age"]
    sentence: str
    expression: NotRequired[str]
    due_at: NotRequired[str]
    n: NotRequired[int]
    age_hours: NotRequired[float]
    threshold: NotRequired[float]


class TrainingData(TypedDict, total=False):
    """How the interactions that a version was trained on were weighed and chosen."""

    weights: dict[str, float]
    half_life_days: float | None
    window_days: float | None
    left_out_users: list[str]
    max_interactions_per_user: int | None


class TimelineEntry(TypedDict):
    """What served from `at` until `until`, None while it does; no `version`: nothing did."""

    entry_id: int
    at: str
    until: str | None
    version: int | None
    action: str
    actor: str
    reason: str | None
    job_id: int | None


class Origin(TypedDict):
    """Where an imported version comes from."""

    version: int
    sha256: str
    trained_at: str
    timeline: list[dict[str, Any]]
    imported_at: str


class ModelFile(TypedDict):
    """A file of a version."""

    name: str
    bytes: int
    sha256: str


class _ListedModel(TypedDict):
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
    note: str | None
    pinned: bool
    pinned_until: str | None
    metrics: dict[str, Metric] | None
    served: bool


class Model(_ListedModel):
    """A version, as ``GET /models`` lists it; `served`: it has served at some time."""

    verdict: VerdictSummary | None


class ModelDetails(_ListedModel):
    """A version with all that is known of it; what an older release did not note is empty."""

    verdict: Verdict | None
    fingerprint: str
    watermark: int
    latest_at: str | None
    data: TrainingData
    actor: str | None
    cause: Cause | None
    peak_memory_bytes: int
    libraries: dict[str, str]
    origin: Origin | None
    files: list[ModelFile]
    timeline: list[TimelineEntry]


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
    promoted: bool | None
    verdict: Verdict | None


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
    """A job; times are RFC 3339, `fraction` lies in [0, 1], memory is in bytes.

    One of the kind ``retrain`` makes a version; one of the kind ``evaluate``
    has a `result`, which a list of jobs leaves out.
    """

    job_id: int
    kind: Literal["retrain", "evaluate"]
    request: RetrainRequest
    status: Literal["running", "succeeded", "failed", "cancelled", "interrupted"]
    trigger: str
    actor: str | None
    cause: Cause | None
    stage: str
    fraction: float
    seconds_elapsed: float
    seconds_left: float | None
    progress: TuningProgress | None
    finish_requested: bool
    cancel_requested: bool
    started_at: str
    finished_at: str | None
    version: int | None
    promoted: bool | None
    verdict: Verdict | None
    memory_bytes: int | None
    peak_memory_bytes: int | None
    estimated_memory_bytes: int | None
    error: JobError | None
    result: NotRequired[Evaluation | None]


class JobPage(TypedDict):
    """Jobs, the latest first, and when the schedule starts the next one."""

    status: str
    jobs: list[Job]
    schedule: str | None
    next_scheduled_at: str | None


class Deletion(TypedDict):
    """A version that was deleted."""

    status: str
    version: int


class ComparedModel(TypedDict):
    """One of two versions that are compared."""

    version: int
    recipe: str
    settings: dict[str, Any]
    data: TrainingData
    training_samples: int
    n_users: int
    n_items: int
    explained_variance: str
    metrics: dict[str, Metric] | None


class SettingDifference(TypedDict):
    """A setting that two versions have differently."""

    name: str
    first: Any
    second: Any


class ChangedUser(TypedDict):
    """A user, the share of the list that both versions give, and both lists of item ids."""

    user_id: str
    overlap: float
    first: list[str]
    second: list[str]


class ExposureChange(TypedDict):
    """An item, and of how many sampled users' lists it is one with each version."""

    item_id: str
    first: float
    second: float


class Exposure(TypedDict):
    """The items that gain and lose most."""

    gained: list[ExposureChange]
    lost: list[ExposureChange]


class Pair(TypedDict):
    """A number of each of two versions."""

    first: float
    second: float


class KnownUsers(TypedDict):
    """How many users two versions both know, and how many only one of them."""

    both: int
    only_first: int
    only_second: int


class Comparison(TypedDict):
    """Two versions side by side, and what a sample of `n_users` users would see of each.

    `overlap` is the mean share of a user's list of `k` items that both give.
    Without a user whom both know it is None, and so are the two after it.
    """

    status: str
    sentence: str
    users: KnownUsers
    first: ComparedModel
    second: ComparedModel
    settings: list[SettingDifference]
    k: int
    n_users: int
    overlap: Metric | None
    most_changed: list[ChangedUser]
    exposure: Exposure
    coverage: Pair | None
    popularity: Pair | None


_PromotionRule = Literal["gate", "always", "manual"]


class Promotion(TypedDict, total=False):
    """Who decides whether a new version serves, by what started its training."""

    manual: _PromotionRule
    schedule: _PromotionRule
    rule: _PromotionRule


class Policy(TypedDict, total=False):
    """When to retrain, on what, and what a new version must prove; see ``GET /policy``."""

    schedule: str | None
    timezone: str
    every_interactions: int | None
    max_age_hours: float | None
    min_minutes_between: float
    skip_unchanged: bool
    promotion: Promotion
    metric: Literal["ndcg@10", "recall@10", "hit_rate@10", "map@10"]
    margin: float
    min_users: int
    min_new_interactions: int
    min_coverage_share: float
    max_fall: float
    weights: dict[str, float]
    half_life_days: float | None
    window_days: float | None
    left_out_users: list[str]
    max_interactions_per_user: int | None
    versions_kept: int
    kept_days: float | None
    stale_after_hours: float | None
    webhook_url: str | None
    webhook_secret: str | None


class PolicyRevision(TypedDict):
    """A policy with its history; revision 0 comes from the environment, and nobody stored it.

    A secret is shown as ``***``.
    """

    status: NotRequired[str]
    policy: Policy
    revision: int
    source: Literal["environment", "stored"]
    updated_at: str | None
    actor: str | None
    reason: str | None


class AuditEntry(TypedDict):
    """An entry of the trail."""

    entry_id: int
    at: str
    actor: str
    action: str
    subject: str
    details: dict[str, Any]
    hash: str | None


class AuditCheck(TypedDict):
    """Whether the trail is whole; if not, what is wrong with it, and from which entry on."""

    status: str
    ok: bool
    n_entries: int
    problem: str | None
    entry_id: int | None


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
    actor : str, optional
        Who asks, for the trail, which then says ``api:ACTOR``: up to 64 letters, digits and
        ``. _ @ -``.
    transport : httpx.BaseTransport, optional
        What carries the requests, in place of connections to `url`. `httpx.MockTransport`
        answers them from a function, for tests; `httpx.HTTPTransport` takes certificates,
        proxies and addresses to bind.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        timeout_seconds: float = 30.0,
        retry_seconds: float = 5.0,
        actor: str | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        address = httpx.URL(url.rstrip("/"))
        self.url = _masked(address)
        self._headers = {} if actor is None else {ACTOR_HEADER: actor}
        # A proxy of the environment leads out of this machine, never back to it.
        is_here = address.host in {"127.0.0.1", "::1", "localhost"}
        self._http = httpx.Client(
            base_url=address,
            timeout=timeout_seconds,
            trust_env=not is_here,
            transport=transport,
        )
        # A stream is never silent for longer than 15 seconds.
        self._stream_timeout = httpx.Timeout(timeout_seconds, read=max(timeout_seconds, 30.0))
        self._retry_seconds = retry_seconds

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

    def as_actor(self, actor: str) -> "Client":
        """Return a client on the same connections whose calls name another actor."""
        named = copy.copy(self)
        named._headers = {ACTOR_HEADER: actor}
        return named

    def models(self) -> list[Model]:
        """List the versions, the newest first."""
        return cast(list[Model], self._get("/models")["models"])

    def model(self, version: int) -> ModelDetails:
        """Describe one version, with all that is known of it."""
        return cast(ModelDetails, self._get(f"/models/{version}")["model"])

    def activate(self, version: int, *, reason: str | None = None) -> ModelDetails:
        """Let a version serve."""
        answer = self._call(
            "POST", f"/models/{version}/activate", json=_given(reason=reason), repeat=True
        )
        return cast(ModelDetails, answer["model"])

    def roll_back(self, *, reason: str | None = None) -> ModelDetails:
        """Let the version serve that served before, and return it; again: the one before that."""
        answer = self._call("POST", "/models/rollback", json=_given(reason=reason))
        return cast(ModelDetails, answer["model"])

    def set_note(self, version: int, note: str | None) -> ModelDetails:
        """Write a note on a version, up to 10,000 characters; None takes it away."""
        answer = self._call("PATCH", f"/models/{version}", json={"note": note}, repeat=True)
        return cast(ModelDetails, answer["model"])

    def pin(
        self, version: int, *, until: str | None = None, reason: str | None = None
    ) -> ModelDetails:
        """Let no training replace a version while it serves, and nothing delete it.

        Parameters
        ----------
        version : int
        until : str, optional
            RFC 3339, ``2026-01-31T12:00:00Z``. Default: until it is unpinned.
        reason : str, optional
        """
        body = _given(until=until, reason=reason)
        answer = self._call("POST", f"/models/{version}/pin", json=body, repeat=True)
        return cast(ModelDetails, answer["model"])

    def unpin(self, version: int, *, reason: str | None = None) -> ModelDetails:
        """Take a pin away."""
        params = _given(reason=reason)
        answer = self._call("DELETE", f"/models/{version}/pin", params=params, repeat=True)
        return cast(ModelDetails, answer["model"])

    def delete_model(self, version: int, *, reason: str | None = None) -> Deletion:
        """Delete a version that does not serve, with its files."""
        params = _given(reason=reason)
        return cast(Deletion, self._call("DELETE", f"/models/{version}", params=params))

    def compare(self, version: int, other: int, *, k: int = 10, users: int = 2000) -> Comparison:
        """Compare two versions: what they are, and what users would see of each.

        Parameters
        ----------
        version, other : int
            The first and the second.
        k : int
            Length of the lists, 1 to 100.
        users : int
            How many users to draw by lot, 1 to 20,000.
        """
        path = f"/models/{version}/compare/{other}"
        params = {"k": k, "users": users}
        answer = self._call("GET", path, params=params, repeat=True, waits=True)
        return cast(Comparison, answer)

    def download(self, version: int, path: Path) -> Path:
        """Write a version as a file that another installation can import, and return its path.

        A file of this name is replaced, once the new one is whole.

        Raises
        ------
        DataError
            The file cannot be written.
        """
        part = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part")

        def once() -> None:
            with self._open(f"/models/{version}/download") as response, part.open("wb") as file:
                if response.headers.get("content-type") != "application/zip":
                    raise _foreign(response)
                try:
                    for chunk in response.iter_bytes(_CHUNK_BYTES):
                        file.write(chunk)
                except httpx.HTTPError as exc:
                    raise self._unavailable(_reason(exc)) from exc

        try:
            self._retrying(once)
            os.replace(part, path)
        except OSError as exc:
            raise errors.DataError(
                f"{path} cannot be written: {exc.strerror or exc}. Name a file in a folder that is "
                "there and has room."
            ) from exc
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
        return path

    def import_model(self, path: Path) -> ModelDetails:
        """Take in a version that `download` wrote, here or elsewhere; it does not serve yet.

        Raises
        ------
        DataError
            The file cannot be read.
        """
        try:
            with path.open("rb") as file:
                answer = self._call(
                    "POST", "/models/import", content=file, headers=_ZIP, waits=True
                )
        except OSError as exc:
            raise errors.DataError(
                f"{path} cannot be read: {exc.strerror or exc}. Name a file that `download` wrote."
            ) from exc
        return cast(ModelDetails, answer["model"])

    def timeline(self, *, limit: int = 50, before: int | None = None) -> list[TimelineEntry]:
        """List what served when, the latest first, with entry numbers below `before`."""
        answer = self._get("/timeline", params=_given(limit=limit, before=before))
        return cast(list[TimelineEntry], answer["timeline"])

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
        """Train a new version, wait until it is done, and say what was made.

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

    def cancel_job(self, job_id: int, *, reason: str | None = None) -> Job:
        """Ask a running job to end; it reads ``cancelled`` once it has."""
        body = _given(reason=reason)
        answer = self._call("POST", f"/jobs/{job_id}/cancel", json=body, repeat=True)
        return cast(Job, answer["job"])

    def jobs(self, *, limit: int = 20, before: int | None = None) -> JobPage:
        """List jobs, the latest first, with numbers below `before`."""
        return cast(JobPage, self._get("/jobs", params=_given(limit=limit, before=before)))

    def job(self, job_id: int) -> Job:
        """Describe one job."""
        return cast(Job, self._get(f"/jobs/{job_id}")["job"])

    def follow_job(self, job_id: int) -> Iterator[Job]:
        """Yield a job each time that it has changed, up to its end.

        One that has ended is given once. A reader that is slow misses states,
        never the last. A stream that breaks is opened again.
        """
        while True:
            is_told, reason = False, "the stream ended before it told of the job"
            with self._retrying(lambda: self._open(f"/jobs/{job_id}/stream")) as response:
                try:
                    for event, data in _events(response):
                        if event == "end":
                            return
                        is_told = True
                        yield cast(Job, json.loads(data))
                except httpx.HTTPError as exc:
                    reason = _reason(exc)
            if not is_told:
                raise self._unavailable(reason)

    def policy(self) -> PolicyRevision:
        """Return the policy that rules."""
        return cast(PolicyRevision, self._get("/policy"))

    def set_policy(
        self, policy: Policy, *, if_revision: int | None = None, reason: str | None = None
    ) -> PolicyRevision:
        """Store a policy, which rules from now on, and return it.

        Parameters
        ----------
        policy : Policy
            Whole: a field left out has its default. A secret given as ``***`` stays as it is.
        if_revision : int, optional
            Store only if this revision still rules; else `ConflictError`.
        reason : str, optional

        Raises
        ------
        DataError
            A field cannot be used; the message and `details` name it, and nothing was stored.
        """
        params = _given(if_revision=if_revision, reason=reason)
        answer = self._call("PUT", "/policy", params=params, json=policy)
        return cast(PolicyRevision, answer)

    def policy_history(self, *, limit: int = 20, before: int | None = None) -> list[PolicyRevision]:
        """List the policies that were stored, the latest first, with revisions below `before`."""
        answer = self._get("/policy/history", params=_given(limit=limit, before=before))
        return cast(list[PolicyRevision], answer["policies"])

    def audit(self, *, limit: int = 50, before: int | None = None) -> list[AuditEntry]:
        """List who changed what, the latest first, with entry numbers below `before`."""
        answer = self._get("/audit", params=_given(limit=limit, before=before))
        return cast(list[AuditEntry], answer["entries"])

    def verify_audit(self) -> AuditCheck:
        """Say whether the trail is whole: nothing altered, removed, reordered or cut."""
        return cast(AuditCheck, self._call("GET", "/audit/verify", repeat=True, waits=True))

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

    def _retrying(self, once: Callable[[], _Answer]) -> _Answer:
        """Return what a call gives, and call again, with growing pauses, while nobody answers."""
        give_up_at = time.monotonic() + self._retry_seconds
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                return once()
            except errors.UnavailableError:
                if time.monotonic() >= give_up_at:
                    raise
            # By chance, so that many clients do not come back all at one moment.
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2.0 * pause, _LONGEST_PAUSE_SECONDS)

    def _call(
        self, method: str, path: str, *, repeat: bool = False, waits: bool = False, **more: Any
    ) -> dict[str, Any]:
        timeout = None if waits else httpx.USE_CLIENT_DEFAULT

        def once() -> dict[str, Any]:
            return _decoded(self._request(method, path, timeout=timeout, **more))

        return self._retrying(once) if repeat else once()

    def _request(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, **more: Any
    ) -> httpx.Response:
        try:
            return self._http.request(
                method, path, headers={**self._headers, **(headers or {})}, **more
            )
        except httpx.HTTPError as exc:
            raise self._unavailable(_reason(exc)) from exc
        except (ValueError, RecursionError) as exc:  # NaN, half a character
            raise errors.DataError(
                f"It cannot be sent: {exc}. Give finite numbers and texts in UTF-8."
            ) from exc

    def _open(self, path: str) -> contextlib.closing[httpx.Response]:
        """Begin an answer that is read in parts, for a ``with`` statement."""
        request = self._http.build_request(
            "GET", path, headers=self._headers, timeout=self._stream_timeout
        )
        try:
            response = self._http.send(request, stream=True)
            if not response.is_success:
                response.read()
                _decoded(response)
        except httpx.HTTPError as exc:
            raise self._unavailable(_reason(exc)) from exc
        return contextlib.closing(response)

    def _unavailable(self, reason: str) -> errors.UnavailableError:
        return errors.UnavailableError(
            f"{self.url} does not answer ({reason}). See that it runs there (`reckeeper up` "
            "starts all), then try again."
        )


def _reason(exc: httpx.HTTPError) -> str:
    return re.sub(r"\[Errno -?\d+\] ", "", str(exc)) or type(exc).__name__


def _given(**values: Any) -> dict[str, Any]:
    """Return the values that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def _events(response: httpx.Response) -> Iterator[tuple[str, str]]:
    """Yield the name and the data of each server-sent event; comments are passed over."""
    event, data = "message", ""
    for line in response.iter_lines():
        name, _, value = line.partition(": ")
        if name == "event":
            event = value
        elif name == "data":
            data = value
        elif not line and data:
            yield event, data
            event, data = "message", ""


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


def _foreign(response: httpx.Response) -> errors.UnavailableError:
    return errors.UnavailableError(
        f"{_masked(response.url)} answered {response.status_code} and not as Reckeeper does. "
        "See that the address is that of a Reckeeper server."
    )


def _masked(url: httpx.URL) -> str:
    """Return an address without its password."""
    return str(url.copy_with(username=url.username, password="***") if url.password else url)


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
        raise _foreign(response)
    raise errors.error_of(str(body["code"]), str(body.get("message")), details=body.get("details"))
