"""The active model in memory: hot swap, histories, lists, and how two versions' lists differ."""

from reckeeper.serving.checking import check
from reckeeper.serving.finished import FinishedList, FinishedLists, ListState
from reckeeper.serving.histories import Everybody
from reckeeper.serving.live import (
    RETRY_SECONDS,
    SILENCE_SECONDS,
    STOP_SECONDS,
    Recommendation,
    Recommendations,
    Serving,
)
from reckeeper.serving.newer import Newer
from reckeeper.serving.popular import PopularItems
from reckeeper.serving.readiness import Problem, Readiness
from reckeeper.serving.rules import Rules
from reckeeper.serving.version_comparison import compare as compare_versions

__all__ = [
    "RETRY_SECONDS",
    "SILENCE_SECONDS",
    "STOP_SECONDS",
    "Everybody",
    "FinishedList",
    "FinishedLists",
    "ListState",
    "Newer",
    "PopularItems",
    "Problem",
    "Readiness",
    "Recommendation",
    "Recommendations",
    "Rules",
    "Serving",
    "check",
    "compare_versions",
]
