import os
import pickle
import resource
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pytest
import torch
from filelock import FileLock, Timeout
from joblib.memory import MemorizedFunc
from sklearn.base import clone
from skorch.callbacks import Callback

from sksubtomo import ContrastivePretrainer, RB3DClassifier, _caching
from sksubtomo._caching import fit_key, fit_once
from sksubtomo._stored import StoredVolumes
from sksubtomo.contrastive import MoCo


@pytest.fixture(scope="module")
def volumes():
    generator = np.random.default_rng(0)
    return generator.normal(size=(4, 4, 4, 4)).astype(np.float32)


class LoggedPretrainer(ContrastivePretrainer):
    """Writes a line for each fit, and takes its time."""

    log = None

    def fit(self, X, y=None):
        with open(self.log, "a") as file:
            file.write("fit\n")
        time.sleep(0.3)
        return super().fit(X)


@pytest.fixture
def pretrainer(tmp_path, monkeypatch):
    monkeypatch.setattr(LoggedPretrainer, "log", tmp_path / "fits")
    (tmp_path / "fits").touch()
    return LoggedPretrainer(max_epochs=1, random_state=0)


def _n_fits(tmp_path):
    return len((tmp_path / "fits").read_text().splitlines())


def _weights(fitted):
    return [weights.detach().numpy() for weights in fitted.encoder_.parameters()]


def test_key_is_of_parameters_and_values(volumes, tmp_path):
    pretrainer = ContrastivePretrainer(MoCo(queue_size=32), random_state=0)
    key = fit_key(pretrainer, volumes)

    def other(**parameters):
        copy = pickle.loads(pickle.dumps(pretrainer))
        return fit_key(copy.set_params(**parameters), volumes)

    assert other() == key
    assert other(verbose=1, checkpoint_dir="here") == key
    assert other(device=torch.device("cpu")) == other(device="cpu")
    changed = {
        "lr": 1e-2,
        "random_state": 1,
        "method__queue_size": 64,
        "max_epochs": 3,
        "precision": "bf16",
    }
    keys = {other(**{name: value}) for name, value in changed.items()}
    keys |= {fit_key(pretrainer, volumes[::-1]), fit_key(pretrainer, volumes[:3])}
    keys |= {fit_key(pretrainer, volumes.reshape(4, 2, 8, 4))}
    keys |= {fit_key(LoggedPretrainer(MoCo(queue_size=32), random_state=0), volumes)}
    assert len(keys | {key}) == len(changed) + 5

    np.save(tmp_path / "volumes.npy", volumes.astype(np.float64))
    stored = np.load(tmp_path / "volumes.npy", mmap_mode="r")
    assert fit_key(pretrainer, StoredVolumes(stored, (4, 4, 4))) == key


def test_key_is_of_what_is_computed_with(volumes, monkeypatch):
    def key(**parameters):
        return fit_key(ContrastivePretrainer(random_state=0, **parameters), volumes)

    on_cpu = key(device="cpu", precision="float32")
    assert key(device="cpu", precision="auto") == on_cpu
    assert key(device="cpu", precision="tf32") == on_cpu
    # Another machine, which shares the folder.
    monkeypatch.setattr(_caching, "resolve_device", lambda _: torch.device("cuda:1"))
    for precision in ("auto", "float32"):
        monkeypatch.setattr(
            _caching,
            "resolve_precision",
            lambda given, _: "tf32" if given == "auto" else given,
        )
        assert key(precision=precision) != on_cpu
    assert key(precision="auto") == key(precision="tf32") != key(precision="float32")


def test_the_user_s_settings_come_back(volumes, pretrainer, tmp_path):
    cache = str(tmp_path / "cache")
    first = fit_once(pretrainer.set_params(device="cpu"), volumes, cache)
    settings = {
        "verbose": 1,
        "checkpoint_dir": str(tmp_path / "c"),
        "device": torch.device("cpu"),
        "precision": "float32",
    }
    again = fit_once(
        LoggedPretrainer(max_epochs=1, random_state=0, **settings), volumes, cache
    )
    assert _n_fits(tmp_path) == 1
    assert again is not first
    assert settings.items() <= again.get_params().items()
    for one, other in zip(_weights(first), _weights(again), strict=True):
        np.testing.assert_array_equal(one, other)


def test_each_fit_has_checkpoints_of_its_own(volumes, tmp_path):
    folder = tmp_path / "checkpoints"

    def fit(X):
        pretrainer = ContrastivePretrainer(
            max_epochs=2, random_state=0, checkpoint_dir=folder
        )
        return fit_once(pretrainer, X, None)

    first, second = fit(volumes), fit(volumes + 1)
    assert first.checkpoint_dir == second.checkpoint_dir == folder
    assert len([path for path in folder.iterdir() if path.is_dir()]) == 2
    again = fit(volumes)
    assert all(epoch["resumed"] for epoch in again.history_)
    for one, other in zip(_weights(first), _weights(again), strict=True):
        np.testing.assert_array_equal(one, other)


def test_threads_wait_for_each_other(volumes, pretrainer, tmp_path):
    fitted = []
    threads = [
        threading.Thread(
            target=lambda: fitted.append(
                fit_once(
                    LoggedPretrainer(max_epochs=1, random_state=0),
                    volumes,
                    str(tmp_path / "cache"),
                )
            )
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fitted) == 3
    assert _n_fits(tmp_path) == 1


def test_threads_share_checkpoints(volumes, pretrainer, tmp_path):
    def fit(_):
        own = clone(pretrainer).set_params(max_epochs=2, checkpoint_dir=tmp_path / "c")
        return fit_once(own, volumes, None)

    with ThreadPoolExecutor(2) as threads:
        one, other = threads.map(fit, range(2))
    assert _n_fits(tmp_path) == 2
    resumed = [
        [epoch.get("resumed", False) for epoch in f.history_] for f in (one, other)
    ]
    assert sorted(resumed) == [[False, False], [True, True]]
    for a, b in zip(_weights(one), _weights(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_checkpoints_that_cannot_be_made_are_an_error(volumes, pretrainer, tmp_path):
    (tmp_path / "file").touch()
    for memory in (None, str(tmp_path / "cache")):
        pretrainer.set_params(checkpoint_dir=tmp_path / "file")
        with pytest.raises(OSError, match="file.*cannot hold checkpoints"):
            fit_once(pretrainer, volumes, memory)


def test_results_are_read_without_a_lock(volumes, pretrainer, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    fit_once(pretrainer, volumes, str(cache))

    def look_at_locks(self, state):
        for path in (cache / "locks").iterdir():
            with FileLock(path, timeout=0):
                looked.append(path.name)
        self.__dict__.update(state)

    looked = []
    monkeypatch.setattr(LoggedPretrainer, "__setstate__", look_at_locks)
    fit_once(pretrainer, volumes, str(cache))
    assert "source.lock" in looked


def test_threads_look_up_one_after_the_other(
    volumes, pretrainer, tmp_path, monkeypatch
):
    # A look-up may empty the cache and write joblib's note.
    cache = tmp_path / "cache"
    held = []

    def look(self, *arguments):
        with pytest.raises(Timeout), FileLock(cache / "locks/source.lock", timeout=0):
            pass
        held.append(True)
        return False

    monkeypatch.setattr(MemorizedFunc, "check_call_in_cache", look)
    fit_once(pretrainer, volumes, str(cache))
    assert held == [True, True]


@pytest.mark.parametrize("kind", ["location", "no location", "foreign"])
def test_objects_in_place_of_folders(volumes, pretrainer, tmp_path, kind):
    class Foreign:
        def cache(self, function, ignore):
            assert {"pretrainer", "volumes"} < set(ignore)
            return lambda *args: function(*args)

    memory, n_fits = {
        "location": (joblib.Memory(tmp_path / "cache", verbose=0), 1),
        "no location": (joblib.Memory(None), 2),
        "foreign": (Foreign(), 2),
    }[kind]
    for _ in range(2):
        assert fit_once(pretrainer, volumes, memory).n_iter_ == 1
    assert _n_fits(tmp_path) == n_fits


@pytest.mark.parametrize("place", ["file", "/dev/null/cache"])
def test_a_cache_that_cannot_be_made_is_warned_of(volumes, pretrainer, tmp_path, place):
    (tmp_path / "file").touch()
    cache = str(tmp_path / place)
    with pytest.warns(UserWarning, match="not cached: memory='.*cannot be written"):
        fitted = fit_once(pretrainer, volumes, cache)
    assert fitted.n_iter_ == 1
    assert _n_fits(tmp_path) == 1


def test_a_full_disk_is_warned_of(volumes, pretrainer, tmp_path):
    cache = str(tmp_path / "cache")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.warns(Warning, match="Unable to cache to disk.*too large"):
            fitted = fit_once(pretrainer, volumes, cache)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert fitted.n_iter_ == 1
    fit_once(pretrainer, volumes, cache)
    fit_once(pretrainer, volumes, cache)
    assert _n_fits(tmp_path) == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_can_be_read_only(volumes, pretrainer, tmp_path):
    cache = tmp_path / "cache"
    fit_once(pretrainer, volumes, str(cache))
    folders = [path for path in (cache, *cache.rglob("*")) if path.is_dir()]
    for folder in folders:
        folder.chmod(0o555)
    try:
        fit_once(pretrainer, volumes, str(cache))
        assert _n_fits(tmp_path) == 1
        with pytest.warns(Warning, match="Unable to cache to disk"):
            fit_once(pretrainer, volumes + 1, str(cache))
    finally:
        for folder in folders:
            folder.chmod(0o755)


def test_a_damaged_entry_is_computed_again(volumes, pretrainer, tmp_path):
    cache = tmp_path / "cache"
    fit_once(pretrainer, volumes, str(cache))
    (entry,) = cache.rglob("output.pkl")
    entry.write_bytes(entry.read_bytes()[:-100])
    fit_once(pretrainer, volumes, str(cache))
    fit_once(pretrainer, volumes, str(cache))
    assert _n_fits(tmp_path) == 2


class OutOfSpace(Callback):
    def on_train_begin(self, net, **kwargs):
        raise OSError("of the fit, not of the cache")


def test_errors_of_the_fit_are_not_the_cache_s(volumes, pretrainer, tmp_path):
    pretrainer.set_params(callbacks=[OutOfSpace()])
    with pytest.raises(OSError, match="of the fit"):
        fit_once(pretrainer, volumes, str(tmp_path / "cache"))
    assert _n_fits(tmp_path) == 1
    # The locks were released.
    pretrainer.set_params(callbacks=None)
    assert fit_once(pretrainer, volumes, str(tmp_path / "cache")).n_iter_ == 1


def test_parameters_that_cannot_be_pickled(volumes, pretrainer, tmp_path):
    class Local(Callback):
        pass

    pretrainer.set_params(callbacks=[Local()])
    with pytest.warns(UserWarning, match="cannot be pickled .*Local.* be imported"):
        assert fit_once(pretrainer, volumes, str(tmp_path / "cache")).n_iter_ == 1


def test_memory_may_be_a_path(volumes, pretrainer, tmp_path):
    classifier = RB3DClassifier(
        pretrainer, max_epochs=1, memory=tmp_path / "cache", random_state=0
    )
    classifier.fit(volumes, np.arange(len(volumes)) % 2)
    assert (tmp_path / "cache" / "joblib").is_dir()
