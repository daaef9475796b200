import json
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler
from skorch.callbacks import Callback

from sksubtomo import ContrastivePretrainer, LabelFractionClassifier, RB3DClassifier
from sksubtomo.model_selection import (
    LabelFractionDisplay,
    _comparison,
    corrected_t_test,
    label_fraction_curve,
)


class LogRows(ContrastivePretrainer):
    """Write a line for each fit: its seed, and the rows by their first voxels."""

    log = None

    def fit(self, X, y=None):
        assert y is None
        rows = np.asarray(X).reshape(len(X), -1)[:, 0]
        with open(self.log, "a") as file:
            file.write(json.dumps([self.random_state, rows.tolist()]) + "\n")
        return super().fit(X)


class Recorder(ClassifierMixin, BaseEstimator):
    """Keep what each fit was given; predict the class of the nearest first voxel."""

    fits = []

    def __init__(self, name="", random_state=None):
        self.name = name
        self.random_state = random_state

    def fit(self, X, y):
        return self._record(X, y, None)

    def _record(self, X, y, validation_data):
        self.classes_ = np.unique(y)
        self.first_ = X.reshape(len(X), -1)[:, 0]
        self.y_ = np.asarray(y)
        self.fits.append((self, self.first_, self.y_, validation_data))
        return self

    def predict(self, X):
        distances = abs(X.reshape(len(X), -1)[:, :1] - self.first_)
        return self.y_[distances.argmin(axis=1)]


class FullRecorder(Recorder):
    """A recorder that takes unlabelled rows and validation data."""

    def __init__(
        self, name="", random_state=None, unlabeled=None, validation_fraction=None
    ):
        super().__init__(name=name, random_state=random_state)
        self.unlabeled = unlabeled
        self.validation_fraction = validation_fraction

    def fit(self, X, y, validation_data=None):
        return self._record(X, y, validation_data)


@pytest.fixture(autouse=True)
def records(monkeypatch):
    monkeypatch.setattr(Recorder, "fits", [])
    return Recorder


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Let workers, which get this process's path, import this module."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2])


@pytest.fixture
def logged(tmp_path, monkeypatch):
    """Return a function that reads what pretrainings wrote."""
    monkeypatch.setattr(LogRows, "log", tmp_path / "pretrainings")

    def read():
        lines = (tmp_path / "pretrainings").read_text().splitlines()
        return [json.loads(line) for line in lines]

    return read


def make_data(n_per_class=10, classes="ab", side=4):
    """Volumes of noise, each known by its first voxel."""
    rng = np.random.default_rng(0)
    y = np.repeat(list(classes), n_per_class)
    X = rng.normal(size=(len(y), side, side, side)).astype(np.float32)
    return X, y


def pretrained(method="simclr", **parameters):
    return LogRows(method, max_epochs=1, **parameters)


def fast(pretrainer=None, **parameters):
    return RB3DClassifier(pretrainer, max_epochs=1, **parameters)


def curve_of(estimators, X, y, **changes):
    parameters = {"label_fractions": (0.5, 1.0), "n_repeats": 2, "random_state": 0}
    return label_fraction_curve(estimators, X, y, **(parameters | changes))


def rows_of(X, first):
    """Return the rows of X with the given first voxels."""
    return np.flatnonzero(np.isin(X[:, 0, 0, 0], np.asarray(first, np.float32)))


# --- pretraining ------------------------------------------------------------------


def test_pretrains_once_a_method_on_the_training_part_only(logged):
    X, y = make_data()
    linear = LogisticRegression(max_iter=500)
    curve = curve_of(
        {
            "random": fast(),
            "simclr": fast(pretrained()),
            "probe": make_pipeline(pretrained("moco"), linear),
        },
        X,
        y,
        labels_per_class=2,
    )
    assert len(curve.rows_) == 3 * 3 * 2
    (split,) = curve.splits_
    fits = logged()
    assert len(fits) == 2
    for seed, rows in fits:
        np.testing.assert_array_equal(rows_of(X, rows), split.train)
        assert seed == fits[0][0]
    parts = np.concatenate([split.train, split.validation, split.test])
    np.testing.assert_array_equal(np.sort(parts), np.arange(len(X)))
    assert [len(split.train), len(split.validation), len(split.test)] == [12, 4, 4]
    assert set(curve.pretraining_seconds_) == {"simclr", "probe"}
    assert all(curve.pretraining_seconds_["simclr"] > 0)


def test_resplit_pretrains_for_each_repeat(logged):
    X, y = make_data()
    curve = curve_of({"simclr": fast(pretrained())}, X, y, n_repeats=3, resplit=True)
    fits = logged()
    assert len(fits) == len(curve.splits_) == 3
    assert len({seed for seed, _ in fits}) == 3
    for (_, rows), split in zip(fits, curve.splits_, strict=True):
        np.testing.assert_array_equal(rows_of(X, rows), split.train)
    tests = {tuple(split.test.tolist()) for split in curve.splits_}
    assert len(tests) == 3
    assert [(row.split, row.repeat) for row in curve.rows_[:3]] == [
        (0, 0),
        (1, 1),
        (2, 2),
    ]


def test_pretrains_on_what_the_steps_before_leave(logged):
    X, y = make_data()
    X *= 2
    flat = X.reshape(len(X), -1)
    scaled = MaxAbsScaler()
    curve = curve_of(
        {"piped": make_pipeline(scaled, fast(pretrained()))}, flat, y, n_repeats=1
    )
    ((_, rows),) = logged()
    expected = scaled.fit_transform(flat[curve.splits_[0].train])[:, 0]
    np.testing.assert_allclose(rows, expected, rtol=1e-6)


def test_classifier_says_what_flat_rows_stand_for(logged):
    X, y = make_data()
    flat = X.reshape(len(X), -1)
    model = fast(pretrained(), volume_shape=(2, 4, 8))
    curve = curve_of({"a": model}, flat, y, n_repeats=1)
    assert len(logged()) == 1
    assert len(curve.rows_) == 2


def test_equal_pretrainers_are_fitted_once(logged):
    X, y = make_data()
    curve = curve_of(
        {"fast": fast(pretrained()), "slow": fast(pretrained(), lr=1e-4)}, X, y
    )
    assert len(logged()) == 1
    assert len(curve.rows_) == 8


def test_frozen_pretrainers_are_used_as_they_are(logged):
    X, y = make_data()
    frozen = FrozenEstimator(pretrained(random_state=0).fit(X))
    curve = curve_of({"frozen": fast(frozen)}, X, y, n_repeats=1)
    assert len(logged()) == 1
    assert curve.pretraining_seconds_ == {}


def test_a_given_cache_is_used(tmp_path, logged):
    X, y = make_data()
    for _ in range(2):
        curve_of({"simclr": fast(pretrained())}, X, y, memory=str(tmp_path / "m"))
    assert len(logged()) == 1


def test_nothing_is_left_without_a_folder(tmp_path, monkeypatch, logged):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    X, y = make_data()
    curve_of({"simclr": fast(pretrained())}, X, y)
    assert [path.name for path in tmp_path.iterdir()] == ["pretrainings"]


# --- labels and seeds -------------------------------------------------------------


def test_methods_share_labels_and_seeds_within_a_repeat(records):
    X, y = make_data(n_per_class=20)
    curve = curve_of(
        {"a": Recorder("a", random_state=7), "b": FullRecorder("b")}, X, y, n_repeats=3
    )
    seen = {}
    for model, first, labels, _ in records.fits:
        known = labels != -1
        rows = rows_of(X, first[known])
        assert set(rows) <= set(curve.splits_[0].train)
        key = (len(rows), tuple(rows))
        seen.setdefault(key, []).append((model.name, model.random_state))
    # Three subsets at half of the labels, and always the same at all.
    assert sorted(n for n, _ in seen) == [12, 12, 12, 24]
    for (n, _), fits in seen.items():
        seeds = {seed for _, seed in fits}
        assert len(seeds) == (1 if n == 12 else 3)
        for seed in seeds:
            assert sorted(name for name, s in fits if s == seed) == ["a", "b"]


def test_a_smaller_fraction_is_part_of_a_larger(records):
    X, y = make_data(n_per_class=20)
    curve_of({"a": Recorder()}, X, y, label_fractions=(0.25, 0.5), n_repeats=1)
    few, many = sorted((set(fit[1]) for fit in records.fits), key=len)
    assert few < many


def test_rows_count_their_labels():
    X, y = make_data(n_per_class=40)
    y[:20] = "b"  # 20 and 60
    curve = curve_of({"a": Recorder()}, X, y, labels_per_class=[3, 12], n_repeats=1)
    counted = [(row.label_fraction, row.labels_per_class) for row in curve.rows_]
    assert counted == [(0.125, 3), (0.5, 6), (0.5, 12), (1.0, 12)]
    np.testing.assert_array_equal(curve.labels_per_class_, [3, 6, 12, 12])


def test_numbers_that_come_to_the_same_labels_are_fitted_once():
    X, y = make_data(n_per_class=20)
    curve = curve_of({"a": Recorder()}, X, y, labels_per_class=[6, 50], n_repeats=1)
    assert [row.label_fraction for row in curve.rows_] == [0.5, 1.0]


def test_validation_labels_from_twenty_a_class(records):
    X, y = make_data(n_per_class=35)
    curve = curve_of(
        {
            "plain": Recorder("plain"),
            "full": FullRecorder("full"),
            "own": FullRecorder("own", validation_fraction=0.1),
        },
        X,
        y,
        label_fractions=(),
        labels_per_class=(19, 20),
        n_repeats=1,
    )
    counted = {
        (row.method, row.labels_per_class): row.validation_labels for row in curve.rows_
    }
    assert counted == {
        ("plain", 19): 0,
        ("plain", 20): 0,
        ("full", 19): 0,
        ("full", 20): 14,
        ("own", 19): 0,
        ("own", 20): 0,
    }
    validation = curve.splits_[0].validation
    for model, _, labels, given in records.fits:
        used = model.name == "full" and np.sum(labels != -1) == 40
        assert (given is not None) == used
        if used:
            np.testing.assert_array_equal(given[0], X[validation])
            assert np.bincount(given[1]).tolist() == [7, 7]


def test_without_a_validation_part_all_is_for_training():
    X, y = make_data()
    curve = curve_of({"a": Recorder()}, X, y, validation_size=0)
    (split,) = curve.splits_
    assert (len(split.train), len(split.validation), len(split.test)) == (16, 0, 4)


def test_unlabelled_rows_are_trained_on_and_never_tested(records, logged):
    X, y = make_data(n_per_class=20)
    y[::4] = "?"
    curve = curve_of(
        {
            "plain": Recorder("plain"),
            "full": FullRecorder("full", unlabeled="?"),
            "simclr": fast(pretrained()),
        },
        X,
        y,
        unlabeled="?",
        n_repeats=1,
    )
    (split,) = curve.splits_
    marked = np.flatnonzero(y == "?")
    assert set(marked) < set(split.train)
    ((_, rows),) = logged()
    np.testing.assert_array_equal(rows_of(X, rows), split.train)
    for model, first, labels, _ in records.fits:
        if model.name == "plain":
            assert not set(marked) & set(rows_of(X, first))
        else:
            np.testing.assert_array_equal(rows_of(X, first), split.train)
            assert (labels[np.isin(split.train, marked)] == -1).all()
    assert [row.labels_per_class for row in curve.rows_] == [4] * 3 + [9] * 3


# --- splits -----------------------------------------------------------------------


def parts_of(split):
    return [split.train, split.validation, split.test]


def assert_groups_are_whole(curve, groups):
    for split in curve.splits_:
        train, validation, test = (set(groups[part]) for part in parts_of(split))
        assert train
        assert test
        assert not train & validation
        assert not train & test
        assert not validation & test


@pytest.mark.parametrize("cv", [None, 3, GroupKFold(3)])
@pytest.mark.parametrize("n_groups", [4, 9])
def test_groups_are_never_split(cv, n_groups):
    X, y = make_data(n_per_class=30, classes="abc")
    groups = np.random.default_rng(1).integers(n_groups, size=len(y))
    y[::7] = "?"
    curve = curve_of(
        {"a": Recorder()},
        X,
        y,
        groups=groups,
        cv=cv,
        unlabeled="?",
        n_repeats=1,
        label_fractions=(1.0,),
    )
    assert_groups_are_whole(curve, groups)
    assert len(curve.splits_) == (1 if cv is None else 3)
    for split in curve.splits_:
        assert all(len(part) for part in parts_of(split))
        assert "?" in y[split.train]
        assert "?" not in y[np.concatenate([split.validation, split.test])]


def test_one_number_of_labels(records):
    X, y = make_data(n_per_class=10)
    one, many = (
        curve_of({"a": Recorder()}, X, y, label_fractions=half, labels_per_class=two)
        for half, two in ((0.5, 2), ([0.5], [2]))
    )
    assert one.summary().equals(many.summary())
    assert len(one.summary()) == 2


def test_groups_are_resplit(records):
    X, y = make_data(n_per_class=30)
    groups = np.arange(len(y)) % 10
    curve = curve_of({"a": Recorder()}, X, y, groups=groups, resplit=True, n_repeats=3)
    assert_groups_are_whole(curve, groups)
    assert len({tuple(split.test.tolist()) for split in curve.splits_}) > 1


def test_a_splitter_that_tears_groups_apart_is_refused():
    X, y = make_data()
    folds = StratifiedKFold(2, shuffle=True, random_state=0).split(X, y)
    with pytest.raises(ValueError, match=r"cv puts volumes of group \d into both"):
        curve_of({"a": Recorder()}, X, y, groups=np.arange(len(y)) % 4, cv=folds)


@pytest.mark.parametrize("validation_size", [0, 0.2])
def test_a_test_part_that_is_trained_on_is_refused(validation_size):
    X, y = make_data()
    rows = np.arange(len(y))
    folds = [(rows[:12], rows[12:]), (rows, rows[6:14])]
    with pytest.raises(ValueError, match="cv puts 8 rows, the first of them 6, into"):
        curve_of({"a": Recorder()}, X, y, cv=folds, validation_size=validation_size)


def test_a_class_in_one_group_is_named():
    X, y = make_data(classes="ab")
    groups = np.where(y == "a", 0, np.arange(len(y)) % 4)
    with pytest.raises(ValueError, match="class 'a' has no labelled volume in the tr"):
        curve_of({"a": Recorder()}, X, y, groups=groups, cv=GroupKFold(4))


def test_a_splitter_gives_the_test_parts(logged):
    X, y = make_data(n_per_class=15)
    folds = StratifiedKFold(3, shuffle=True, random_state=1)
    curve = curve_of({"simclr": fast(pretrained())}, X, y, cv=folds)
    for split, (train, test) in zip(curve.splits_, folds.split(X, y), strict=True):
        np.testing.assert_array_equal(split.test, test)
        rest = np.sort(np.concatenate([split.train, split.validation]))
        np.testing.assert_array_equal(rest, train)
        assert len(split.validation) == 6
    assert len(logged()) == 3
    assert [(r.split, r.repeat) for r in curve.rows_[:6]] == list(np.ndindex(3, 2))
    assert curve.scores_["simclr"].shape == (2, 6)


def test_splits_of_other_sizes_are_one_point_of_the_curve():
    X, y = make_data(n_per_class=20)
    folds = [(np.arange(4, 40), np.arange(4)), (np.arange(0, 32), np.arange(32, 40))]
    curve = curve_of(
        {"a": Recorder(), "b": Recorder()}, X, y, cv=folds, validation_size=0
    )
    exact = {(row.split, row.labels_per_class) for row in curve.rows_}
    assert exact == {(0, 8), (1, 6), (0, 16), (1, 12)}
    np.testing.assert_array_equal(curve.labels_per_class_, [6, 12])
    summary = curve.summary()
    assert summary["n_repeats"].tolist() == [4] * 4
    assert summary["labels_per_class"].tolist() == [6, 6, 12, 12]


# --- processes --------------------------------------------------------------------


def deterministic_frame(curve):
    return curve.to_frame().drop(columns="seconds")


class LogFits(Callback):
    """Write a line for each fit, wherever it runs."""

    def __init__(self, path):
        self.path = str(path)

    def on_train_begin(self, net, X=None, **kwargs):
        with open(self.path, "a") as file:
            file.write("fit\n")


@pytest.mark.parametrize("backend", ["loky", "threading", "multiprocessing"])
def test_results_do_not_depend_on_the_backend(tmp_path, backend):
    X, y = make_data()
    pretrainer = ContrastivePretrainer(
        max_epochs=1, callbacks=[LogFits(tmp_path / "log")]
    )
    estimators = {"random": fast(), "simclr": fast(pretrainer)}
    serial = curve_of(estimators, X, y)
    # Accuracies that are all alike would hide a mistake.
    assert serial.to_frame()["accuracy"].nunique() > 1
    with joblib.parallel_config(backend, n_jobs=2):
        parallel = curve_of(estimators, X, y)
    assert deterministic_frame(parallel).equals(deterministic_frame(serial))
    assert (tmp_path / "log").read_text().count("fit") == 2


def test_global_state_is_left_alone():
    X, y = make_data()
    before = np.random.get_state()[1].copy(), torch.random.get_rng_state()
    filters = list(warnings.filters)
    with joblib.parallel_config("threading", n_jobs=2):
        curve_of({"a": fast()}, X, y, n_repeats=1, random_state=None)
    curve_of({"a": fast()}, X, y, n_repeats=1, random_state=None)
    np.testing.assert_array_equal(np.random.get_state()[1], before[0])
    assert torch.equal(torch.random.get_rng_state(), before[1])
    assert list(warnings.filters) == filters


# --- what is kept -----------------------------------------------------------------


class Slow(LogisticRegression):
    seconds = 0.0
    n_fits = 0

    def fit(self, X, y):
        time.sleep(Slow.seconds)
        Slow.n_fits += 1
        return super().fit(X, y)


def slow_curve(folder):
    rng = np.random.default_rng(0)
    y = np.repeat(["a", "b"], 20)
    X = rng.normal(size=(40, 3)) + (y == "b")[:, None]
    estimators = {"l2": Slow(), "strong": Slow(C=0.01)}
    return curve_of(
        estimators, X, y, label_fractions=(0.1, 0.5), n_repeats=3, folder=folder
    )


def test_a_killed_curve_is_continued(tmp_path):
    module = __name__.rpartition(".")
    code = (
        f"from {module[0]} import {module[2]} as m; m.Slow.seconds = 0.5; "
        f"m.slow_curve({str(tmp_path / 'killed')!r})"
    )
    root = Path(__file__).parents[2]
    killed = subprocess.Popen([sys.executable, "-c", code], cwd=root)
    cells = tmp_path / "killed" / "cells"
    deadline = time.monotonic() + 300
    while len(list(cells.glob("*.json"))) < 3:
        assert killed.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    kept = {path: path.read_bytes() for path in cells.glob("*.json")}
    assert 3 <= len(kept) < 12

    before = Slow.n_fits
    resumed = slow_curve(tmp_path / "killed")
    assert Slow.n_fits - before == 12 - len(kept)
    assert all(path.read_bytes() == content for path, content in kept.items())
    assert deterministic_frame(resumed).equals(deterministic_frame(slow_curve(None)))
    assert resumed.to_frame()["accuracy"].nunique() > 1


def test_only_what_is_missing_is_computed(tmp_path, records, logged):
    X, y = make_data()

    def run(estimators, X=X, y=y, **changes):
        done = len(records.fits)
        curve = curve_of(estimators, X, y, folder=tmp_path / "f", **changes)
        return len(records.fits) - done, curve

    n, first = run({"a": Recorder("x"), "b": Recorder("y")})
    assert n == 8
    n, again = run({"a": Recorder("x"), "b": Recorder("y")})
    assert n == 0
    assert again.rows_ == first.rows_
    # Known by its parameters, and not by its name.
    n, renamed = run({"other": Recorder("x"), "b": Recorder("z")})
    assert n == 4
    np.testing.assert_array_equal(renamed.scores_["other"], first.scores_["a"])
    assert renamed.rows_[0].method == "other"
    assert run({"a": Recorder("x")}, n_repeats=3)[0] == 2
    assert run({"a": Recorder("x")}, random_state=1)[0] == 4
    changed = X.copy()
    changed[3, 1, 1, 1] += 1
    assert run({"a": Recorder("x")}, X=changed)[0] == 4
    assert run({"a": Recorder("x")}, y=np.where(y == "a", "c", y))[0] == 4
    assert run({"a": Recorder("x")}, test_size=0.3)[0] == 4
    assert run({"a": Recorder("x")}, n_jobs=1, verbose=0)[0] == 0


def test_another_version_computes_again(tmp_path, records, monkeypatch):
    X, y = make_data()
    curve_of({"a": Recorder()}, X, y, folder=tmp_path)
    monkeypatch.setattr(_comparison, "__version__", "99")
    curve_of({"a": Recorder()}, X, y, folder=tmp_path)
    assert len(records.fits) == 8


def test_pretraining_is_kept_in_the_folder(tmp_path, logged):
    X, y = make_data()
    estimators = {"simclr": fast(pretrained())}
    first = curve_of(estimators, X, y, folder=tmp_path / "f")
    for path in list((tmp_path / "f" / "cells").glob("*.json"))[:2]:
        path.unlink()
    again = curve_of(estimators, X, y, folder=tmp_path / "f")
    assert len(logged()) == 1
    assert deterministic_frame(again).equals(deterministic_frame(first))
    # What does not change the result is no reason to do it again.
    quiet = {"simclr": fast(pretrained(), memory="elsewhere")}
    assert curve_of(quiet, X, y, folder=tmp_path / "f").rows_ == again.rows_
    assert curve_of({"moco": fast(pretrained("moco"))}, X, y, folder=tmp_path / "f")
    assert len(logged()) == 2


@pytest.mark.parametrize("text", ["", "{", "[]", '{"accuracy": 2, "seconds": 1}'])
def test_a_damaged_file_is_computed_again(tmp_path, records, text):
    X, y = make_data()
    first = curve_of({"a": Recorder()}, X, y, folder=tmp_path)
    path, *_ = (tmp_path / "cells").glob("*.json")
    path.write_text(text)
    again = curve_of({"a": Recorder()}, X, y, folder=tmp_path)
    assert len(records.fits) == 5
    np.testing.assert_array_equal(again.scores_["a"], first.scores_["a"])


def test_files_say_what_they_are(tmp_path):
    X, y = make_data()
    curve = curve_of({"a": Recorder()}, X, y, folder=tmp_path)
    files = [json.loads(path.read_text()) for path in (tmp_path / "cells").iterdir()]
    key = ("label_fraction", "repeat")
    stored = {tuple(file[name] for name in key): file["accuracy"] for file in files}
    assert stored == {(r.label_fraction, r.repeat): r.accuracy for r in curve.rows_}


def test_a_folder_needs_a_seed_and_is_no_file(tmp_path):
    X, y = make_data()
    with pytest.raises(ValueError, match="random_state=None; expected an int"):
        curve_of({"a": Recorder()}, X, y, folder=tmp_path, random_state=None)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        curve_of({"a": Recorder()}, X, y, folder=tmp_path / "file")


# --- errors and warnings ----------------------------------------------------------


class Failing(Recorder):
    error = ValueError("no such thing")

    def fit(self, X, y):
        if len(y) == 12:
            raise self.error
        return super().fit(X, y)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_an_error_names_the_fit(n_jobs):
    X, y = make_data()
    expected = (
        r"^fitting bad on 12 labels \(label_fraction=1\), split 0, repeat 0: no such"
    )
    with pytest.raises(ValueError, match=expected):
        curve_of({"bad": Failing()}, X, y, n_repeats=1, n_jobs=n_jobs)


def test_an_error_of_another_form_keeps_its_form(monkeypatch):
    X, y = make_data()
    monkeypatch.setattr(Failing, "error", OSError(5, "disk"))
    with pytest.raises(OSError, match="disk") as caught:
        curve_of({"bad": Failing()}, X, y, n_repeats=1)
    assert caught.value.errno == 5
    assert "fitting bad" in caught.value.__notes__[0]


def test_an_error_names_the_pretraining():
    X, y = make_data()
    model = fast(ContrastivePretrainer(max_epochs=5, lr=1e20))
    with pytest.raises(FloatingPointError, match=r"^pretraining moco, split 0: "):
        curve_of({"moco": model}, X, y)


class Odd(Callback):
    def on_train_begin(self, net, X=None, **kwargs):
        warnings.warn("something odd", ConvergenceWarning, stacklevel=2)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_warnings_say_where_they_are_from_and_come_once(n_jobs):
    X, y = make_data()
    model = fast(pretrainer=None, callbacks=[Odd()])
    with pytest.warns(ConvergenceWarning, match="^fitting a: something odd$") as caught:
        label_fraction_curve(
            {"a": model, "b": fast()}, X, y, n_repeats=2, n_jobs=n_jobs
        )
    assert len(caught) == 1
    line = Path(caught[0].filename).read_text().splitlines()[caught[0].lineno - 1]
    assert "label_fraction_curve(" in line


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"estimators": {}}, "estimators={}; expected a dict"),
        ({"estimators": {"a": Recorder}}, r"estimators\['a'\] is .*Recorder"),
        ({"estimators": {"a": 3}}, "'a'"),
        ({"estimators": {"a": LabelFractionClassifier(Recorder())}}, "hidden already"),
        ({"label_fractions": (0.0,)}, "label_fractions holds 0.0"),
        ({"label_fractions": (1.5,)}, "label_fractions holds 1.5"),
        ({"labels_per_class": 0}, "labels_per_class holds 0"),
        ({"label_fractions": ()}, "both empty"),
        ({"label_fractions": "0.5"}, "label_fractions='0.5'; expected a sequence"),
        ({"labels_per_class": 2.5}, "labels_per_class=2.5; expected a sequence"),
        ({"cv": "kfold"}, "cv='kfold'; expected a number of folds"),
        (
            {"estimators": {"x": RB3DClassifier(unlabeled="?")}},
            r"estimators\['x'\] has unlabeled='\?', but unlabeled=None was given",
        ),
        ({"n_repeats": 0}, "n_repeats=0"),
        ({"test_size": 0.9}, "test_size=0.9 and validation_size=0.2"),
        ({"test_size": 0.0}, "test_size=0.0"),
        ({"cv": 3, "resplit": True}, "resplit=True was given with cv=3"),
        ({"cv": 3, "validation_size": 0.7}, "validation_size=0.7"),
        ({"baseline": "c"}, r"baseline='c'; expected one of \['a'\]"),
        ({"unlabeled": 3}, "unlabeled=3"),
        ({"y": ["a"] * 20}, "all 20 volumes are of class 'a'"),
        ({"y": ["a"] * 17 + ["b"] * 3}, "class 'b' has 3 volumes; the split 60:20:20"),
        ({"y": ["a"] * 3}, "inconsistent numbers of samples"),
        ({"groups": np.zeros(20)}, "groups has 1 group"),
    ],
)
def test_rejects(changes, message):
    X, y = make_data()
    arguments = {"estimators": {"a": Recorder()}, "X": X, "y": y} | changes
    with pytest.raises((ValueError, TypeError), match=message):
        curve_of(**arguments)


def test_a_fitted_pretrainer_has_to_be_frozen(logged):
    X, y = make_data()
    fitted = pretrained(random_state=0).fit(X)
    with pytest.raises(ValueError, match=r"estimators\['a'\] has a fitted pretrainer"):
        curve_of({"a": fast(fitted)}, X, y)


# --- the result -------------------------------------------------------------------


@pytest.fixture(scope="module")
def curve():
    X, y = make_data(n_per_class=40, classes="abc")
    # The first voxel says something of the class.
    X[:, 0, 0, 0] += np.repeat([0, 1, 2], 40)
    return label_fraction_curve(
        {"nearest": Recorder(), "linear": Pixel()},
        X,
        y,
        label_fractions=(0.25, 1.0),
        n_repeats=4,
        random_state=0,
    )


class Pixel(ClassifierMixin, BaseEstimator):
    def fit(self, X, y):
        self.inner_ = LogisticRegression().fit(X[:, 0, 0, :1], y)
        self.classes_ = self.inner_.classes_
        return self

    def predict(self, X):
        return self.inner_.predict(X[:, 0, 0, :1])


def test_frame_is_tidy(curve):
    frame = curve.to_frame()
    assert frame.columns.tolist() == [
        "method",
        "label_fraction",
        "labels_per_class",
        "validation_labels",
        "split",
        "repeat",
        "accuracy",
        "seconds",
    ]
    assert len(frame) == 2 * 2 * 4
    for method, scores in curve.scores_.items():
        for n, fraction in enumerate(curve.label_fractions_):
            rows = (frame.method == method) & (frame.label_fraction == fraction)
            np.testing.assert_array_equal(frame[rows]["accuracy"], scores[n])
            assert frame[rows]["repeat"].tolist() == [0, 1, 2, 3]


def test_accuracies_are_those_of_the_test_part(curve):
    X, y = make_data(n_per_class=40, classes="abc")
    X[:, 0, 0, 0] += np.repeat([0, 1, 2], 40)
    (split,) = curve.splits_
    model = Pixel().fit(X[split.train], y[split.train])
    expected = np.mean(model.predict(X[split.test]) == y[split.test])
    np.testing.assert_allclose(curve.scores_["linear"][1], expected)
    assert curve.test_over_train_ == pytest.approx(24 / 72)
    assert curve.chance_ == pytest.approx(1 / 3)


def test_correction_counts_labelled_training_rows():
    X, y = make_data(n_per_class=30, classes="ab?")
    curve = curve_of({"a": Recorder()}, X, y, unlabeled="?", n_repeats=1)
    (split,) = curve.splits_
    assert (len(split.train), len(split.test)) == (36 + 30, 12)
    assert curve.test_over_train_ == pytest.approx(12 / 36)


def test_summary_tests_against_any_baseline(curve):
    a, b = curve.scores_["nearest"][0], curve.scores_["linear"][0]
    rows = curve.summary().set_index(["label_fraction", "method"])
    few = rows.loc[0.25]
    assert few.loc["nearest", "mean"] == pytest.approx(a.mean())
    assert few.loc["linear", "std"] == pytest.approx(b.std(ddof=1))
    assert np.isnan(few.loc["nearest", "pvalue"])
    assert few.loc["linear", "pvalue"] == pytest.approx(stats.ttest_rel(b, a).pvalue)
    swapped = curve.summary(baseline="linear", test="corrected")
    swapped = swapped.set_index(["label_fraction", "method"]).loc[0.25]
    assert np.isnan(swapped.loc["linear", "pvalue"])
    expected = corrected_t_test(a, b, 24 / 72).pvalue
    assert swapped.loc["nearest", "pvalue"] == pytest.approx(expected)
    for wrong in ({"baseline": "none"}, {"test": "wilcoxon"}):
        with pytest.raises(ValueError, match="expected one of"):
            curve.summary(**wrong)


def test_plot_and_repr(curve):
    from matplotlib.figure import Figure

    ax = Figure().add_subplot()
    display = curve.plot(ax=ax)
    assert display.ax_ is ax
    _, names = ax.get_legend_handles_labels()
    assert names == ["chance", "nearest", "linear"]
    assert [row.mean for row in display.summaries] == curve.summary()["mean"].tolist()
    both = LabelFractionDisplay.from_curve(
        curve, compared={"again": curve}, ax=Figure().add_subplot()
    )
    assert list(both.errorbars_)[2:] == ["nearest, again", "linear, again"]
    assert repr(curve) == (
        "LabelFractionCurve of nearest, linear: 2 numbers of labels, 4 runs each"
    )


def test_frame_needs_pandas(curve, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"sksubtomo\[study\]"):
        curve.to_frame()
