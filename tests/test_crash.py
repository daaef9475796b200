"""Pretraining that is killed and started again."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback, EarlyStopping, LRScheduler
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    ExponentialLR,
    LinearLR,
    SequentialLR,
)

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

    def run(self, folder, method, kill_at=None, **task):
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
        if kill_at is not None:
            epoch, delay = kill_at
            with suppress(ProcessLookupError):
                while self._newest(folder) < epoch:
                    time.sleep(0.001)
                    os.kill(child, 0)
                time.sleep(delay)
                os.kill(child, signal.SIGKILL)
        return int(self._server.stdout.readline())

    def kill(self, folder, n_more, delay, latest, **task):
        """Kill a fit a moment after it has saved `n_more` checkpoints.

        How far it gets meanwhile is the machine's business. If that is beyond epoch
        `latest`, all is put back, and the next one is killed earlier.
        """
        path, before = self._directory / folder, self._directory / "before"
        path.mkdir(exist_ok=True)
        shutil.copytree(path, before)
        epoch = self._newest(folder) + n_more
        for attempt in range(20):
            status = self.run(folder, kill_at=(epoch, delay / 2**attempt), **task)
            assert status in (0, -signal.SIGKILL)
            if status != 0 and self._newest(folder) <= latest:
                shutil.rmtree(before)
                return
            shutil.rmtree(path)
            shutil.copytree(before, path)
        pytest.fail("every fit was faster than what should have killed it")

    def result(self, folder):
        """Return a hash of the weights, and the history."""
        return json.loads((self._directory / f"{folder}.json").read_text())

    def hidden(self, folder):
        """Return what is left of writes that did not end."""
        return list((self._directory / folder).glob(".epoch*"))

    def _newest(self, folder):
        paths = (self._directory / folder).glob("epoch*")
        return max((int(path.stem.removeprefix("epoch-")) for path in paths), default=0)


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
        ("byol", {"momentum": 0.9}, 8, 2),
        ("vicreg", {}, 8, 2),
    ],
)
def test_killed_at_random_moments(fits, method, settings, max_epochs, n_kills):
    task = {"method": method, "settings": settings, "max_epochs": max_epochs}
    assert fits.run("straight", **task) == 0
    rng = np.random.default_rng(0)
    for n_left in range(n_kills, 0, -1):
        # The first time there has to be something to continue from. Later, it may be
        # hit while it does so.
        n_more = 1 if n_left == n_kills else rng.integers(2)
        delay = rng.uniform(0, 0.05)
        fits.kill("killed", n_more, delay, latest=max_epochs - n_left, **task)
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
    defaults = {
        "method": MoCo(queue_size=12),
        "max_epochs": 3,
        "batch_size": 5,
        "lr": 1e-4,
        "schedule": "constant",
        "random_state": 0,
    }
    return ContrastivePretrainer(**{**defaults, "checkpoint_dir": folder, **parameters})


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


def _in_sequence(optimizer, last_epoch):
    # skorch tells the epoch, but parts of a schedule begin at their own first one.
    parts = [LinearLR(optimizer, 0.1, total_iters=3), ExponentialLR(optimizer, 0.5)]
    return SequentialLR(optimizer, parts, milestones=[3])


def _chained(optimizer, last_epoch):
    parts = [LinearLR(optimizer, 0.1, total_iters=3), ExponentialLR(optimizer, 0.5)]
    return ChainedScheduler(parts)


@pytest.mark.parametrize("n_done", [1, 2, 3, 4])
@pytest.mark.parametrize("policy", [_in_sequence, _chained])
def test_schedules_of_schedules_go_on(volumes, tmp_path, policy, n_done):
    def fit(folder, *others):
        callbacks = [LRScheduler(policy), *others]
        parameters = {"method": "simclr", "max_epochs": 5, "lr": 1e-3}
        return _pretrainer(folder, callbacks=callbacks, **parameters).fit(volumes)

    straight = fit(None)
    with pytest.raises(RuntimeError, match="broken"):
        fit(tmp_path, _Break(n_done + 1))
    resumed = fit(tmp_path)
    rates, expected = (
        [epoch["event_lr"] for epoch in fitted.history_]
        for fitted in (resumed, straight)
    )
    assert len(set(expected)) > 3
    assert rates == expected
    assert _hash(resumed) == _hash(straight)


def test_what_callbacks_draw_when_training_begins_changes_nothing(volumes, tmp_path):
    class Draw(Callback):
        def on_train_begin(self, net, **kwargs):
            torch.rand(3)
            net.order.random()
            net.view(torch.zeros(2, 1, 8, 8, 8))

        def on_epoch_end(self, net, **kwargs):
            net.history.record("drawn", torch.rand(()).item())

    straight = _pretrainer(callbacks=[Draw()]).fit(volumes)
    with pytest.raises(RuntimeError, match="broken"):
        _pretrainer(tmp_path, callbacks=[Draw(), _Break(3)]).fit(volumes)
    resumed = _pretrainer(tmp_path, callbacks=[Draw()]).fit(volumes)
    found, expected = (
        [epoch["drawn"] for epoch in fitted.history_] for fitted in (resumed, straight)
    )
    assert found == expected
    assert _hash(resumed) == _hash(straight)


@pytest.fixture
def _interruptible():
    # In the background of a shell, Python starts with another handler.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
def test_interrupt_is_not_taken_for_a_callbacks_stop(volumes, tmp_path):
    class Press(Callback):
        def on_epoch_end(self, net, **kwargs):
            if len(net.history) == 2:
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        _pretrainer(tmp_path, callbacks=[Press()]).fit(volumes)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert _names(tmp_path) == ["epoch-000001.safetensors"]
    resumed = _pretrainer(tmp_path).fit(volumes)
    assert _resumed(resumed) == [True, False, False]
    assert _hash(resumed) == _hash(_pretrainer().fit(volumes))


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
        ({"augmentation": "crop_affine"}, volumes, r"parameters\.augmentation"),
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
