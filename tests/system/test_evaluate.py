"""`reckeeper evaluate` and the options of `retrain`: the real commands, on real data."""

import csv
import json
from collections import defaultdict

import pytest
from tests.system.installation import BIN, MOVIELENS, ROOT, Installation, wait_until

GOWALLA = ROOT.parent / "shared" / "data" / "gowalla"


@pytest.fixture
def made(tmp_path):
    """Give an installation of which nothing exists yet, wide enough for tables."""
    with Installation(tmp_path, COLUMNS="200", PYTHONWARNINGS="error") as made:
        yield made


@pytest.fixture(scope="session")
def films(tmp_path_factory):
    """Write MovieLens as files: split by each user's time, and with a fifth of the users new."""
    if not MOVIELENS.is_dir():
        pytest.skip(f"MovieLens is not in {MOVIELENS}")
    by_user = defaultdict(list)
    with (MOVIELENS / "ratings.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if float(row["rating"]) >= 4:
                by_user[row["userId"]].append((int(row["timestamp"]), row["movieId"]))
    names = ("train", "test", "known", "history", "later")
    parts = {name: ["user_id,item_id,timestamp"] for name in names}
    for number, (user, rows) in enumerate(sorted(by_user.items())):
        rows.sort()
        cut = len(rows) - max(1, len(rows) // 5)
        for place, (time, item) in enumerate(rows):
            line = f"{user},{item},{time}"
            parts["train" if place < cut else "test"].append(line)
            if number % 5:
                parts["known"].append(line)
            else:
                parts["history" if place < len(rows) / 2 else "later"].append(line)
    folder = tmp_path_factory.mktemp("films")
    for name, lines in parts.items():
        (folder / f"{name}.csv").write_text("\n".join(lines))
    return folder


def evaluate(made, *arguments):
    done = made.run("evaluate", *arguments, "--json")
    assert done.stdout.count("\n") == 1
    return json.loads(done.stdout)


def files(folder, *names):
    options = ("--train", "--test", "--history")
    return [
        part
        for option, name in zip(options, names, strict=False)
        for part in (option, folder / f"{name}.csv")
    ]


def test_gowalla(made):
    if not GOWALLA.is_dir():
        pytest.skip(f"Gowalla is not in {GOWALLA}")
    report = evaluate(
        made,
        *("--train", GOWALLA / "train.parquet", "--test", GOWALLA / "test.parquet"),
        *("--recipe", "svd"),
    )
    assert report["settings"] == {"n_components": 10}
    assert (report["n_users"], report["n_items"]) == (29_858, 40_981)
    assert (report["n_interactions"], report["n_test_users"]) == (810_128, 29_858)
    # By scipy's svds and a loop over users, apart from all code here.
    assert report["recall@20"] == pytest.approx(0.0652515166, abs=1e-5)
    assert report["ndcg@20"] == pytest.approx(0.0604393909, abs=1e-5)
    assert report["popularity"]["recall@20"] == pytest.approx(0.04163, abs=1e-5)
    assert report["versus_popularity"]["ndcg@20"]["low"] > 0.02
    assert report["peak_memory_bytes"] < 3e9


def test_users_whom_training_knows(made, films):
    report = evaluate(made, *files(films, "train", "test"), "--recipe", "svd")
    assert report["n_test_users"] + report["n_test_users_left_out"] == 671
    assert report["n_test_users_unseen"] == report["n_test_users_left_out"]
    assert report["n_test_items_unseen"] > 100
    assert report["versus_popularity"]["ndcg@20"]["low"] > 0
    again = evaluate(made, *files(films, "train", "test"), "--recipe", "svd")
    timed = {"fit_seconds", "evaluate_seconds", "peak_memory_bytes"}
    assert {key: value for key, value in again.items() if key not in timed} == {
        key: value for key, value in report.items() if key not in timed
    }


def test_users_whom_training_never_saw(made, films):
    report = evaluate(made, *files(films, "known", "later", "history"), "--recipe", "svd")
    assert report["n_test_users_unseen"] == 135
    assert report["n_test_users"] + report["n_test_users_left_out"] == 135
    assert report["n_test_users"] > 130
    assert report["recall@20"] > report["popularity"]["recall@20"]
    done = made.run(
        "evaluate", *files(films, "known", "later"), "--recipe", "svd", "--json", check=False
    )
    assert done.returncode == 2
    assert not done.stdout
    assert "--history" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_error_is_one_line(made, tmp_path):
    path = tmp_path / "bad.csv"
    path.write_text("user_id,item_id,weight\nu,i,1\nv,j,heavy\n")
    done = made.run(
        "evaluate", "--train", path, "--test", path, "--recipe", "popularity", check=False
    )
    assert done.returncode == 2
    assert done.stderr == (
        f"{path}, line 3: weight 'heavy' is not a number. Correct the file; nothing was computed.\n"
    )


def test_tuning_on_files(made, films):
    report = evaluate(
        made,
        *files(films, "train", "test"),
        *("--recipe", "spectral", "--tune", "--tune-seconds", "30", "--seed", "1"),
    )
    assert report["tuned"]
    assert report["tuning"]["n_tried"] > 1
    assert report["tuning"]["by_split"]
    assert 0 < report["tuning"]["ndcg"] < 1
    assert report["tune_seconds"] > 0
    assert report["versus_popularity"]["ndcg@20"]["low"] > 0


def test_ctrl_c_goes_on_with_the_best_so_far(made, films):
    command = [BIN / "reckeeper", "evaluate", *files(films, "train", "test"), "--json"]
    command += ["--recipe", "spectral", "--tune", "--tune-seconds", "3600"]
    process = made.start("evaluate", [str(part) for part in command])
    wait_until(lambda: "While it tunes" in process.text(), f"tuning begins: {process.log}")
    process.interrupt()
    assert process.wait() == 0, process.text()
    report = json.loads(process.text().splitlines()[-1])
    assert report["tuned"]
    assert report["tuning"]["stopped"]


def test_the_stored_interactions(made):
    if not MOVIELENS.is_dir():
        pytest.skip(f"MovieLens is not in {MOVIELENS}")
    told = made.run("evaluate", check=False)
    assert told.returncode == 2
    assert "reckeeper migrate" in told.stderr
    made.run("import", MOVIELENS / "ratings.csv", "--preset", "movielens")
    report = evaluate(made)
    assert (report["recipe"], report["settings"]) == ("svd", {"n_components": 10})
    assert report["split"] == "user_time"
    assert report["n_test_users"] > 600
    assert report["versus_popularity"]["ndcg@20"]["low"] > 0
    by_time = evaluate(made, "--recipe", "popularity", "--split", "time")
    assert by_time["n_test_users_unseen"] > 50
    assert evaluate(made, "--split", "random", "--seed", "1")["recall@20"] > 0
    compared = evaluate(made, "--compare", "--tune-seconds", "5")
    assert [row["recipe"] for row in compared["recipes"]] == ["popularity", "svd", "spectral"]
    shown = made.run("evaluate", "--compare", "--tune-seconds", "5").stdout
    assert "spectral" in shown
    assert "reckeeper retrain" in shown


def test_what_is_stored_is_judged_with_the_active_recipe(trained):
    report = evaluate(trained)
    assert (report["recipe"], report["settings"]) == ("svd", {"n_components": 10})
    changed = evaluate(trained, "--set", "n_components=2")
    assert changed["settings"] == {"n_components": 2}
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
    assert made["model"]["settings"] == {"n_components": 3}
    assert trained.active()["settings"] == {"n_components": 3}
    made = json.loads(trained.run("retrain", "--recipe", "popularity", "--json").stdout)
    assert made["model"]["recipe"] == "popularity"
