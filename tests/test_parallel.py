"""Studies in several processes: the same results, and no work done twice."""

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import Callback

from sksubtomo import ContrastivePretrainer, LabelFractionClassifier, RB3DClassifier
from sksubtomo.contrastive import SimCLR
from sksubtomo.model_selection import label_fraction_curve

# Two methods, two fractions, two folds; and the fit on all rows at the end.
GRID = {
    "label_fraction": [0.5, 1.0],
    "estimator__pretrainer__method": [SimCLR(temperature=0.2), "moco"],
}
N_PRETRAININGS = 2 * 2 + 1


class LogFits(Callback):
    """Write a line for each fit, wherever it runs: its process and what it is given."""

    def __init__(self, path, seconds=0.0):
        self.path = str(path)
        self.seconds = seconds

    def on_train_begin(self, net, X=None, **kwargs):
        # Long enough for others to ask for the same meanwhile.
        time.sleep(self.seconds)
        with open(self.path, "a") as file:
            file.write(f"{os.getpid()} {torch.get_num_threads()}\n")


@pytest.fixture(scope="module", autouse=True)
def importable():
    """Let workers, which get this process's path, import this module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[1])
        yield


@pytest.fixture(scope="module")
def data():
    generator = np.random.default_rng(0)
    X = generator.normal(size=(24, 8, 8, 8)).astype(np.float32)
    return X, np.arange(len(X)) % 3


def two_workers():
    # Arrays are shared by memory maps, as joblib does it from a megabyte up.
    return joblib.parallel_config("loky", n_jobs=2, max_nbytes=1000)


def warm_up():
    volumes = np.zeros((4, 8, 8, 8), np.float32)
    ContrastivePretrainer(max_epochs=1).fit(volumes)


def warm_up_both(folder, worker):
    """Return when two workers are ready, for each of them holds one call."""
    warm_up()
    (folder / f"ready-{worker}").touch()
    wait_until(lambda: len(list(folder.glob("ready-*"))) == 2)


def make_study(tmp_path, *, cache="cache"):
    pretrainer = ContrastivePretrainer(
        max_epochs=1,
        batch_size=32,
        callbacks=[LogFits(tmp_path / "fits", 0.2)],
        random_state=0,
    )
    classifier = RB3DClassifier(
        pretrainer,
        memory=None if cache is None else str(tmp_path / cache),
        callbacks=[LogFits(tmp_path / "tunings", 0.1)],
        max_epochs=1,
        batch_size=32,
        random_state=0,
    )
    labels = LabelFractionClassifier(classifier, random_state=0)
    return GridSearchCV(labels, GRID, cv=2, error_score="raise")


def fits(tmp_path, log="fits"):
    """Return process and number of threads of each fit, one a row."""
    return np.loadtxt(tmp_path / log, dtype=int, ndmin=2)


@pytest.fixture(scope="module")
def serial(data, tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("serial")
    study = make_study(tmp_path).fit(*data)
    assert len(fits(tmp_path)) == N_PRETRAININGS
    return study


@pytest.fixture(scope="module")
def cluster():
    from dask.distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
    ):
        # Or the worker that is ready first does everything.
        client.run(warm_up)
        yield client


def test_memory_saves_the_pretraining_of_all_but_one(data, serial, tmp_path):
    without = make_study(tmp_path, cache=None).fit(*data)
    # Two fractions, and as above.
    assert len(fits(tmp_path)) == 2 * 4 + 1
    np.testing.assert_array_equal(
        without.cv_results_["mean_test_score"], serial.cv_results_["mean_test_score"]
    )


def assert_same_results(study, serial, X):
    np.testing.assert_array_equal(
        study.cv_results_["mean_test_score"], serial.cv_results_["mean_test_score"]
    )
    np.testing.assert_array_equal(study.predict_proba(X), serial.predict_proba(X))


def assert_two_workers(tmp_path, threads_a_worker):
    assert len(fits(tmp_path)) == N_PRETRAININGS
    *processes, last = fits(tmp_path, "tunings")[:, 0]
    # The fit on all rows is the main process's.
    assert last == os.getpid()
    assert len({*processes, last}) == 3
    assert fits(tmp_path, "tunings")[:-1, 1].max() <= threads_a_worker


def test_dask_cluster(data, serial, cluster, tmp_path):
    with joblib.parallel_config("dask"):
        study = make_study(tmp_path).fit(*data)
    assert_same_results(study, serial, data[0])
    assert_two_workers(tmp_path, threads_a_worker=1)


def test_label_fraction_curve_in_a_dask_cluster(data, cluster, tmp_path):
    def frame(folder):
        pretrainer = ContrastivePretrainer(
            max_epochs=1, callbacks=[LogFits(tmp_path / folder)]
        )
        classifier = RB3DClassifier(pretrainer, max_epochs=2)
        curve = label_fraction_curve(
            {"simclr": classifier},
            *data,
            label_fractions=[0.5, 1.0],
            n_repeats=2,
            random_state=0,
        )
        return curve.to_frame().drop(columns="seconds")

    serial = frame("serial")
    with joblib.parallel_config("dask"):
        parallel = frame("parallel")
    assert parallel.equals(serial)
    assert len(fits(tmp_path, "parallel")) == len(fits(tmp_path, "serial")) == 1


def test_dask_error_arrives(data, cluster, tmp_path):
    X = data[0].copy()
    X[7, 1, 2, 3] = np.nan
    with (
        joblib.parallel_config("dask"),
        pytest.raises(ValueError, match=r"contains NaN.*\(z=1, y=2, x=3\)"),
    ):
        make_study(tmp_path).fit(X, data[1])


def test_loky(data, serial, tmp_path):
    with two_workers():
        # Or the worker that is ready first does everything.
        joblib.Parallel()(
            joblib.delayed(warm_up_both)(tmp_path, worker) for worker in range(2)
        )
        study = make_study(tmp_path).fit(*data)
    assert_same_results(study, serial, data[0])
    # No more threads than cores in all.
    assert_two_workers(tmp_path, threads_a_worker=max(1, joblib.cpu_count() // 2))


def test_workers_that_start_on_one_fold_pretrain_it_once(data, tmp_path):
    X, y = data
    study = make_study(tmp_path).estimator
    with two_workers():
        fitted = joblib.Parallel()(
            joblib.delayed(clone(study).fit)(X, y) for _ in range(4)
        )
    assert len(fits(tmp_path)) == 1
    first, *others = [model.predict_proba(X) for model in fitted]
    for other in others:
        np.testing.assert_array_equal(other, first)


def test_loky_error_arrives(data, tmp_path):
    study = make_study(tmp_path)
    study.set_params(estimator__estimator__pretrainer__callbacks=[OutOfOrder()])
    with two_workers(), pytest.raises(RuntimeError, match="out of order"):
        study.fit(*data)


class OutOfOrder(Callback):
    def on_epoch_begin(self, net, **kwargs):
        raise RuntimeError("out of order")


SCRIPT = """
import logging
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from skorch.callbacks import Callback

from sksubtomo import ContrastivePretrainer, RB3DClassifier

torch.set_num_threads(1)
folder = Path(sys.argv[1])
logger = logging.getLogger("filelock")
logger.setLevel(logging.DEBUG)
logger.addHandler(logging.FileHandler(folder / f"locks-{os.getpid()}"))


class LogFits(Callback):
    def on_train_begin(self, net, **kwargs):
        with (folder / "fits").open("a") as file:
            file.write(f"{os.getpid()}\\n")
        time.sleep(float(os.environ.get("SECONDS", 0)))


X = np.load(folder / "X.npy", mmap_mode="r")
if "COPY" in os.environ:
    X = X.astype(np.float64)
pretrainer = ContrastivePretrainer(
    max_epochs=1, callbacks=[LogFits()], random_state=0
)
classifier = RB3DClassifier(
    pretrainer, memory=str(folder / "cache"), max_epochs=1, random_state=0
)
print("fitting", flush=True)
classifier.fit(X, np.arange(len(X)) % 3)
print(classifier.network_.head.weight.sum().item().hex())
"""


@contextmanager
def running(folder, **environment):
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    ) as process:
        try:
            assert process.stdout.readline() == "fitting\n"
            yield process
        finally:
            process.kill()


def wait_until(condition, seconds=200):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_cache_outlives_processes_however_they_end(tmp_path):
    generator = np.random.default_rng(0)
    np.save(tmp_path / "X.npy", generator.normal(size=(12, 8, 8, 8)).astype("f4"))
    log = tmp_path / "fits"
    with running(tmp_path, SECONDS="300") as first:
        wait_until(log.exists)
        with running(tmp_path) as second:
            # It asks for the lock that the first one has.
            log = tmp_path / f"locks-{second.pid}"
            wait_until(lambda: "not acquired" in log.read_text())
            assert len(fits(tmp_path)) == 1
            first.kill()
            result, _ = second.communicate(timeout=200)
            assert second.returncode == 0
    assert len(fits(tmp_path)) == 2

    with running(tmp_path, COPY="1", PYTHONHASHSEED="7") as third:
        assert third.communicate(timeout=200)[0] == result
    assert len(fits(tmp_path)) == 2
