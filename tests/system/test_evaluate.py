"""`reckeeper evaluate` and the options of `retrain`, on real data.

Most run in this process: what a process of its own shows (signals, stderr, exit status) is asked
of one.
"""

import csv
import json
import math
import os
from collections import defaultdict

import numpy as np
import pytest
from scipy import sparse
from scipy.sparse.linalg import svds
from tests.system.installation import BIN, MOVIELENS, ROOT, Installation, some_ratings, wait_until
from typer.testing import CliRunner

from reckeeper import wire
from reckeeper.cli.commands import app
from reckeeper.cli.comparison import print_comparison
from reckeeper.errors import NotEnoughDataError, SchemaError

GOWALLA = ROOT.parent / "shared" / "data" / "gowalla"
COLUMNS = ("--user-column", "userId", "--item-column", "movieId", "--min-rating", "4")


@pytest.fixture
def made(tmp_path):
    """Give an installation of which nothing exists yet, wide enough for tables."""
    with Installation(tmp_path, COLUMNS="200", PYTHONWARNINGS="error") as made:
        yield made


@pytest.fixture(scope="session")
def films(tmp_path_factory):
    """Write MovieLens as files: split by each user's time, and with a fifth of the users new.

    Names that begin with ``few_`` have a tenth of the users.
    """
    if not MOVIELENS.is_dir():
        pytest.skip(f"MovieLens is not in {MOVIELENS}")
    by_user = defaultdict(list)
    with (MOVIELENS / "ratings.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if float(row["rating"]) >= 4:
                by_user[row["userId"]].append((int(row["timestamp"]), row["movieId"]))
    names = ("train", "test", "known", "history", "later", "few_train", "few_test")
    parts = {name: ["user_id,item_id,timestamp"] for name in names}
    for number, (user, rows) in enumerate(sorted(by_user.items())):
        rows.sort()
        cut = len(rows) - max(1, len(rows) // 5)
        for place, (time, item) in enumerate(rows):
            line = f"{user},{item},{time}"
            part = "train" if place < cut else "test"
            parts[part].append(line)
            if number % 10 == 0:
                parts[f"few_{part}"].append(line)
            if number % 5:
                parts["known"].append(line)
            else:
                parts["history" if place < len(rows) / 2 else "later"].append(line)
    folder = tmp_path_factory.mktemp("films")
    for name, lines in parts.items():
        (folder / f"{name}.csv").write_text("\n".join(lines))
    return folder


def run(*arguments, environ=None):
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)], env=environ)


def evaluate(*arguments, environ=None):
    done = run(*arguments, "--json", environ=environ)
    assert done.exit_code == 0, (done.output, done.exception)
    assert done.stdout.count("\n") == 1
    return json.loads(done.stdout)


def files(folder, *names):
    options = ("--train", "--test", "--history")
    return [
        part
        for option, name in zip(options, names, strict=False)
        for part in (option, folder / f"{name}.csv")
    ]


def by_hand(folder, *, n_components, k):
    """Compute recall and NDCG by scipy's svds and a loop over users, apart from all code here."""
    train, test = (
        [line.split(",")[:2] for line in (folder / f"{name}.csv").read_text().splitlines()[1:]]
        for name in ("train", "test")
    )
    users, items = (
        {one: n for n, one in enumerate(sorted(set(column)))} for column in zip(*train, strict=True)
    )
    places = ([users[user] for user, _ in train], [items[item] for _, item in train])
    matrix = sparse.csr_array((np.ones(len(train)), places))
    _, _, directions = svds(matrix, k=n_components, random_state=0)
    popularity = np.bincount(places[1], minlength=len(items))
    wanted = defaultdict(set)
    for user, item in test:
        if user in users:
            wanted[user].add(items.get(item, f"unseen {item}"))
    figures = {"svd": [], "popularity": []}
    for user, of_user in wanted.items():
        row = matrix[[users[user]]]
        scores = {"svd": (row @ directions.T @ directions)[0], "popularity": popularity * 1.0}
        for name, of_items in scores.items():
            of_items[row.indices] = -np.inf
            hits = [item in of_user for item in np.argsort(-of_items, kind="stable")[:k]]
            gains = [1 / math.log2(rank + 2) for rank in range(k)]
            ndcg = np.dot(hits, gains) / sum(gains[: len(of_user)])
            figures[name].append((sum(hits) / len(of_user), ndcg))
    return {name: np.mean(found, axis=0) for name, found in figures.items()}


def test_the_figures_are_those_that_scipy_and_a_loop_give(films):
    report = evaluate(*files(films, "train", "test"), "--recipe", "svd", "--k", "10,20")
    expected = by_hand(films, n_components=10, k=20)
    assert report["settings"] == {"n_components": 10, "weighting": "raw"}
    found = report["recall@20"], report["ndcg@20"]
    assert found == pytest.approx(expected["svd"], abs=1e-5)
    # Of equally popular films another may be listed.
    of_popular = report["popularity"]["recall@20"], report["popularity"]["ndcg@20"]
    assert of_popular == pytest.approx(expected["popularity"], abs=2e-3)
    assert report["n_test_users"] + report["n_test_users_left_out"] == 671
    assert report["n_test_users_unseen"] == report["n_test_users_left_out"]
    assert report["n_test_items_unseen"] > 100
    assert report["versus_popularity"]["ndcg@20"]["low"] > 0
    again = evaluate(*files(films, "train", "test"), "--recipe", "svd", "--k", "10,20")
    assert untimed(again) == untimed(report)


def untimed(report):
    """Return a report without what differs from run to run."""
    timed = {"fit_seconds", "evaluate_seconds", "seconds", "peak_memory_bytes"}
    return {
        key: [untimed(line) for line in value] if key == "recipes" else value
        for key, value in report.items()
        if key not in timed
    }


@pytest.mark.long
def test_gowalla(made):
    if not GOWALLA.is_dir():
        pytest.skip(f"Gowalla is not in {GOWALLA}")
    done = made.run(
        *("evaluate", "--train", GOWALLA / "train.parquet", "--test", GOWALLA / "test.parquet"),
        *("--recipe", "svd", "--json"),
    )
    report = json.loads(done.stdout)
    assert report["settings"] == {"n_components": 10, "weighting": "raw"}
    assert (report["n_users"], report["n_items"]) == (29_858, 40_981)
    assert (report["n_interactions"], report["n_test_users"]) == (810_128, 29_858)
    # By scipy's svds and a loop over users, apart from all code here.
    assert report["recall@20"] == pytest.approx(0.0652515166, abs=1e-5)
    assert report["ndcg@20"] == pytest.approx(0.0604393909, abs=1e-5)
    assert report["popularity"]["recall@20"] == pytest.approx(0.04163, abs=1e-5)
    assert report["versus_popularity"]["ndcg@20"]["low"] > 0.02
    assert report["peak_memory_bytes"] < 3e9


def test_users_whom_training_never_saw(films):
    report = evaluate(*files(films, "known", "later", "history"), "--recipe", "svd")
    assert report["n_test_users_unseen"] == 135
    assert report["n_test_users"] + report["n_test_users_left_out"] == 135
    assert report["n_test_users"] > 130
    assert report["recall@20"] > report["popularity"]["recall@20"]
    done = run(*files(films, "known", "later"), "--recipe", "svd", "--json")
    assert not done.stdout
    assert isinstance(done.exception, NotEnoughDataError)
    assert done.exception.action.name == "give_history"


def test_one_file_in_one_process(made):
    """The whole way of a stranger with a file: shown, written, and no warning."""
    if not MOVIELENS.is_dir():
        pytest.skip(f"MovieLens is not in {MOVIELENS}")
    page = made.folder / "report.html"
    done = made.run(
        *("evaluate", MOVIELENS / "ratings.csv", *COLUMNS, "--recipe", "svd", "--html", page),
        is_copy=False,
    )
    for text in ("from the history just before it", "svd less popularity", "better", "100+"):
        assert text in done.stdout
    assert "columns not used" not in done.stderr
    assert "fitting svd, cut 3 of 3" in done.stderr
    assert "Traceback" not in done.stderr
    assert "<title>Evaluation: ratings.csv</title>" in page.read_text()
    assert not made.data_dir.exists()


def test_an_error_is_one_line(made, tmp_path):
    path = tmp_path / "bad.csv"
    path.write_text("user_id,item_id,weight\nu,i,1\nv,j,heavy\n")
    done = made.run("evaluate", path, "--recipe", "popularity", check=False)
    assert done.returncode == 2
    assert done.stderr == (
        f"{path}, line 3: weight 'heavy' is not a number. Correct the file; nothing was computed.\n"
    )


def test_tuning_on_files(films):
    report = evaluate(
        *files(films, "few_train", "few_test"),
        *("--recipe", "spectral", "--tune", "--tune-seconds", "3", "--seed", "1"),
    )
    assert report["tuned"]
    assert report["tuning"]["n_tried"] > 1
    assert report["tuning"]["by_split"]
    assert 0 < report["tuning"]["ndcg"] < 1
    assert report["tune_seconds"] > 0
    assert report["versus_popularity"]["ndcg@20"]["difference"] > 0


def test_ctrl_c_goes_on_with_the_best_so_far(made, films):
    command = [BIN / "reckeeper", "evaluate", *files(films, "few_train", "few_test"), "--json"]
    command += ["--recipe", "spectral", "--tune", "--tune-seconds", "3600"]
    process = made.start("evaluate", [str(part) for part in command])
    wait_until(lambda: "While it tunes" in process.text(), f"tuning begins: {process.log}")
    process.interrupt()
    assert process.wait() == 0, process.text()
    report = json.loads(process.text().splitlines()[-1])
    assert report["tuned"]
    assert report["tuning"]["stopped"]


def test_the_stored_interactions(made, capsys):
    if not MOVIELENS.is_dir():
        pytest.skip(f"MovieLens is not in {MOVIELENS}")
    environ = dict.fromkeys(os.environ.keys() - made.environ.keys()) | made.environ
    assert isinstance(run(environ=environ).exception, SchemaError)
    told = made.run("evaluate", check=False)
    assert told.returncode == 2
    assert "reckeeper migrate" in told.stderr
    ratings = some_ratings(made.folder)
    made.run("import", ratings, "--preset", "movielens")
    report = evaluate(environ=environ)
    assert (report["recipe"], report["settings"]) == (
        "svd",
        {"n_components": 10, "weighting": "raw"},
    )
    assert (report["split"], report["n_cuts"]) == ("next", 3)
    assert report["n_test_users"] > 130
    assert report["versus_popularity"]["ndcg@20"]["low"] > 0
    # What is stored is judged as the file that it came from.
    from_file = evaluate(ratings, *COLUMNS, "--recipe", "svd")
    assert from_file["ndcg@20"] == report["ndcg@20"]
    assert from_file["differences"] == report["differences"]
    by_user = evaluate("--split", "user_time", environ=environ)
    assert by_user["n_test_users"] > 270
    assert by_user["versus_popularity"]["ndcg@20"]["low"] > 0
    by_time = evaluate("--recipe", "popularity", "--split", "time", environ=environ)
    assert by_time["n_test_users_unseen"] > 20
    assert evaluate("--split", "random", "--seed", "1", environ=environ)["recall@20"] > 0
    compared = evaluate("--compare", "--tune-seconds", "1", environ=environ)
    assert [row["recipe"] for row in compared["recipes"]] == ["popularity", "svd", "spectral"]
    print_comparison(wire.Evaluation.model_validate(compared))
    shown = capsys.readouterr().out
    assert "spectral" in shown
    assert "reckeeper retrain" in shown


def test_what_is_stored_is_judged_with_the_active_recipe(trained):
    environ = dict.fromkeys(os.environ.keys() - trained.environ.keys()) | trained.environ
    report = evaluate(environ=environ)
    assert (report["recipe"], report["settings"]) == (
        "svd",
        {"n_components": 10, "weighting": "raw"},
    )
    changed = evaluate("--set", "n_components=2", environ=environ)
    assert changed["settings"] == {"n_components": 2, "weighting": "raw"}
    assert report["n_test_users"] == changed["n_test_users"] == 8


def test_a_retrain_takes_recipe_and_settings(trained):
    trained.start_worker()
    trained.start_server()
    told = trained.run("retrain", "--recipe", "svd", "--set", "depth=2", check=False)
    assert told.returncode == 2
    assert "no setting 'depth'" in told.stderr
    made = json.loads(
        trained.run("retrain", "--recipe", "svd", "--set", "n_components=3", "--json").stdout
    )
    assert made["model"]["settings"] == {"n_components": 3, "weighting": "raw"}
    assert trained.active()["settings"] == {"n_components": 3, "weighting": "raw"}
    made = json.loads(trained.run("retrain", "--recipe", "popularity", "--json").stdout)
    assert made["model"]["recipe"] == "popularity"
