"""`training.memory`: an estimate that is held against what a process really held."""

import json
import sys

import numpy as np
import psutil
import pytest
from tests.unit.small_models import stored_version

from reckeeper import storage
from reckeeper.errors import DataError, MemoryLimitError
from reckeeper.recipes import RECIPES, Sizes, recipe_named
from reckeeper.training import JobRunner, memory

SIZES = {"n_interactions": 1_000_000, "n_users": 20_000, "n_items": 5000}
LARGER = {
    "svd": {"n_components": 200},
    "spectral": {"n_components": 2000},
    "popularity": {"half_life_days": 30},
}

FIT = """
import json, sys
from pathlib import Path

import numpy as np
import sklearn.decomposition  # what is imported is no part of a fit
from scipy import sparse

from reckeeper.matrix import IdIndex, InteractionMatrix
from reckeeper.recipes import recipe_named

n_users, n_items, n_pairs = map(int, sys.argv[1:4])
random = np.random.default_rng(0)
rows = random.integers(n_users, size=n_pairs)
columns = (random.random(n_pairs) ** 2 * n_items).astype(np.int64)  # some are popular
weights = sparse.csr_array(sparse.coo_array((np.ones(n_pairs), (rows, columns))).tocsr())
users, items = (IdIndex([f"{n:07}" for n in range(length)]) for length in weights.shape)
interactions = InteractionMatrix(users, items, weights, n_pairs, np.arange(weights.nnz))
del rows, columns

def held(name):
    return int(Path("/proc/self/status").read_text().partition(name + ":")[2].split()[0]) * 1024

Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
before = held("VmRSS")
model = recipe_named(sys.argv[4]).fit(interactions, settings=json.loads(sys.argv[5]))
print(json.dumps({"n_pairs": weights.nnz, "bytes": held("VmHWM") - before}))
"""


@pytest.fixture
def settings_of(settings):
    """Return a function that gives settings with a limit of memory."""

    def limited(limit):
        return settings.replaced(training_memory_bytes=limit)

    return limited


# The estimate


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a peak from here on")
@pytest.mark.parametrize(
    ("recipe", "chosen", "shape"),
    [
        ("svd", {"n_components": 20}, (40_000, 2000, 500_000)),
        ("spectral", {"n_components": 0, "order": 0.5}, (6000, 8000, 200_000)),
        ("spectral", {"n_components": 16, "order": 0.5}, (6000, 3000, 100_000)),
        *(
            pytest.param(
                *("spectral", {"n_components": 16, "order": 0.5}, shape), marks=pytest.mark.long
            )
            for shape in [(2000, 9000, 40_000), (4000, 5000, 400_000)]
        ),
    ],
    ids=str,
)
def test_a_fit_holds_no_more_than_its_footprint_and_not_far_less(
    start_python, recipe, chosen, shape
):
    child = start_python(FIT, *shape, recipe, json.dumps(chosen))
    output, errors = child.communicate(timeout=120)
    assert child.returncode == 0, errors
    measured = json.loads(output)
    sizes = Sizes(
        n_users=shape[0],
        n_items=shape[1],
        n_pairs=measured["n_pairs"],
        n_threads=len(psutil.Process().cpu_affinity()),
    )
    footprint = recipe_named(recipe).footprint(sizes, settings=chosen)
    # Of so small a fit what the allocator keeps is a part that counts.
    assert measured["bytes"] <= 1.1 * footprint.fit_bytes + 30e6
    assert footprint.fit_bytes <= 3 * measured["bytes"] + 30e6


def test_a_training_holds_no_more_than_estimated_and_not_far_less(
    database, registry, settings, add
):
    random = np.random.default_rng(0)
    n = 200_000
    users, items = random.integers(5000, size=n), random.integers(2000, size=n)
    add(*((f"u{user}", f"i{item}") for user, item in zip(users, items, strict=True)))
    request = {"recipe": "spectral", "settings": {"n_components": 64}}
    runner = JobRunner(database, registry, settings)
    job_id = runner.start(trigger="manual", actor="test", request=request)
    runner.wait(job_id)
    with database.read() as connection:
        job = storage.jobs.get(connection, job_id)
    assert job.status == "succeeded", job.error_message
    estimated = memory.estimate(
        "spectral",
        request["settings"],
        n_interactions=n,
        n_users=5000,
        n_items=2000,
        cell_limit=settings.prediction_cell_limit,
    )
    assert job.peak_memory_bytes <= estimated <= 2.5 * job.peak_memory_bytes


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("larger", [*SIZES, "cell_limit"])
def test_more_data_need_no_less(recipe, larger):
    sizes = {**SIZES, "cell_limit": 0}
    more = {**sizes, larger: 3 * sizes[larger] or 10**9}
    # Left to itself, a smaller catalogue keeps more of each row.
    settings = {"n_neighbours": 200} if recipe == "spectral" else {}
    estimates = [memory.estimate(recipe, settings, **given) for given in (sizes, more)]
    assert estimates[0] <= estimates[1]
    if larger in {"n_interactions", "cell_limit"}:
        assert estimates[0] < estimates[1]


@pytest.mark.parametrize("recipe", RECIPES)
def test_larger_settings_need_more(recipe):
    sizes = {**SIZES, "n_interactions": 50_000_000}
    default = memory.estimate(recipe, {}, **sizes)
    assert memory.estimate(recipe, LARGER[recipe], **sizes) > default


@pytest.mark.parametrize("recipe", RECIPES)
def test_tuning_needs_what_the_largest_settings_need_and_more(recipe):
    plain = memory.estimate(recipe, {}, **SIZES)
    tuned = memory.estimate(recipe, {}, **SIZES, tune=True)
    if recipe == "popularity":
        assert tuned == plain  # nothing larger is tried
    else:
        assert tuned > plain
        assert tuned == memory.estimate(recipe, {"n_components": 1}, **SIZES, tune=True)


def test_fewer_pairs_need_less_and_there_are_never_more_than_cells():
    unknown = memory.estimate("svd", {}, **SIZES)
    assert memory.estimate("svd", {}, **SIZES, n_pairs=1000) < unknown
    assert memory.estimate("svd", {}, **SIZES, n_pairs=10**12) == unknown
    few = {"n_interactions": 1_000_000, "n_users": 10, "n_items": 10}
    assert memory.estimate("svd", {}, **few) == memory.estimate("svd", {}, **few, n_pairs=100)


def test_the_active_version_counts_as_it_is_loaded_and_fitted_again():
    sizes = {**SIZES, "n_interactions": 5_000_000}
    active = {"recipe": "popularity", "settings": {}, "n_users": 20_000, "n_items": 5000}
    alone = memory.estimate("popularity", {}, **sizes)
    loaded = memory.estimate(
        "popularity", {}, **sizes, active=stored_version(**active, native_bytes=10**9)
    )
    assert loaded > alone + 10**9
    assert loaded.stage == "judging"
    heavy = stored_version(**{**active, "recipe": "spectral"}, native_bytes=0)
    fitted = memory.estimate("popularity", {}, **sizes, active=heavy)
    assert fitted > alone + 10**8
    unknown = stored_version(**{**active, "recipe": "of a later release"}, native_bytes=0)
    assert alone < memory.estimate("popularity", {}, **sizes, active=unknown) < alone + 10**8


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("tune", [False, True])
@pytest.mark.parametrize("n", [0, 1, 2])
def test_of_nothing_there_is_an_estimate_too(recipe, tune, n):
    estimated = memory.estimate(
        recipe, {}, n_interactions=n, n_users=n, n_items=n, tune=tune, cell_limit=100
    )
    assert 100e6 < estimated < 500e6


def test_its_parts_are_its_sum_the_largest_first():
    estimated = memory.estimate("spectral", {}, **SIZES)
    values = list(estimated.parts.values())
    assert sum(values) == estimated == int(json.dumps(estimated))
    assert values == sorted(values, reverse=True)


def test_what_no_recipe_takes_is_refused():
    with pytest.raises(DataError, match="no recipe 'none'"):
        memory.estimate("none", {}, **SIZES)
    with pytest.raises(DataError, match="n_components"):
        memory.estimate("svd", {"n_components": 0}, **SIZES)


# What there is


@pytest.fixture
def system(tmp_path):
    """Return a function that makes a file system with a process's control groups."""

    def make(membership, files):
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(membership)
        for name, content in files.items():
            path = tmp_path / "sys/fs/cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return tmp_path

    return make


MB = 1_000_000
SMALL = f"anon 1\ninactive_file {5 * MB}\nfile 7\n"


def free(root):
    """Return what is available beside what this process holds, to some megabytes."""
    return memory.available(root=root) - psutil.Process().memory_info().rss


def about(n_bytes):
    return pytest.approx(n_bytes, abs=4 * MB)


def test_without_a_limit_it_is_what_the_machine_has(system):
    root = system("", {})
    assert free(root) == pytest.approx(psutil.virtual_memory().available, rel=0.2)


@pytest.mark.parametrize(
    ("membership", "files", "left"),
    [
        # Version 2: in a container, and on a host where a group above has the limit.
        (
            "0::/\n",
            {"memory.max": f"{100 * MB}\n", "memory.current": f"{40 * MB}\n"},
            60 * MB,
        ),
        (
            "0::/a/b\n",
            {
                "a/b/memory.max": "max\n",
                "a/b/memory.current": f"{10 * MB}\n",
                "a/memory.max": f"{100 * MB}\n",
                "a/memory.current": f"{40 * MB}\n",
                "a/memory.stat": SMALL,
            },
            65 * MB,
        ),
        (
            "0::/a/b\n",
            {
                "a/b/memory.max": f"{50 * MB}\n",
                "a/b/memory.current": f"{10 * MB}\n",
                "a/memory.max": f"{100 * MB}\n",
                "a/memory.current": f"{80 * MB}\n",
            },
            20 * MB,
        ),
        # Version 1: on a host, and in a container, where the path is the host's.
        (
            "5:cpu:/x\n4:memory:/x\n0::/\n",
            {
                "memory/x/memory.limit_in_bytes": f"{100 * MB}\n",
                "memory/x/memory.usage_in_bytes": f"{40 * MB}\n",
                "memory/x/memory.stat": f"inactive_file 1\ntotal_inactive_file {5 * MB}\n",
                "memory/memory.limit_in_bytes": "9223372036854771712\n",
                "memory/memory.usage_in_bytes": "0\n",
            },
            65 * MB,
        ),
        (
            "4:cpuset,memory:/docker/123\n",
            {
                "memory/memory.limit_in_bytes": f"{100 * MB}\n",
                "memory/memory.usage_in_bytes": f"{40 * MB}\n",
            },
            60 * MB,
        ),
        # More is used than allowed.
        (
            "0::/\n",
            {"memory.max": f"{40 * MB}\n", "memory.current": f"{100 * MB}\n"},
            0,
        ),
    ],
)
def test_a_control_group_leaves_its_limit_less_what_is_used(system, membership, files, left):
    assert free(system(membership, files)) == about(left)


# The check


def test_what_fits_passes(settings_of):
    estimated = memory.estimate("svd", {}, **SIZES)
    memory.check(estimated, settings_of(estimated))
    memory.check(memory.Estimate("fitting", {}), settings_of(None))


@pytest.mark.fault(
    "A training needs more memory than there is",
    seen="the job fails before it begins, with the numbers and remedies",
    kept="everything",
    heals="fewer components, a window, or more memory",
)
def test_what_does_not_fit_is_refused_with_the_numbers_and_what_to_do(settings_of):
    parts = {"ids": 40_000_000, "interactions": 1_300_000_000, "the recipe's fit": 11_000_000_000}
    estimated = memory.Estimate("judging", parts)
    with pytest.raises(MemoryLimitError) as caught:
        memory.check(estimated, settings_of(8_000_000_000))
    message = caught.value.message
    assert "needs about 12.3 GB" in message
    assert "RECKEEPER_TRAINING_MEMORY_BYTES allows 8.0 GB" in message
    assert "while judging: the recipe's fit 11.0 GB, interactions 1.3 GB, ids 40.0 MB" in message
    for remedy in ("fewer components", "a training window", "a cap of interactions", "more memory"):
        assert remedy in message
    assert caught.value.details == {
        "needed_bytes": 12_340_000_000,
        "available_bytes": 8_000_000_000,
        "stage": "judging",
        "parts": parts,
    }
    with pytest.raises(MemoryLimitError, match=r"and \d+\.\d GB are free"):
        memory.check(memory.Estimate("fitting", {"the recipe's fit": 10**15}), settings_of(None))


def test_a_byte_too_much_is_too_much(settings_of):
    estimated = memory.estimate("svd", {}, **SIZES)
    with pytest.raises(MemoryLimitError):
        memory.check(estimated, settings_of(estimated - 1))
