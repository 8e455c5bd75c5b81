"""The active model in memory: hot swap, histories, lists, and how two versions' lists differ."""

from reckeeper.serving.answers import Recommendation, Recommendations
from reckeeper.serving.asked import MAX_USERS, Told, parse_basket, parse_history, parse_users
from reckeeper.serving.bulk import BulkLists
from reckeeper.serving.checking import check
from reckeeper.serving.finished import FinishedList, FinishedLists, ListState
from reckeeper.serving.histories import Everybody
from reckeeper.serving.live import (
    RETRY_SECONDS,
    SILENCE_SECONDS,
    STOP_SECONDS,
    Serving,
)
from reckeeper.serving.newer import Newer
from reckeeper.serving.popular import PopularItems
from reckeeper.serving.readiness import Problem, Readiness
from reckeeper.serving.rules import (
    MAX_CATEGORIES,
    MAX_LENGTH,
    MAX_NAMED,
    MAX_OFFSET,
    Kind,
    Rules,
)
from reckeeper.serving.version_comparison import compare as compare_versions

__all__ = [
    "MAX_CATEGORIES",
    "MAX_LENGTH",
    "MAX_NAMED",
    "MAX_OFFSET",
    "MAX_USERS",
    "RETRY_SECONDS",
    "SILENCE_SECONDS",
    "STOP_SECONDS",
    "BulkLists",
    "Everybody",
    "FinishedList",
    "FinishedLists",
    "Kind",
    "ListState",
    "Newer",
    "PopularItems",
    "Problem",
    "Readiness",
    "Recommendation",
    "Recommendations",
    "Rules",
    "Serving",
    "Told",
    "check",
    "compare_versions",
    "parse_basket",
    "parse_history",
    "parse_users",
]
