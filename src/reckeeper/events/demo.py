"""Demo data: invented, seeded, the same each time apart from the date."""

from dataclasses import dataclass

import numpy as np

from reckeeper import audit, clock, storage
from reckeeper.config import Settings
from reckeeper.errors import ConflictError
from reckeeper.interactions import WATCHLIST_ADD, WATCHLIST_REMOVE, Interaction
from reckeeper.storage import Item
from reckeeper.telemetry import get_logger

_log = get_logger(__name__)

N_USERS = 2_000
N_ITEMS = 500
N_VISITS = 54_500
"""Clicks before what follows from them; about 60,000 interactions in all."""
N_DAYS = 90

_SEED = 20_251_204

# Each category's words make its titles; the first part is shared out among all.
_WORDS = {
    "Adventure": ("Voyage Island Compass Expedition River Summit", "Treasure Tide North Jungle"),
    "Animation": ("Little Fox Paper Balloon Lantern Penguin", "Moon Meadow Cloud Parade"),
    "Comedy": (
        "Wedding Neighbour Holiday Mix-up Landlord Cousin",
        "Chaos Honeymoon Rehearsal Cake",
    ),
    "Crime": ("Alibi Witness Heist Ledger Inspector Vault", "Midnight Harbour Silence Debt"),
    "Documentary": ("Atlas Orchard Glacier Archive Ocean Workshop", "Light Year Seed Map"),
    "Drama": ("Letter House Winter Daughter Silence Promise", "Rain Distance Summer Glass"),
    "Fantasy": ("Dragon Oracle Crown Spell Raven Kingdom", "Thorns Ash Mirrors Embers"),
    "Horror": ("Cellar Whisper Hollow Shadow Mask Asylum", "Teeth Dusk Bones Fog"),
    "Romance": ("Kiss Garden Café Serenade Postcard Waltz", "Paris Spring Lavender Autumn"),
    "Science Fiction": ("Orbit Signal Android Colony Nebula Drift", "Europa Static Zero Titan"),
}
_FIRST = "Last Silent Golden Broken Distant Hidden Crimson Second Endless Lost Electric Secret"
_PATTERNS = ("The {first} {noun}", "{noun} of {place}", "{first} {place}", "{noun} and {place}")

CATEGORIES = tuple(_WORDS)
"""What the items are about; a user likes one to three of them."""

# Relative traffic by hour of the day, UTC: quiet nights, busy evenings.
_HOURS = np.array(
    [3, 2, 1, 1, 1, 1, 2, 3, 4, 4, 4, 5, 6, 5, 5, 5, 6, 8, 10, 13, 14, 12, 9, 5], dtype=float
)


@dataclass(frozen=True)
class DemoInfo:
    """Whether demo data is in the database, how much, and users to try."""

    is_loaded: bool
    n_interactions: int
    sample_users: tuple[str, ...]


def catalogue() -> list[Item]:
    """Return the invented films: unique titles, each with a category and a year."""
    draw = _Draw(_SEED)
    items = []
    titles: set[str] = set()
    for number, category in enumerate(_item_categories()):
        nouns, places = (words.split() for words in _WORDS[CATEGORIES[category]])
        title = ""
        while not title or title in titles:
            pattern, first = draw.one_of(_PATTERNS), draw.one_of(_FIRST.split())
            noun, place = draw.one_of(nouns), draw.one_of(places)
            title = pattern.format(first=first, noun=noun, place=place)
        titles.add(title)
        year = 2025 - int(45 * draw.uniform(1)[0] ** 2)
        kind = CATEGORIES[category]
        attributes = {"category": kind, "year": year}
        items.append(Item(_item_id(number), title, attributes, (kind,)))
    return items


def interactions(now: int) -> list[Interaction]:
    """Return about 60,000 interactions of the 90 days that end with the last midnight UTC.

    Each user likes one to three categories and strays now and then; within a
    category few items have most of the visits, and some users come far more
    often than others. Some visits put the item on the watchlist, and some of
    these take it off again days later.

    Parameters
    ----------
    now : int
        Microseconds since 1970 UTC; moves all times by whole days, and
        changes nothing else.
    """
    draw = _Draw(_SEED + 1)
    categories = _item_categories()
    tastes = _tastes(draw)
    popularity = np.zeros(N_ITEMS)
    for category in range(len(CATEGORIES)):
        of_category = np.flatnonzero(categories == category)
        order = np.argsort(draw.uniform(len(of_category)), kind="stable")
        popularity[of_category[order]] = 1.0 / np.arange(2, len(of_category) + 2) ** 0.9
    activity = np.exp(0.9 * draw.normal(N_USERS))
    # Everybody comes at least a few times, so that everybody can be shown a list.
    users = np.concatenate([np.repeat(np.arange(N_USERS), 5), draw.choose(activity, N_VISITS)])
    users = users[:N_VISITS]
    visited_category = draw.choose_each(tastes[users])
    items = np.empty(N_VISITS, dtype=np.int64)
    for category in range(len(CATEGORIES)):
        is_here = visited_category == category
        items[is_here] = draw.choose(popularity * (categories == category), int(is_here.sum()))
    midnight = now // clock.DAY * clock.DAY
    day = (draw.uniform(N_VISITS) * N_DAYS).astype(np.int64)
    hour = draw.choose(_HOURS, N_VISITS)
    within_hour = (draw.uniform(N_VISITS) * 3600).astype(np.int64) * 1_000_000
    visited_at = day * clock.DAY + hour * (clock.DAY // 24) + within_hour
    is_added = draw.uniform(N_VISITS) < 0.09
    added_at = visited_at + 1_000_000 * (20 + (draw.uniform(N_VISITS) * 600).astype(np.int64))
    is_removed = is_added & (draw.uniform(N_VISITS) < 0.15)
    removed_at = (
        added_at + clock.DAY // 24 + (draw.uniform(N_VISITS) * 14 * clock.DAY).astype(np.int64)
    )
    rows = []
    for kind, chosen, at in (
        ("click", np.ones(N_VISITS, dtype=bool), visited_at),
        (WATCHLIST_ADD, is_added, added_at),
        (WATCHLIST_REMOVE, is_removed, removed_at),
    ):
        chosen = chosen & (at < N_DAYS * clock.DAY)
        rows += [
            (at, kind, user, item)
            for at, user, item in zip(
                at[chosen].tolist(), users[chosen].tolist(), items[chosen].tolist(), strict=True
            )
        ]
    rows.sort()
    first_day = midnight - N_DAYS * clock.DAY
    return [
        Interaction(f"demo-{number:06d}", _user_id(user), _item_id(item), kind, 1.0, first_day + at)
        for number, (at, kind, user, item) in enumerate(rows)
    ]


def load_if_empty(database: storage.Database, settings: Settings) -> bool:
    """Load the demo data into an embedded database that has never held anything.

    Does nothing where the settings name a database or want no demo, and where
    there are interactions, versions or imports, also ones that were undone:
    demo data that was removed does not come back. Where several processes
    call this at once, one loads.

    Returns
    -------
    bool
        Whether it was loaded by this call.
    """
    if not settings.is_embedded or not settings.demo:
        return False
    with database.read() as connection:
        if not _is_untouched(connection):
            return False
    rows = interactions(clock.now())
    items = catalogue()
    with database.write() as connection:
        if not _is_untouched(connection):
            return False
        import_id = storage.imports.begin(
            connection, source="demo data", fingerprint="", is_demo=True
        )
        # A transaction of its own length: half-loaded demo data cannot be seen.
        storage.imports.append(connection, import_id, list(rows))
        storage.items.put(connection, items, import_id=import_id)
        storage.imports.set_status(connection, import_id, storage.imports.COMPLETE)
        audit.record(
            connection,
            actor="start",
            action="load_demo",
            subject=f"import {import_id}",
            interactions=len(rows),
            items=len(items),
        )
    _log.info("demo_loaded", interactions=len(rows), items=len(items))
    return True


def clear(database: storage.Database, *, actor: str) -> int:
    """Take the demo data out, its catalogue items too; return how many interactions went.

    Repeatable: after a crash the same call takes out the rest, and without
    demo data it does nothing. Versions that were trained on demo data are the
    registry's: see `Registry.delete_demo`.
    """
    with database.read() as connection:
        row = storage.imports.demo(connection)
    if row is None:
        return 0
    try:
        from reckeeper.events.files import undo  # brings Arrow's readers

        return undo(database, row.import_id, actor=actor).interactions
    except ConflictError:  # somebody else was quicker
        return 0


def info(database: storage.Database) -> DemoInfo:
    """Tell whether demo data is in the database, and which users to try."""
    with database.read() as connection:
        row = storage.imports.demo(connection)
    if row is None:
        return DemoInfo(is_loaded=False, n_interactions=0, sample_users=())
    return DemoInfo(
        is_loaded=True,
        n_interactions=row.accepted,
        sample_users=tuple(_user_id(number) for number in range(5)),
    )


def _is_untouched(connection: storage.Connection) -> bool:
    return (
        storage.interactions.is_empty(connection)
        and not storage.imports.all_imports(connection)
        and not storage.models.last_version(connection)
    )


def _item_categories() -> np.ndarray:
    """Return the category of each item: equal shares, mixed by the item's number."""
    order = np.argsort(_Draw(_SEED + 2).uniform(N_ITEMS), kind="stable")
    return order % len(CATEGORIES)


def _tastes(draw: "_Draw") -> np.ndarray:
    """Return each user's share of visits by category, shape (n_users, n_categories)."""
    n_categories = len(CATEGORIES)
    favourite_of = np.argsort(draw.uniform(N_USERS * n_categories).reshape(N_USERS, -1), axis=1)
    n_favourites = 1 + draw.choose(np.array([2.0, 5.0, 3.0]), N_USERS)
    tastes = np.full((N_USERS, n_categories), 0.12 / n_categories)
    share = np.array([[1.0, 0.0, 0.0], [0.6, 0.4, 0.0], [0.45, 0.3, 0.25]])[n_favourites - 1]
    np.put_along_axis(
        tastes,
        favourite_of[:, :3],
        np.take_along_axis(tastes, favourite_of[:, :3], axis=1) + 0.88 * share,
        axis=1,
    )
    return tastes


def _user_id(number: int) -> str:
    return f"user-{number + 1:04d}"


def _item_id(number: int) -> str:
    return f"film-{number + 1:04d}"


class _Draw:
    """Seeded draws, of uniform numbers alone: NumPy keeps their stream between releases."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.Generator(np.random.PCG64(seed))

    def uniform(self, n: int) -> np.ndarray:
        return self._random.random(n)

    def normal(self, n: int) -> np.ndarray:
        """Draw from about the standard normal distribution: a sum of twelve uniform numbers."""
        return np.asarray(self._random.random((n, 12)).sum(axis=1) - 6.0)

    def one_of(self, words: "list[str] | tuple[str, ...]") -> str:
        return words[int(self._random.random() * len(words))]

    def choose(self, weights: np.ndarray, n: int) -> np.ndarray:
        """Draw `n` indices with probabilities in proportion to `weights`."""
        bounds = np.cumsum(weights)
        level = self._random.random(n) * bounds[-1]
        return np.asarray(np.searchsorted(bounds, level, side="right"))

    def choose_each(self, weights: np.ndarray) -> np.ndarray:
        """Draw one index a row with probabilities in proportion to the row."""
        bounds = np.cumsum(weights, axis=1)
        level = self._random.random((len(weights), 1)) * bounds[:, -1:]
        return np.asarray((bounds <= level).sum(axis=1))
