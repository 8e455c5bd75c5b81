"""`reckeeper evaluate`: its files, what it asks of a recipe, and how its options go together."""

import gzip
import itertools
import json
import math
import re
import signal
from dataclasses import replace
from datetime import UTC, date, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from reckeeper import evaluation
from reckeeper.cli import evaluation_run as command
from reckeeper.cli.commands import app
from reckeeper.cli.evaluation_files import Columns, read_interactions
from reckeeper.cli.terminal import parse_settings
from reckeeper.errors import DataError, NotEnoughDataError
from reckeeper.evaluation import tasks
from reckeeper.matrix import Histories
from reckeeper.recipes import recipe_named

SECONDS = 1_600_000_000
MICROS = SECONDS * 1_000_000


@pytest.fixture
def csv(tmp_path):
    """Return a function that writes a CSV file, of text or bytes, and gives its path."""

    def write(content, name="some.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.fixture
def parquet(tmp_path):
    """Return a function that writes columns to a Parquet file and gives its path."""

    def write(columns, name="some.parquet"):
        path = tmp_path / name
        pq.write_table(pa.table(columns), path)
        return path

    return write


def read(path):
    return read_interactions(path)[0]


def rows(log):
    """Return the log as it was in the file: user, item, weight."""
    return [
        (log.users.ids[user], log.items.ids[item], weight)
        for user, item, weight in zip(log.user_index, log.item_index, log.weight, strict=True)
    ]


# Files


def test_a_csv_as_people_write_it(csv):
    lines = ['\ufeffweight,note,"item_id",user_id', '2,"a, b",x,é', '0.5,,"y ""z""",日本 🎬']
    text = "\r\n".join([*lines, '1,,"a\nb",é'])
    log, ignored = read_interactions(csv(text))
    assert rows(log) == [("é", "x", 2.0), ("日本 🎬", 'y "z"', 0.5), ("é", "a\nb", 1.0)]
    assert log.users.ids == sorted(log.users.ids)
    assert log.items.ids == sorted(log.items.ids)
    assert log.occurred_at is None
    assert ignored == ["note"]


def test_ids_of_every_type_agree(csv, parquet, tmp_path):
    text = csv("user_id,item_id\n10,-3\n9,4\n")
    packed = tmp_path / "packed.csv.gz"
    packed.write_bytes(gzip.compress(text.read_bytes()))
    expected = [("10", "-3", 1.0), ("9", "4", 1.0)]
    assert rows(read(text)) == rows(read(packed)) == expected
    strings = (pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary())
    types = [pa.int8(), pa.int64(), pa.float32(), pa.float64(), *strings]
    for number, kind in enumerate(types):
        values = [["10", "9"], ["-3", "4"]]
        if kind not in strings:
            values = [[int(value) for value in column] for column in values]
        user, item = (pa.array(column, kind) for column in values)
        log = read(parquet({"user_id": user, "item_id": item}, f"{number}.parquet"))
        assert rows(log) == expected, kind
        if kind in strings[:2]:
            coded = {"user_id": user.dictionary_encode(), "item_id": item.dictionary_encode()}
            assert rows(read(parquet(coded, f"{number}-coded.parquet"))) == expected
    assert read(text).users.ids == ["10", "9"]


def test_ids_are_the_same_in_every_chunk(csv):
    n = 200_000
    users = [f"u{number * 7919 % 1000}" for number in range(n)]
    items = [f"i{number % 313}" for number in range(n)]
    lines = (f"{user},{item}\n" for user, item in zip(users, items, strict=True))
    log = read(csv("user_id,item_id\n" + "".join(lines)))
    assert [log.users.ids[index] for index in log.user_index] == users
    assert [log.items.ids[index] for index in log.item_index] == items


def test_repeated_pairs_are_summed_and_a_weight_may_be_zero(csv):
    log = read(csv("user_id,item_id,weight\nu,i,1\nu,j,0\nu,i,2.5\n"))
    assert len(log) == 3
    matrix = log.matrix()
    assert matrix.weights.toarray().tolist() == [[3.5, 0.0]]
    assert matrix.weights.nnz == 2


WRITTEN = [
    "2020-09-13T12:26:40Z",
    "2020-09-13 12:26:40",
    "2020-09-13t14:26:40.000000000+02:00",
    "2020-09-13T07:56:40-0430",
]


@pytest.mark.parametrize(
    "values",
    [
        pa.array([SECONDS, 5]),
        pa.array([SECONDS, 5], pa.int32()),
        pa.array([float(SECONDS), 5.0]),
        pa.array([SECONDS * 1_000, 5_000]),
        pa.array([MICROS, 5_000_000]),
        pa.array([MICROS * 1_000, 5_000_000_000]),
        pa.array([str(SECONDS), " 5.0 "]),
        pa.array([datetime(2020, 9, 13, 12, 26, 40), datetime(1970, 1, 1, 0, 0, 5)]),
        pa.array([SECONDS * 10**9, 5 * 10**9]).cast(pa.timestamp("ns", "Europe/Berlin")),
        pa.array([SECONDS, 5]).cast(pa.timestamp("s", "UTC")),
        *(pa.array([text, "1970-01-01T00:00:05Z"]) for text in WRITTEN),
    ],
    ids=str,
)
def test_times_in_every_form(parquet, values):
    log = read(parquet({"user_id": ["u", "v"], "item_id": ["i", "j"], "timestamp": values}))
    assert log.occurred_at.dtype == np.int64
    assert log.occurred_at.tolist() == [MICROS, 5_000_000]


def test_days_are_times_too(parquet):
    days = {"user_id": [1], "item_id": [1], "timestamp": [date(2020, 9, 13)]}
    midnight = datetime(2020, 9, 13, tzinfo=UTC).timestamp()
    assert read(parquet(days)).occurred_at.tolist() == [midnight * 1e6]


def test_a_named_column_of_times_must_be_there_unless_times_are_not_needed(csv):
    path, columns = csv("user_id,item_id,timestamp\nu,i,1\n"), Columns(time="at")
    with pytest.raises(DataError, match="has no column 'at'"):
        read_interactions(path, columns=columns)
    log, _ = read_interactions(path, columns=columns, needs_times=False)
    assert log.occurred_at is None


HEADER = "user_id,item_id,weight,timestamp\n"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "is empty"),
        ("a,b\nu,i\n", "has no column 'user_id'; its columns are 'a', 'b'"),
        ("user_id,item_id,user_id\nu,i,v\n", "several columns 'user_id'"),
        (HEADER, "has column names and no rows"),
        (HEADER + "u,i,1,5\n,i,1,5\n", "line 3: user_id is missing"),
        (HEADER + "u,,1,5\n", "line 2: item_id is missing"),
        (HEADER + "u,i,,5\n", "line 2: weight is missing"),
        (HEADER + '"a\nb",i,1,5\nu,i,much,5\n', "line 4: weight 'much' is not a number"),
        (HEADER + "u,i,1,5\nu,i,nan,5\n", "line 3: weight 'nan' is not a finite number"),
        (HEADER + "u,i,-inf,5\n", "line 2: weight '-inf' is not a finite number"),
        (HEADER + "u,i,-1,5\n", "line 2: weight '-1' does not lie between 0 and 1e+12"),
        (HEADER + "u,i,2e12,5\n", "line 2: weight '2e12' does not lie between 0 and 1e+12"),
        (HEADER + "u,i,1,\n", "line 2: timestamp is missing"),
        (HEADER + "u,i,1,noon\n", "line 2: timestamp 'noon' is not a time such as"),
        (HEADER + "u,i,1,5\nu,i,1,noon\n", "line 3: timestamp 'noon' is not a number, as"),
        (HEADER + "u,i,1,2020-01-01\nu,i,1,5\n", "line 3: timestamp '5' is not a time"),
        (HEADER + "u,i,1,2020-02-30\n", "line 2: timestamp '2020-02-30' is not a time"),
        (HEADER + "u,i,1,5\nu,i,1\n", "line 3: has 3 values, but there are 4 columns"),
        (b"user_id,item_id\nu,i\n\xffx,i\n", r"line 3: user_id '\\xffx' is not text in UTF-8"),
    ],
)
def test_one_bad_row_refuses_a_file(csv, content, told):
    with pytest.raises(DataError) as refused:
        read(csv(content))
    assert "some.csv" in refused.value.message
    assert told in refused.value.message


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"user_id": [1, None]}, "row 2: user_id is missing"),
        ({"user_id": [1.0, math.nan]}, "row 2: user_id is missing"),
        ({"item_id": [1.5, 2.0]}, "row 1: item_id '1.5' is not a whole number"),
        ({"item_id": ["a", ""]}, "row 2: item_id is missing"),
        ({"user_id": [True, False]}, "'user_id' has the type bool"),
        ({"weight": [1.0, math.nan]}, "row 2: weight is missing"),
        ({"weight": [math.inf, 1.0]}, "row 1: weight 'inf' is not a finite number"),
        ({"weight": [[1.0], [2.0]]}, "'weight' has the type large_list"),
        ({"timestamp": [SECONDS, None]}, "row 2: timestamp is missing"),
        ({"timestamp": [True, False]}, "'timestamp' has the type bool"),
    ],
)
def test_one_bad_row_refuses_a_parquet_file(parquet, changed, told):
    with pytest.raises(DataError) as refused:
        read(parquet({"user_id": [1, 2], "item_id": [1, 2], **changed}))
    assert told in refused.value.message


def test_numbers_and_written_times_do_not_mix(csv):
    half = 60_000
    numbers, written = "u,i,5\n" * half * 2, "u,i,2020-01-01\n" * half
    with pytest.raises(DataError, match="line 120002: timestamp '2020-01-01' is not a number"):
        read(csv("user_id,item_id,timestamp\n" + numbers + written))
    with pytest.raises(DataError, match="line 60002: timestamp '5' is not a time"):
        read(csv("user_id,item_id,timestamp\n" + written + numbers))


# Trials


def log_of(csv, *pairs):
    return read(csv("user_id,item_id\n" + "".join(f"{user},{item}\n" for user, item in pairs)))


TRAIN = [*(("a", item) for item in "ijk"), ("b", "i"), ("b", "j"), ("c", "i"), ("c", "l")]


class Ranked:
    """A scorer that has the items in the order of their indices."""

    is_personal = False

    def score(self, histories: Histories) -> np.ndarray:
        n, n_items = histories.weights.shape
        return np.tile(-np.arange(n_items, dtype=np.float64), (n, 1))


def figure(quality, name):
    return quality.by_user[f"{name}@{quality.ks[0]}"]


def of_lists(quality, name):
    return quality.of_lists[f"{name}@{quality.ks[0]}"]


def test_what_a_test_file_asks(csv):
    asked = [("a", "i"), ("a", "l"), ("a", "l"), ("b", "k"), ("b", "new"), ("b", "newer")]
    asked += [("c", "new"), ("d", "i"), ("e", "newest")]
    task = tasks.of_logs(log_of(csv, *TRAIN), log_of(csv, *asked))
    assert task.counts() == {
        "split": None,
        "n_users": 3,
        "n_items": 4,
        "n_interactions": 7,
        "n_test_users": 3,
        "n_test_users_unseen": 2,
        "n_test_users_left_out": 2,
        "n_test_items_unseen": 3,
        "n_test_pairs_in_train": 1,
    }
    # Lists: a has l alone; b has k, l; c has j, k.
    quality = task.measure(Ranked(), k=2)
    second = 1 / math.log2(3)
    assert figure(quality, "recall").tolist() == [1.0, pytest.approx(1 / 3), 0.0]
    assert figure(quality, "ndcg").tolist() == [1.0, pytest.approx(1 / (1 + second)), 0.0]
    assert figure(quality, "hit_rate").tolist() == [1.0, 1.0, 0.0]
    assert figure(quality, "map").tolist() == [1.0, pytest.approx(1 / 3), 0.0]
    assert of_lists(quality, "coverage") == 3 / 4  # c gets a list too
    assert of_lists(quality, "novelty") == pytest.approx(
        np.mean([-math.log2(n / 3) for n in (1, 1, 1, 2, 1)])
    )


def test_users_who_did_only_what_they_had_done_before_are_left_out(csv):
    task = tasks.of_logs(log_of(csv, *TRAIN), log_of(csv, ("a", "i"), ("a", "j"), ("b", "l")))
    assert task.counts()["n_test_users"] == 1
    assert task.counts()["n_test_users_left_out"] == 1
    assert task.counts()["n_test_users_unseen"] == 0


def test_what_was_seen_without_taste_is_neither_asked_for_nor_counted(csv):
    told = [*((*pair, 1) for pair in TRAIN), ("c", "j", 0), ("b", "l", 0)]
    asked = [("a", "l", 1), ("b", "k", 0.5), ("c", "k", 0)]
    train, test = (
        read(csv("user_id,item_id,weight\n" + "".join(f"{u},{i},{w}\n" for u, i, w in rows)))
        for rows in (told, asked)
    )
    task = tasks.of_logs(train, test)
    assert task.held_out.toarray().tolist() == [[0, 0, 0, 1], [0, 0, 1, 0]]
    assert (task.counts()["n_test_users"], task.counts()["n_test_users_left_out"]) == (2, 1)
    # Lists: a has l, which one of three users likes; b, who has seen l, has k, which one likes.
    quality = task.measure(Ranked(), k=2)
    assert figure(quality, "precision").tolist() == [0.5, 0.5]
    assert of_lists(quality, "novelty") == pytest.approx(math.log2(3))


def test_new_users_start_from_their_history(csv):
    history = [("d", "i"), ("d", "gone"), ("d", "i"), ("e", "gone"), ("b", "l"), ("x", "j")]
    asked = [("d", "j"), ("d", "i"), ("e", "i"), ("f", "i"), ("a", "l"), ("b", "k")]
    task = tasks.of_logs(log_of(csv, *TRAIN), log_of(csv, *asked), log_of(csv, *history))
    # b: what training has of it, and the history; d: the history. The others have none.
    assert task.histories.weights.toarray().tolist() == [[1, 1, 0, 1], [2, 0, 0, 0]]
    assert task.held_out.toarray().tolist() == [[0, 0, 1, 0], [0, 1, 0, 0]]
    counts = task.counts()
    assert (counts["n_test_users"], counts["n_test_users_unseen"]) == (2, 3)
    assert (counts["n_test_users_left_out"], counts["n_test_pairs_in_train"]) == (3, 1)
    assert counts["n_interactions"] == len(TRAIN)
    # Lists: b has k, which one of three users has; d has j, which two have.
    quality = task.measure(Ranked(), k=1)
    assert figure(quality, "recall").tolist() == [1.0, 1.0]
    assert of_lists(quality, "novelty") == pytest.approx(np.mean([math.log2(3), math.log2(3 / 2)]))


def test_the_order_of_a_history_goes_on_from_training(csv):
    def timed(*rows):
        told = "".join(f"{user},{item},{at}\n" for user, item, at in rows)
        return read(csv("user_id,item_id,timestamp\n" + told))

    train = timed(("a", "i", 1), ("a", "j", 1), ("a", "k", 2), ("b", "i", 7), ("c", "l", 1))
    history = timed(("a", "gone", 5), ("a", "i", 6), ("a", "l", 4), ("c", "i", 1), ("c", "j", 1))
    test = log_of(csv, ("a", "m"), ("a", "j"), ("c", "k"))
    task = tasks.of_logs(train, test, history)
    # a: i at 6, gone at 5, which training does not know, l at 4, k at 2, j at 1.
    assert task.histories.weights.toarray().tolist() == [[2, 1, 1, 1], [1, 1, 0, 1]]
    assert task.histories.n_later.tolist() == [0, 4, 3, 2, 0, 0, 0]
    without = tasks.of_logs(train, test)
    assert without.histories.n_later.tolist() == [1, 1, 0, 0]
    untimed = tasks.of_logs(train, test, log_of(csv, ("a", "l"), ("c", "i")))
    assert untimed.histories.n_later is None


def test_a_pair_that_weighs_nothing_was_seen_all_the_same(csv):
    train = read(csv("user_id,item_id,weight\na,i,0\na,j,1\nb,k,1\n"))
    history = read(csv("user_id,item_id,weight\na,k,0\n"))
    test = log_of(csv, ("a", "i"), ("a", "k"), ("a", "l"))
    task = tasks.of_logs(train, test, history)
    assert task.histories.weights.nnz == 3
    assert task.held_out.nnz == 0
    assert task.n_unseen.tolist() == [1]
    quality = task.measure(Ranked(), k=3)
    assert figure(quality, "recall").tolist() == figure(quality, "ndcg").tolist() == [0.0]


@pytest.mark.parametrize("asked", [[("z", "i")], [("a", "i"), ("b", "j")]])
def test_somebody_must_be_left_to_judge(csv, asked):
    train, test = log_of(csv, *TRAIN), log_of(csv, *asked)
    with pytest.raises(NotEnoughDataError, match="no user to judge") as refused:
        tasks.of_logs(train, test)
    assert "as their history" in refused.value.message


def test_of_a_split_only_users_with_a_past_are_asked(csv):
    lines = "".join(
        f"{user},{item},{time}\n"
        for time, (user, item) in enumerate([*TRAIN, ("a", "new"), ("b", "l"), ("d", "i")])
    )
    log = read(csv("user_id,item_id,timestamp\n" + lines))
    task = tasks.of_split(log, evaluation.split_time(log, share=0.3))
    assert task.counts() == {
        "split": "time",
        "n_users": 3,
        "n_items": 4,
        "n_interactions": 7,
        "n_test_users": 2,
        "n_test_users_unseen": 1,
        "n_test_users_left_out": 1,
        "n_test_items_unseen": 1,
        "n_test_pairs_in_train": 0,
    }
    assert len(task.log) == 7


# The command


def run(*arguments):
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


def told(*arguments):
    done = run(*arguments)
    assert not done.stdout
    assert isinstance(done.exception, DataError), done.exception
    return done.exception.message


def test_options_that_do_not_go_together_are_refused_at_once():
    files = ("--train", "none.csv", "--test", "none.csv")
    assert "none.csv cannot be read" in told(*files)  # svd and spectral are judged
    assert "--train FILE" in told("--test", "none.csv", "--recipe", "svd")
    assert "--train FILE" in told("--history", "none.csv")
    assert "leave out either" in told(
        *files, "--recipe", "svd", "--tune", "--set", "n_components=2"
    )
    assert "add --tune" in told(*files, "--recipe", "svd", "--tune-seconds", "3")
    assert "add --tune" in told(*files, "--recipe", "svd", "--drift", "mild")
    assert "leave out --train" in told("--compare", "--recipe", "svd")
    assert "leave out --train" in told("--compare", "--k", "5")
    assert "leave out FILE" in told(*files, "--split", "time")
    assert "--repeats is for" in told("one.csv", "--repeats", "--split", "random")
    assert "NAME:KEY=VALUE" in told(
        "one.csv", "--recipe", "svd", "--recipe", "spectral", "--set", "n_components=2"
    )
    assert "given twice" in told("one.csv", "--recipe", "svd", "--recipe", "svd")
    assert "its folder is not there" in told("one.csv", "--html", "none/report.html")
    assert "--rating-column is of use only" in told("one.csv", "--rating-column", "stars")
    for bad in ("0", "5,x", "", "1001"):
        assert run("--k", bad).exit_code == 2
    assert run("--split", "magic").exit_code == 2


def test_recipe_and_settings_are_looked_at_before_any_file():
    files = ("--train", "none.csv", "--test", "none.csv")
    assert "There is no recipe 'magic'" in told(*files, "--recipe", "magic")
    svd = (*files, "--recipe", "svd", "--set")
    assert "no setting 'depth'" in told(*svd, "depth=3")
    assert "n_components must be" in told(*svd, "n_components=many")
    assert "not of the form key=value" in told(*svd, "n_components")
    assert "none.csv" in told(*svd, "n_components=3")


def test_values_of_settings_are_what_they_look_like():
    pairs = ["a=1", "b=0.5", "c=true", "d=null", "e=raw", 'f="1"', "g=x=y", "h="]
    assert parse_settings(pairs) == {
        "a": 1,
        "b": 0.5,
        "c": True,
        "d": None,
        "e": "raw",
        "f": "1",
        "g": "x=y",
        "h": "",
    }
    with pytest.raises(DataError, match="twice"):
        parse_settings(["a=1", "a=2"])
    with pytest.raises(DataError, match="key=value"):
        parse_settings(["=1"])


@pytest.fixture
def files(tmp_path):
    """Write a training and a test file of two tastes and give their options."""
    random = np.random.default_rng(0)
    lines = {"train": [], "test": []}
    for user in range(40):
        for place, item in enumerate(random.permutation(range(user % 2, 16, 2))):
            lines["test" if place < 2 else "train"].append(f"u{user},i{item},note\n")
    options = []
    for name, part in lines.items():
        path = tmp_path / f"{name}.csv"
        path.write_text("user_id,item_id,extra\n" + "".join(part))
        options += [f"--{name}", path]
    return options


def test_the_report_has_all_and_stdout_nothing_else(files):
    done = run(*files, "--recipe", "svd", "--set", "n_components=2", "--k", "3", "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    names = ("recall", "ndcg", "hit_rate", "map", "precision", "mrr", "without_hit")
    metrics = [f"{name}@3" for name in names]
    assert (report["recipe"], report["settings"]) == (
        "svd",
        {"n_components": 2, "weighting": "raw"},
    )
    assert (report["tuned"], report["tuning"], report["tune_seconds"]) == (False, None, 0.0)
    assert list(report["intervals"]) == list(report["versus_popularity"]) == metrics
    of_all = [f"{name}@3" for name in ("coverage", "novelty", "gini", "popularity_lift")]
    assert list(report["popularity"]) == [*metrics, *of_all]
    for metric in metrics:
        low, high = report["intervals"][metric]["low"], report["intervals"][metric]["high"]
        assert low <= report[metric] <= high
        difference = report["versus_popularity"][metric]
        assert difference["difference"] == pytest.approx(
            report[metric] - report["popularity"][metric]
        )
        assert difference["low"] <= difference["difference"] <= difference["high"]
    assert report["recall@3"] > 0.9 > report["popularity"]["recall@3"]
    assert report["n_test_users"] == report["n_users"] == 40
    assert report["fit_seconds"] > 0
    assert report["evaluate_seconds"] > 0
    assert report["peak_memory_bytes"] > 10_000_000
    assert "columns not used: extra" in done.stderr
    assert "fitting svd" in done.stderr
    assert "Traceback" not in done.stderr


SHOP = [("u", "i"), ("u", "j"), ("v", "j"), ("v", "k"), ("w", "i"), ("w", "k")]


def test_columns_are_named_as_an_import_names_them(csv):
    text = "who;what;when;stars;act\n"
    text += "".join(f"{u};{i};{n};{n % 5};click\n" for n, (u, i) in enumerate(SHOP))
    text += "u;l;9;5;watchlist_add\nu;l;10;5;watchlist_remove\nv;i;11;5;dismiss\n"
    columns = Columns(
        user="who", item="what", time="when", time_unit="ms", rating="stars", min_rating=3,
        type="act", type_weights={"click": 1.0, "watchlist_add": 2.0}, delimiter=";",
    )  # fmt: skip
    log = read_interactions(csv(text), columns=columns)[0]
    expected = [0, 0, 0, 1, 1, 0, 2, 0, 0]
    assert log.weight.tolist() == expected
    assert log.occurred_at.tolist()[:2] == [0, 1000]
    assert log.listing.tolist() == [0] * 6 + [1, -1, 2]
    tabbed = csv(text.replace(";", "\t"), "shop.tsv")
    for path in (tabbed, csv(text), csv(text.encode("utf-16"), "unicode.txt")):
        log = read_interactions(path, columns=replace(columns, delimiter=None))[0]
        assert log.weight.tolist() == expected
    with pytest.raises(DataError, match="act 'magic' has no weight: use click, dismiss"):
        read_interactions(
            csv("who;what;act\nu;i;magic\n"),
            columns=replace(columns, time=None, rating=None, min_rating=None),
        )
    with pytest.raises(DataError, match=r"no column 'who'.*--user-column names another"):
        read_interactions(csv("user_id,item_id\nu,i\n"), columns=Columns(user="who"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Evaluate one file of two tastes with times, in many ways at once; give report and page."""
    folder = tmp_path_factory.mktemp("whole")
    random = np.random.default_rng(0)
    lines, time = ["user_id,item_id,timestamp"], SECONDS
    for place in range(12):
        for user in range(60):
            items = np.random.default_rng(user).permutation(range(user % 2, 30, 2))
            time += int(random.integers(1, 60))
            lines.append(f"u{user},i{items[place]},{time}")
    file, people = folder / "log.csv", folder / "people.csv"
    file.write_text("\n".join(lines) + "\n")
    people.write_text(
        "user_id,taste,name\n"
        + "".join(f"u{user},{'odd' if user % 2 else 'even'},n{user}\n" for user in range(59))
    )
    page = folder / "report.html"
    done = run(
        *(file, "--recipe", "svd", "--recipe", "svd:n_components=2", "--peers", "--k", "5,3"),
        *("--users-table", people, "--json", "--html", page),
    )
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout), page.read_text(), done.stderr, file


LINES = ["popularity", "svd", "svd:n_components=2", "implicit-als", "implicit-knn", "ease"]


def test_what_the_data_decide_is_told_for_each_cut(whole):
    *_, file = whole
    wanted = ("--recipe", "spectral", "--recipe", "spectral:order=0.5")
    told = json.loads(run(file, *wanted, "--json").stdout)
    _, found, asked = told["recipes"]
    assert len(found["decided"]) == told["n_cuts"]
    assert all(set(one) == {"order"} for one in found["decided"])
    assert found["settings"]["order"] is None
    assert asked["decided"] == []
    assert asked["settings"]["order"] == 0.5
    assert "; decided from the data: order=" in run(file, *wanted).output


def test_several_recipes_and_peers_are_judged_in_one_run(whole):
    report, _, _, _ = whole
    assert [line["label"] for line in report["recipes"]] == LINES
    assert [line["is_peer"] for line in report["recipes"]] == [False] * 3 + [True] * 3
    assert report["recipes"][2]["settings"] == {"n_components": 2, "weighting": "raw"}
    assert (report["split"], report["ks"], report["k"], report["n_cuts"]) == ("next", [3, 5], 5, 3)
    assert "from the history just before it" in report["how"]
    pairs = {(pair["first"], pair["second"]): pair["metrics"] for pair in report["differences"]}
    assert list(pairs) == list(itertools.combinations(LINES, 2))
    means = {line["label"]: line["metrics"] for line in report["recipes"]}
    names = ("recall", "precision", "hit_rate", "ndcg", "map", "mrr", "without_hit", "coverage")
    names += ("novelty", "gini", "popularity_lift")
    assert set(means["ease"]) == {f"{name}@{k}" for name in names for k in (3, 5)}
    for (first, second), found in pairs.items():
        difference = found["ndcg@5"]
        assert difference["difference"] == pytest.approx(
            means[second]["ndcg@5"]["mean"] - means[first]["ndcg@5"]["mean"]
        )
        assert difference["low"] <= difference["difference"] <= difference["high"]
        assert difference["n"] == report["n_test_users"]
    assert pairs["popularity", "svd:n_components=2"]["ndcg@5"]["low"] > 0
    assert pairs["popularity", "ease"]["ndcg@5"]["low"] > 0
    assert report["versus_popularity"] == pairs["popularity", "svd"]


def test_segments_are_of_histories_popularity_and_a_tables_columns(whole):
    report, _, said, _ = whole
    by = {}
    for segment in report["segments"]:
        by.setdefault((segment["of"], segment["by"]), []).append(segment)
    assert list(by) == [("users", "history_length"), ("items", "popularity"), ("users", "taste")]
    tastes = by["users", "taste"]
    assert {segment["name"] for segment in tastes} == {"odd", "even", "not in the table"}
    assert sum(segment["n_users"] for segment in tastes) == report["n_test_users"]
    # Users are the unit, so that the whole is the mean of parts of users.
    for line in LINES:
        total = sum(one["n_users"] * one["metrics"][line]["ndcg@5"]["mean"] for one in tastes)
        mean = next(one for one in report["recipes"] if one["label"] == line)["metrics"]["ndcg@5"]
        assert total / report["n_test_users"] == pytest.approx(mean["mean"])
    assert "nearly every row has its own: name" in said


def test_the_page_has_all_and_loads_nothing(whole):
    report, page, _, _ = whole
    for text in (*LINES, report["how"], "NDCG@5", "Popularity lift@5", "Users by taste", "better"):
        assert text in page
    assert f"{report['recipes'][-1]['metrics']['ndcg@5']['mean']:.4f}" in page
    assert not re.search(r"<script|<link|<img|@import|url\(|https?:", page)
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page


def test_names_in_a_file_are_shown_as_they_are(csv, tmp_path):
    rows = [(user, item) for user in range(8) for item in range(user % 2, 10, 2)]
    names = csv("user_id,kind\n" + "".join(f"{user},<b>x & y\n" for user in range(8)), "t.csv")
    page = tmp_path / "page.html"
    done = run(
        csv("user_id,item_id\n" + "".join(f"{user},{item}\n" for user, item in rows), "<i>.csv"),
        *("--recipe", "popularity", "--users-table", names, "--html", page),
    )
    assert done.exit_code == 0, done.output
    assert "a random fifth of each user's interactions: they carry no times" in done.stdout
    assert "5 such cuts, pooled by user" in done.stdout
    assert "<b>x" not in page.read_text()
    assert "&lt;b&gt;x &amp; y" in page.read_text()
    assert "<i>.csv" not in page.read_text()


def test_other_cuts_and_fewer_users(whole):
    _, _, _, file = whole
    for split in ("user_time", "time", "random"):
        done = run(file, "--recipe", "svd", "--split", split, "--users", 20, "--json")
        report = json.loads(done.stdout)
        assert (report["split"], report["recipe"]) == (split, "svd")
        assert report["how"].endswith("; for 20 users drawn at random")
    again = json.loads(run(file, "--recipe", "svd", "--repeats", "--json").stdout)
    assert (again["split"], again["repeats"]) == ("next", True)


@pytest.fixture
def chains(csv):
    """Return a function that writes 40 users' walks along 10 items, from one time on."""

    def write(name, *, places, at):
        told = "".join(
            f"u{user:02},i{(user + place) % 10},{at + place}\n"
            for user in range(40)
            for place in places
        )
        return csv("user_id,item_id,timestamp\n" + told, name)

    return write


@pytest.mark.parametrize(
    ("at", "order", "told"),
    [
        (100, 0.5, None),
        (1, 0.5, "for 40 of 40 users some of that is earlier than the newest of the history, and "
                 "what spectral:order=0.5 knows of order is about what comes next"),
        (1, 0, None),
        (None, 0.5, "whether that is later than the histories cannot be told without times, and "),
        (None, 0, None),
    ],
)  # fmt: skip
def test_a_test_file_that_is_not_later_is_said_where_order_counts(chains, csv, at, order, told):
    train = chains("train.csv", places=range(4), at=50)
    test = chains("test.csv", places=range(4, 6), at=at or 0)
    if at is None:
        test.write_text(test.read_text().replace("timestamp", "when"))
    done = run(
        *("--train", train, "--test", test, "--recipe", f"spectral:order={order}"),
        *("--recipe", "svd:n_components=3", "--json"),
    )
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert [line["is_ordered"] for line in report["recipes"]] == [False, order > 0, False]
    how = "all interactions in test.csv"
    assert report["how"].startswith(how if told is None else f"{how}; {told}")
    if told is None:
        assert report["how"] == how


def test_of_few_users_something_may_be_earlier(csv):
    def timed(*rows):
        told = "".join(f"{user},{item},{at}\n" for user, item, at in rows)
        return read(csv("user_id,item_id,timestamp\n" + told))

    users = [f"u{number:02}" for number in range(21)]
    train = timed(*((user, item, 10) for user in users for item in "ij"), ("u00", "l", 20))
    later = [(user, "k", 11) for user in users]
    # u00's k is earlier than its l; what u01 has again counts nowhere.
    task = tasks.of_logs(train, timed(*later, ("u01", "i", 1), ("u00", "m", 30)))
    assert task.has_early.tolist() == [True] + [False] * 20
    assert task.lateness(["spectral"]) == ""
    few = task.drawn(1, seed=0)
    assert len(few.has_early) == 1
    early = tasks.of_logs(train, timed(*later, ("u01", "m", 9)))
    assert early.has_early.tolist() == [True] * 2 + [False] * 19
    assert early.lateness(["a", "b"]).startswith("; for 2 of 21 users some of that is earlier")
    assert "what a and b knows" not in early.lateness(["a", "b"])
    assert early.lateness([]) == ""


def test_peers_that_are_not_installed_are_named(whole, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert "reckeeper[peers]" in told(whole[3], "--peers")


def test_a_file_without_taste_and_tables_that_do_not_fit_are_refused(csv):
    plain = csv("user_id,item_id,weight\nu,i,0\nv,j,0\n", "plain.csv")
    assert "weighs more than 0" in told(plain, "--recipe", "svd")
    some = csv("user_id,item_id\n" + "".join(f"{u},{i}\n" for u, i in SHOP), "log.csv")
    table = csv("user_id,kind\nx,1\n", "users.csv")
    assert "is one of the 3 users" in told(some, "--recipe", "svd", "--users-table", table)
    twice = csv("item_id,kind\ni,1\ni,2\n", "items.csv")
    assert "an id twice" in told(some, "--recipe", "svd", "--items-table", twice)
    other = csv("key,kind\ni,1\n", "other.csv")
    assert "one column 'item_id'" in told(some, "--recipe", "svd", "--items-table", other)


def test_the_tables_say_the_same(files):
    done = run(*files, "--recipe", "popularity")
    assert done.exit_code == 0, done.output
    for text in (
        "recall@20",
        "novelty@20",
        "+0.0000",
        "n_test_users_unseen",
        "half_life_days=null",
    ):
        assert text in done.stdout


def test_the_numbers_are_those_of_the_definition(files):
    """Compute recall and NDCG a second time, from dense tables."""
    report = json.loads(run(*files, "--recipe", "svd", "--k", "3", "--json").stdout)
    train, test = read(files[1]), read(files[3])
    model = recipe_named("svd").fit(train.matrix(), settings={})
    weights = train.matrix().weights
    scores = np.where(weights.toarray() > 0, -np.inf, model.score(Histories(weights)))
    recalls, ndcgs = [], []
    for user, name in enumerate(train.users.ids):
        wanted = {item for one, item, _ in rows(test) if one == name}
        best = sorted(range(len(train.items)), key=lambda item: -scores[user, item])[:3]
        hits = [train.items.ids[item] in wanted for item in best]
        discounts = [1 / math.log2(rank + 2) for rank in range(3)]
        recalls.append(sum(hits) / len(wanted))
        ndcgs.append(np.dot(hits, discounts) / sum(discounts[: len(wanted)]))
    assert report["recall@3"] == pytest.approx(np.mean(recalls), abs=1e-12)
    assert report["ndcg@3"] == pytest.approx(np.mean(ndcgs), abs=1e-12)


def test_one_user_is_too_few_to_train_on(csv):
    path = csv("user_id,item_id\nu,i\nu,j\n")
    other = csv("user_id,item_id\nu,k\n", "other.csv")
    assert "at least 2 users" in told("--train", path, "--test", other, "--recipe", "svd")


def test_the_first_ctrl_c_ends_tuning_and_the_second_all():
    with command._Stages() as stages:
        with command._until_ctrl_c(stages) as should_stop:
            assert not should_stop()
            signal.raise_signal(signal.SIGINT)
            assert should_stop()
            assert should_stop()
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_column_that_only_late_objects_have_is_taken_if_named_and_told_if_not(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [{"user_id": f"u{n}", "item_id": "i", "weight": 1} for n in range(5_000)]
    rows += [row | {"when": 1_700_000_000, "timestamp": 1, "stars": 5} for row in rows[:1_000]]
    path.write_text("\n".join(map(json.dumps, rows)))
    log, ignored = read_interactions(path)
    assert (len(log.weight), log.occurred_at) == (6_000, None)
    assert ignored == [
        "timestamp (none before object 5,001 has it; --time-column timestamp takes it)"
    ]
    with pytest.raises(DataError, match=r"a\.jsonl, line 1: when is missing"):
        read_interactions(path, columns=Columns(time="when"))
    with pytest.raises(DataError, match=r"line 1: stars is missing"):
        read_interactions(path, columns=Columns(rating="stars", min_rating=4))
    array = tmp_path / "a.json"
    array.write_text(json.dumps([*rows, {"user_id": "", "item_id": "i", "weight": 1}]))
    with pytest.raises(DataError, match=r"a\.json, element 6001: user_id is missing"):
        read_interactions(array)
    array.write_text('[{"user_id": 1, "item_id": 2}, {"user_id": 1, "item_id" 3}]')
    with pytest.raises(DataError, match=r"a\.json, element 2: is no JSON"):
        read_interactions(array)
