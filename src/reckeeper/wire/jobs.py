"""Jobs: what they were asked, how far they are, and what they made."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from ..errors import ReckeeperError, error_of
from .failures import action_from
from .forms import Answer, Done, JsonObject, Request, Time, is_none
from .oversight import Drift
from .verdicts import AppliedPromotion, Difference, Metric, Promote, Verdict
from .versions import Cause


class RetrainTuning(Request):
    """How settings are looked for; what is left out is as in the policy."""

    model_config = ConfigDict(strict=True)

    drift: Drift | None = Field(
        default=None,
        exclude_if=is_none,
        description="How far users' next choices are expected to lean to popular items, beyond "
        "what the interactions show. none: no further; mild: somewhat; strong: much, or nobody "
        "knows. Default: what the policy says.",
    )


class RetrainRequest(Request):
    """What a new version is to be trained with; what is left out is as in the active version."""

    model_config = ConfigDict(
        strict=True,
        allow_inf_nan=False,
        json_schema_extra={
            "examples": [
                {"recipe": "svd", "settings": {"n_components": 20}},
                {"tune": True, "tune_seconds": 60},
            ]
        },
    )

    recipe: str | None = Field(
        default=None,
        exclude_if=is_none,
        description="Name of a recipe. Default: the active version's; spectral with tune.",
    )
    settings: JsonObject | None = Field(
        default=None,
        exclude_if=is_none,
        description="The recipe's settings; those left out have their defaults. Without any: the "
        "active version's where the recipe is the same, else the defaults.",
    )
    tune: bool = Field(
        default=False,
        exclude_if=lambda tune: not tune,
        description="Find the settings by how well they do on what is held out.",
    )
    tune_seconds: Annotated[float, Field(gt=0, le=86_400)] | None = Field(
        default=None,
        exclude_if=is_none,
        description="Seconds of CPU time to tune for, all cores together. Default: 120 up to "
        "100,000 interactions, 400 up to a million, beyond that 400 or what five fits take.",
    )
    tuning: RetrainTuning | None = Field(
        default=None,
        exclude_if=is_none,
        description="How settings are looked for, where tune is true.",
    )
    promote: Promote | None = Field(
        default=None,
        exclude_if=is_none,
        description="Whether the new version is activated. Default: always with the active "
        "version's recipe and settings, if_not_worse (by the gate) with others or tuning; or what "
        "the policy says.",
    )


class JobRequest(RetrainRequest):
    """What a job was asked to do otherwise than the active version was trained."""

    model_config = ConfigDict(extra="ignore", strict=False, from_attributes=True)


class JobError(Answer):
    """Why a job did not succeed; `action` is what to do next, by ``name``, and what it is about."""

    code: str
    message: str
    action: JsonObject | None = Field(default=None, exclude_if=is_none)

    def to_error(self) -> ReckeeperError:
        """Return the error that ended the job."""
        return error_of(self.code, self.message, action=action_from(self.action))


class BestSoFar(Answer):
    """The NDCG of a new best, and how many settings were tried by then."""

    n_tried: int
    ndcg: float


class TuningProgress(Answer):
    """What tuning has found so far; `ndcg` and `settings` are the best's, None before the first.

    `history` has each new best, the first one first.
    """

    n_tried: int
    ndcg: float | None
    settings: JsonObject | None
    history: list[BestSoFar] = Field(default_factory=list)  # a job may be older than the field
    seconds_left: float | None


class PairedDifference(Difference):
    """A difference with the standard deviation of the users' differences, and their number."""

    sd: float
    n: int


class Beside(Answer):
    """How one recipe stands beside another, by the gate's rule, and each metric's difference.

    With the standing ``too_few`` the users were too few to tell; it takes
    `n_users_needed`, None where no number suffices.
    """

    standing: Literal["better", "no_worse", "slightly_worse", "worse", "too_few"]
    n_users_needed: int | None
    metrics: dict[str, PairedDifference]


class MeasuredRecipe(Answer):
    """How well a recipe did on what was held out.

    `metrics` has what `GET /policy` can be asked to judge by, such as ``ndcg@10``,
    and others, each at the comparison's `k`. `versus` has, by the `name` of each other
    line, how this one stands beside it; differences are this one's less the other's.
    `version` is the active one where these are its recipe and settings.
    """

    name: str
    recipe: str
    settings: JsonObject
    tuned: bool
    version: int | None
    fit_seconds: float
    tune_seconds: float
    metrics: dict[str, Metric]
    versus: dict[str, Beside]


class MadeOn(Answer):
    """The interactions that a comparison was made on; `latest_at` is when the last occurred."""

    n_interactions: int
    n_users: int
    n_items: int
    latest_at: Time | None
    read_at: Time


class Advice(Answer):
    """The `name` of the recipe to use in place of what is active, None to stay; and why."""

    use: str | None
    sentence: str


class Change(Answer):
    """What has changed since a comparison."""

    code: Literal["data_removed", "policy_changed", "new_interactions", "active_changed"]
    sentence: str


class Evaluation(Answer):
    """Recipes compared on the same cuts of the interactions, a row as soon as it is there.

    `how` says how they were cut. Metric, margin, `min_users` and `k` are those of the policy of
    that revision: where fewer users were judged, nothing can be told. `state` is
    ``out_of_date`` when `changes` since then are such that it would come out otherwise, and then
    there is no advice; ``gone`` when its interactions were removed, and then there are no rows
    either. `problem` says why the active version has no row.
    """

    split: str
    how: str
    k: int
    metric: str
    margin: float
    min_users: int
    n_users: int
    made_on: MadeOn
    policy_revision: int
    active_version: int | None
    state: Literal["current", "out_of_date", "gone"]
    changes: list[Change]
    advice: Advice | None
    problem: str | None
    recipes: list[MeasuredRecipe]


class ListedJob(Answer):
    """A job; times are RFC 3339, `fraction` lies in [0, 1], memory is in bytes.

    One of the kind ``retrain`` makes a version.
    """

    job_id: int
    kind: Literal["retrain", "evaluate"]
    request: JobRequest
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
    started_at: Time
    finished_at: Time | None
    version: int | None
    promoted: bool | None
    verdict: Verdict | None
    memory_bytes: int | None
    estimated_memory_bytes: int | None
    peak_memory_bytes: int | None
    error: JobError | None


class Job(ListedJob):
    """A job by itself; one of the kind ``evaluate`` has a `result`, which grows while it runs."""

    result: Evaluation | None


class JobAnswer(Done):
    """One job."""

    job: Job


class JobPage(Done):
    """Jobs, the latest first, and when the schedule starts the next one."""

    jobs: list[ListedJob]
    schedule: str | None
    next_scheduled_at: Time | None


class RetrainDetails(Answer):
    """What a retrain made."""

    training_samples: int
    n_users: int
    n_items: int
    explained_variance: float


class RetrainAnswer(Done):
    """The answer to a ``POST /retrain`` that waited."""

    message: str
    details: RetrainDetails
    version: int
    job_id: int
    promoted: bool | None
    promotion: AppliedPromotion | None = None
    verdict: Verdict | None


class RecipeSetting(Answer):
    """A setting of a recipe."""

    name: str
    default: Any
    help: str


class Recipe(Answer):
    """A recipe that a version can be trained with."""

    name: str
    summary: str
    decomposes: bool
    settings: list[RecipeSetting]


class RecipeList(Done):
    """The recipes."""

    recipes: list[Recipe]
