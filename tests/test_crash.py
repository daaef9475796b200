"""Pretraining that is killed and started again."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from skorch.callbacks import Callback, EarlyStopping

import sksubtomo
from sksubtomo import ContrastivePretrainer
from sksubtomo.contrastive import MoCo, SwAV
from sksubtomo.datasets import make_subtomograms

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")

# Imports torch once, and forks for every fit that may be killed. A process that has
# tests, with the threads of their libraries, behind it could not fork safely.
_SERVER = """
import hashlib, json, os, signal, sys, warnings
import numpy as np, torch
from sksubtomo import ContrastivePretrainer
from sksubtomo.contrastive import METHODS

def die(*args):
    os.kill(os.getpid(), signal.SIGKILL)

def fit(task):
    method = METHODS[task["method"]](**task["settings"])
    replace, calls = os.replace, []
    def replace_and_die(source, target):
        calls.append(target)
        if len(calls) == task["dies_in_write"]:
            if not task["renames"]:
                die()
            replace(source, target)
            die()
        replace(source, target)
    os.replace = replace_and_die
    pretrainer = ContrastivePretrainer(
        method, max_epochs=task["max_epochs"], batch_size=5, lr=1e-3, random_state=0,
        checkpoint_dir=task["folder"],
    ).fit(np.load(task["X"]))
    digest = hashlib.sha256(pretrainer.embedding_mean_.tobytes())
    for name, value in pretrainer.encoder_.state_dict().items():
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    with open(task["result"], "w") as file:
        json.dump([digest.hexdigest(), pretrainer.history_], file, default=float)

torch.set_num_threads(1)
warnings.simplefilter("ignore")
# What is imported at first use is imported before the forks.
ContrastivePretrainer(max_epochs=1, random_state=0).fit(np.eye(8, dtype="f4"))
print("ready", flush=True)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        try:
            fit(json.loads(line))
        except BaseException:
            sys.excepthook(*sys.exc_info())
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def volumes():
    X, _ = make_subtomograms(n_per_class=1, size=8, random_state=0, return_X_y=True)
    return X


class _Fits:
    """Fits in processes that can be killed, and looks at what they leave."""

    def __init__(self, server, directory):
        self._server = server
        self._directory = directory

    def run(self, folder, method, kill_after=None, **task):
        """Return the exit status; a negative one is the signal that ended it."""
        task = {
            "folder": str(self._directory / folder),
            "X": str(self._directory / "X.npy"),
            "result": str(self._directory / f"{folder}.json"),
            "method": method,
            "settings": {},
            "dies_in_write": 0,
            "renames": False,
            **task,
        }
        self._server.stdin.write(json.dumps(task) + "\n")
        self._server.stdin.flush()
        child = int(self._server.stdout.readline())
        if kill_after is not None:
            # The first time there has to be something to continue from.
            deadline = time.monotonic() + 60
            while not self._checkpoints(folder) and time.monotonic() < deadline:
                time.sleep(0.005)
            time.sleep(kill_after)
            os.kill(child, signal.SIGKILL)
        return int(self._server.stdout.readline())

    def result(self, folder):
        """Return a hash of the weights, and the history."""
        return json.loads((self._directory / f"{folder}.json").read_text())

    def hidden(self, folder):
        """Return what is left of writes that did not end."""
        return list((self._directory / folder).glob(".epoch*"))

    def _checkpoints(self, folder):
        return list((self._directory / folder).glob("epoch*"))


@pytest.fixture(scope="module")
def server():
    package = str(Path(sksubtomo.__file__).parents[1])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    with subprocess.Popen(
        [sys.executable, "-c", _SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            # Threads do not survive a fork.
            **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
        },
    ) as process:
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


@pytest.fixture
def fits(server, volumes, tmp_path):
    np.save(tmp_path / "X.npy", volumes)
    return _Fits(server, tmp_path)


@needs_fork
@pytest.mark.parametrize(
    ("method", "settings", "max_epochs", "n_kills"),
    [
        ("moco", {"queue_size": 12}, 25, 10),
        ("simclr", {}, 8, 2),
        ("swav", {"frozen_epochs": 2}, 8, 2),
    ],
)
def test_killed_at_random_moments(fits, method, settings, max_epochs, n_kills):
    task = {"method": method, "settings": settings, "max_epochs": max_epochs}
    start = time.perf_counter()
    assert fits.run("straight", **task) == 0
    duration = time.perf_counter() - start
    # Even if all were late, the last would come before the end.
    moments = np.random.default_rng(0).uniform(0, 0.7 / n_kills, n_kills) * duration
    for moment in moments:
        assert fits.run("killed", **task, kill_after=moment) == -signal.SIGKILL
    assert fits.run("killed", **task) == 0

    expected, straight = fits.result("straight")
    found, history = fits.result("killed")
    assert found == expected
    resumed = [epoch.pop("resumed") for epoch in history]
    # The epochs that were done before come first.
    assert resumed == sorted(resumed, reverse=True)
    assert resumed[0]
    assert not resumed[-1]
    assert not any(epoch.pop("resumed") for epoch in straight)
    assert history == straight
    assert fits.hidden("killed") == []


@needs_fork
def test_killed_while_a_checkpoint_is_written(fits):
    task = {"method": "swav", "settings": {"frozen_epochs": 2}, "max_epochs": 4}
    assert fits.run("straight", **task) == 0
    for epoch, renames in ((1, False), (1, True), (2, False), (1, True)):
        how = {"dies_in_write": epoch, "renames": renames}
        assert fits.run("killed", **task, **how) == -signal.SIGKILL
        assert len(fits.hidden("killed")) == (not renames)
    assert fits.run("killed", **task) == 0
    assert fits.result("killed")[0] == fits.result("straight")[0]
    assert [epoch["resumed"] for epoch in fits.result("killed")[1]] == [True] * 3 + [
        False
    ]
    assert fits.hidden("killed") == []


# Within one process


class _Break(Callback):
    """Ends training with an error, as anything may."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_epoch_begin(self, net, **kwargs):
        if len(net.history) == self.epoch:
            raise RuntimeError("broken")


def _pretrainer(folder=None, **parameters):
    defaults = {"method": MoCo(queue_size=12), "max_epochs": 3, "batch_size": 5}
    return ContrastivePretrainer(
        **{**defaults, "random_state": 0, "checkpoint_dir": folder, **parameters}
    )


def _names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def _hash(pretrainer):
    digest = hashlib.sha256()
    for value in pretrainer.encoder_.state_dict().values():
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _resumed(pretrainer):
    return [epoch["resumed"] for epoch in pretrainer.history_]


def test_checkpoints_change_nothing(volumes, tmp_path):
    assert _hash(_pretrainer().fit(volumes)) == _hash(
        _pretrainer(tmp_path / "a" / "b").fit(volumes)
    )
    assert _names(tmp_path / "a" / "b") == [
        "epoch-000002.safetensors",
        "epoch-000003.safetensors",
    ]


def test_a_finished_run_is_not_repeated_but_may_be_lengthened(volumes, tmp_path):
    first = _pretrainer(tmp_path).fit(volumes)
    again = _pretrainer(str(tmp_path)).fit(volumes)
    assert _resumed(again) == [True] * 3
    assert _hash(again) == _hash(first)
    np.testing.assert_array_equal(again.transform(volumes), first.transform(volumes))
    longer = _pretrainer(tmp_path, max_epochs=4).fit(volumes)
    assert _resumed(longer) == [True] * 3 + [False]
    assert _hash(longer) == _hash(_pretrainer(max_epochs=4).fit(volumes))
    with pytest.raises(ValueError, match=r"max_epochs=3, .* has 4 epochs"):
        _pretrainer(tmp_path).fit(volumes)


def test_stored_volumes_are_the_same_data(volumes, tmp_path):
    np.save(tmp_path / "X.npy", volumes)
    stored = np.load(tmp_path / "X.npy", mmap_mode="r")
    with pytest.raises(RuntimeError, match="broken"):
        _pretrainer(tmp_path, callbacks=[_Break(3)]).fit(volumes)
    resumed = _pretrainer(tmp_path).fit(stored)
    assert _resumed(resumed) == [True, True, False]
    assert _hash(resumed) == _hash(_pretrainer().fit(volumes))


def test_without_a_seed_the_run_is_continued(volumes, tmp_path):
    parameters = {"random_state": None}
    with pytest.raises(RuntimeError, match="broken"):
        _pretrainer(tmp_path, callbacks=[_Break(2)], **parameters).fit(volumes)
    resumed = _pretrainer(tmp_path, **parameters).fit(volumes)
    assert _resumed(resumed) == [True, False, False]


def test_callbacks_go_on_counting(volumes, tmp_path):
    def stopping():
        # Nothing is ever an improvement after the first epoch.
        return EarlyStopping("train_loss", patience=2, threshold=0.99)

    parameters = {"max_epochs": 6}
    straight = _pretrainer(callbacks=[stopping()], **parameters).fit(volumes)
    assert straight.n_iter_ == 3
    with pytest.raises(RuntimeError, match="broken"):
        _pretrainer(tmp_path, callbacks=[stopping(), _Break(3)], **parameters).fit(
            volumes
        )
    for _ in range(2):
        resumed = _pretrainer(tmp_path, callbacks=[stopping()], **parameters).fit(
            volumes
        )
        assert resumed.n_iter_ == 3
        assert _hash(resumed) == _hash(straight)


def test_another_run_is_refused_with_the_difference(volumes, tmp_path):
    _pretrainer(tmp_path, max_epochs=1).fit(volumes)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    changed = volumes.copy()
    changed[3, 2, 1, 0] += 1
    for parameters, X, message in (
        ({"lr": 0.1}, volumes, r"parameters\.lr: found 0\.0001, expected 0\.1\."),
        (
            {"random_state": 1},
            volumes,
            r"parameters\.random_state: found 0, expected 1",
        ),
        (
            {"method": MoCo(queue_size=13)},
            volumes,
            r"method__queue_size: found 12, expected 13",
        ),
        (
            {"method": SwAV()},
            volumes,
            r"parameters\.method: found .*MoCo, expected .*SwAV",
        ),
        ({"augmentation": "rotate_shift_noise"}, volumes, r"parameters\.augmentation"),
        ({}, volumes[1:], r"n_volumes: found 10, expected 9"),
        ({}, volumes[:, 1:], r"volume_shape: found \[8, 8, 8\], expected \[7, 8, 8\]"),
        ({}, changed, r"another run: data\.digest: found \w+, expected \w+\. Fit"),
    ):
        with pytest.raises(ValueError, match=message):
            _pretrainer(tmp_path, max_epochs=1, **parameters).fit(X)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_damaged_checkpoint_is_kept_and_the_older_one_continued(volumes, tmp_path):
    straight = _pretrainer(tmp_path).fit(volumes)
    newest = tmp_path / "epoch-000003.safetensors"
    damaged = bytearray(newest.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    for content in (damaged, damaged[:-1000]):
        newest.write_bytes(content)
        with pytest.raises(ValueError, match=r"000003.*continue from epoch-000002"):
            _pretrainer(tmp_path).fit(volumes)
        assert newest.read_bytes() == content
    newest.unlink()
    resumed = _pretrainer(tmp_path).fit(volumes)
    assert _resumed(resumed) == [True, True, False]
    assert _hash(resumed) == _hash(straight)


def test_full_disk_ends_training_with_the_last_good_one(volumes, tmp_path):
    resource = pytest.importorskip("resource")

    class FillDisk(Callback):
        def on_epoch_begin(self, net, **kwargs):
            if len(net.history) == 3:
                resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(
            OSError,
            match=r"000003.*cannot be written.*epoch-000002.* left to continue from",
        ):
            _pretrainer(tmp_path, callbacks=[FillDisk()]).fit(volumes)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert _names(tmp_path) == ["epoch-000001.safetensors", "epoch-000002.safetensors"]
    resumed = _pretrainer(tmp_path).fit(volumes)
    assert _resumed(resumed) == [True, True, False]
    assert _hash(resumed) == _hash(_pretrainer().fit(volumes))


def test_unusable_folder_is_an_error_before_training(volumes, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="file: cannot hold checkpoints"):
        _pretrainer(tmp_path / "file", callbacks=[_Break(1)]).fit(volumes)


def test_a_folder_is_one_trainings(volumes, tmp_path):
    class FitAnother(Callback):
        def on_epoch_end(self, net, **kwargs):
            with pytest.raises(BlockingIOError, match="another process is training"):
                _pretrainer(tmp_path, random_state=1).fit(volumes)

    _pretrainer(tmp_path, max_epochs=1, callbacks=[FitAnother()]).fit(volumes)


def test_divergence_names_the_epoch_and_keeps_the_last_good_one(volumes, tmp_path):
    class Explode(Callback):
        def on_epoch_begin(self, net, **kwargs):
            if len(net.history) == 2:
                for group in net.optimizer_.param_groups:
                    group["lr"] = 1e30

    message = r"train loss is no longer finite in epoch 2; lower lr=0\.0001"
    with pytest.raises(FloatingPointError, match=message):
        _pretrainer(tmp_path, callbacks=[Explode()]).fit(volumes)
    assert _names(tmp_path) == ["epoch-000001.safetensors"]
    resumed = _pretrainer(tmp_path).fit(volumes)
    assert _resumed(resumed) == [True, False, False]
