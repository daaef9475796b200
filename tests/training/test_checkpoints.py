import errno
import hashlib
import json
import os
import pickle
import shutil
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from skorch.callbacks import EarlyStopping, LRScheduler
from skorch.history import History
from torch import nn

from sksubtomo._training.checkpoints import (
    Checkpoints,
    TrainingState,
    capture,
    load_optimizer_state,
    optimizer_state,
    restore,
    restore_callbacks,
    restore_generators,
)
from sksubtomo._training.weights import lay_out
from sksubtomo.augmentation import CropAffine

IDENTITY = {
    "parameters": {"lr": "0.001", "method": "MoCo(queue_size=64)"},
    "data": {"n_volumes": 30, "volume_shape": [8, 8, 8], "digest": "12ab"},
}
OPTIMIZERS = {
    "adam": (torch.optim.Adam, {"weight_decay": 1e-4}),
    "amsgrad": (torch.optim.AdamW, {"amsgrad": True, "betas": (0.8, 0.99)}),
    "sgd": (torch.optim.SGD, {"momentum": 0.9}),
    "sgd without momentum": (torch.optim.SGD, {}),
}


def _state(value=1.0):
    return TrainingState(
        {"weights": torch.full((2, 3), value), "step": torch.tensor(7)},
        {"loss": [value, 0.1]},
    )


def _names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


@pytest.fixture
def folder(tmp_path):
    """Return a folder with the checkpoints of epochs 1 and 2."""
    folder = tmp_path / "run"
    with Checkpoints(folder, IDENTITY) as checkpoints:
        for epoch in (1, 2):
            checkpoints.save(_state(float(epoch)), epoch)
    return folder


# Files


def test_everything_comes_back_bit_by_bit(tmp_path):
    generator = torch.Generator().manual_seed(0)
    shuffled = torch.randn(3, 4, 5, generator=generator).permute(2, 0, 1)
    tied = torch.randn(4, generator=generator)
    state = TrainingState(
        {
            "permuted": shuffled,
            "special": torch.tensor([torch.nan, -torch.inf, -0.0, 1e-45]),
            "long": torch.tensor(2**62),
            "bytes": torch.get_rng_state(),
            "half": torch.tensor([1.5], dtype=torch.bfloat16),
            "empty": torch.zeros(0, 3),
            "whole": tied.clone(),
            "part": tied[1:].clone(),
        },
        {
            "large": 2**127 + 1,
            "third": 1 / 3,
            "text": 'Å "sha256":"' + "0" * 64 + '"',
            "infinite": float("inf"),
            "nested": [{"a": None, "b": True}],
            "numpy": [np.float32(0.1), np.int64(3), np.bool_(True)],
        },
    )
    state.tensors["permuted"] = shuffled.contiguous()
    with Checkpoints(tmp_path, IDENTITY) as checkpoints:
        assert checkpoints.load() is None
        checkpoints.save(state, 3)
        found = checkpoints.load()
    assert found.tensors.keys() == state.tensors.keys()
    for name, value in state.tensors.items():
        assert found.tensors[name].dtype == value.dtype
        assert found.tensors[name].shape == value.shape
        assert value.numel() == 0 or torch.equal(
            found.tensors[name].reshape(-1).view(torch.uint8),
            value.reshape(-1).view(torch.uint8),
        )
    expected = {**state.values, "numpy": [float(np.float32(0.1)), 3, True]}
    assert found.values == expected


def test_a_checkpoint_is_a_safetensors_file_with_a_checksum(folder):
    path = folder / "epoch-000002.safetensors"
    torch.testing.assert_close(load_file(path)["weights"], torch.full((2, 3), 2.0))
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + size])["__metadata__"]
    assert metadata["epoch"] == "2"
    assert json.loads(metadata["identity"]) == IDENTITY
    blank = content.replace(metadata["sha256"].encode(), b"0" * 64)
    assert hashlib.sha256(blank).hexdigest() == metadata["sha256"]


def test_the_newest_two_are_kept(folder):
    leftovers = [".epoch-000003.safetensors.123", ".epoch-1234567.safetensors.9"]
    others = ["notes.txt", ".epoch-000003.safetensors.orig", "epoch-3.safetensors"]
    for name in leftovers + others:
        (folder / name).write_bytes(b"half")
    with Checkpoints(folder, IDENTITY) as checkpoints:
        for epoch in (3, 999_999, 1_000_000):
            checkpoints.save(_state(float(epoch)), epoch)
        assert checkpoints.load().values["loss"][0] == 1e6
    kept = ["epoch-999999.safetensors", "epoch-1000000.safetensors"]
    assert _names(folder) == sorted(others + kept)


def test_a_folder_belongs_to_one_process(folder):
    with Checkpoints(folder, IDENTITY):
        with (
            pytest.raises(BlockingIOError, match=r"run: another process is training"),
            Checkpoints(folder, IDENTITY),
        ):
            pass
        # Who only reads does not wait.
        with Checkpoints(folder, IDENTITY, writes=False) as reader:
            assert reader.load().values["loss"][0] == 2
    with Checkpoints(folder, IDENTITY):
        pass


def test_a_reader_leaves_no_trace(folder, tmp_path):
    before = _names(folder)
    with Checkpoints(folder, IDENTITY, writes=False) as checkpoints:
        checkpoints.save(_state(), 3)
    assert _names(folder) == before
    with Checkpoints(tmp_path / "none", IDENTITY, writes=False) as checkpoints:
        assert checkpoints.load() is None
    assert not (tmp_path / "none").exists()


def test_another_run_is_refused_with_every_difference(folder):
    other = {
        "parameters": {"lr": "0.01", "mask": "'sphere'"},
        "data": {**IDENTITY["data"], "volume_shape": (8, 8, 9)},
    }
    with (
        Checkpoints(folder, other) as checkpoints,
        pytest.raises(ValueError, match=r"epoch-000002.*another run") as error,
    ):
        checkpoints.load()
    for difference in (
        "parameters.lr: found 0.001, expected 0.01;",
        "parameters.mask: found nothing, expected 'sphere'",
        "parameters.method: found MoCo(queue_size=64), expected nothing",
        "data.volume_shape: found [8, 8, 8], expected [8, 8, 9]",
    ):
        assert difference in str(error.value)
    assert "digest" not in str(error.value)
    assert _names(folder) == ["epoch-000001.safetensors", "epoch-000002.safetensors"]


def test_every_changed_byte_is_noticed(folder):
    path = folder / "epoch-000002.safetensors"
    content = path.read_bytes()
    reader = Checkpoints(folder, IDENTITY, writes=False)
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 1 << position % 8
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=r"epoch-000002.safetensors: ") as error:
            reader.load()
        assert "continue from epoch-000001.safetensors" in str(error.value)
    path.write_bytes(content)
    assert reader.load().values["loss"][0] == 2


def test_truncated_checkpoint_is_kept_and_the_way_out_works(folder):
    newest, older = (folder / f"epoch-00000{n}.safetensors" for n in (2, 1))
    content = newest.read_bytes()
    with Checkpoints(folder, IDENTITY) as checkpoints:
        for size in (0, 4, 8, 100, len(content) // 2, len(content) - 1):
            newest.write_bytes(content[:size])
            with pytest.raises(ValueError, match="Remove it to continue from epoch-00"):
                checkpoints.load()
            assert newest.read_bytes() == content[:size]
        newest.write_bytes(content + b"\0")
        with pytest.raises(ValueError, match="truncated, or was changed"):
            checkpoints.load()
        newest.unlink()
        assert checkpoints.load().values["loss"][0] == 1

        newest.write_bytes(b"")
        older.write_bytes(b"")
        with pytest.raises(ValueError, match=r"epoch-000001\.\w+ is no better"):
            checkpoints.load()
        older.unlink()
        with pytest.raises(ValueError, match="remove it to begin anew"):
            checkpoints.load()
        newest.unlink()
        assert checkpoints.load() is None


class _Bomb:
    def __reduce__(self):
        return os.abort, ()


def test_files_of_something_else_are_refused(tmp_path):
    path = tmp_path / "epoch-000001.safetensors"
    foreign = {
        "pickle": pickle.dumps(_Bomb()),
        "list": (2).to_bytes(8, "little") + b"[]",
        "text": b"hello",
    }
    checkpoints = Checkpoints(tmp_path, IDENTITY)
    for content in foreign.values():
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"epoch-000001.*no checkpoint of sk"):
            checkpoints.load()
    for metadata in (None, {"format": "pt"}):
        save_file({"weights": torch.zeros(2)}, path, metadata)
        with pytest.raises(ValueError, match=r"epoch-000001.*no checkpoint of sk"):
            checkpoints.load()
    path.unlink()
    path.mkdir()
    with pytest.raises(ValueError, match=r"epoch-000001.*cannot be read: Is a dir"):
        checkpoints.load()


def test_newer_formats_are_named(folder):
    path = folder / "epoch-000002.safetensors"
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"format_version":"1"', b'"format_version":"7"'))
    with pytest.raises(ValueError, match=r"has format 7, .* reads format 1"):
        Checkpoints(folder, IDENTITY).load()


def test_values_that_json_does_not_know_are_named(tmp_path):
    with (
        Checkpoints(tmp_path, IDENTITY) as checkpoints,
        pytest.raises(TypeError, match="hold 1j of type complex; expected callbacks"),
    ):
        checkpoints.save(TrainingState({}, {"history": [{"score": 1j}]}), 1)
    assert _names(tmp_path) == []


# What the system refuses


@contextmanager
def _largest_file(size):
    """Let the system refuse what is longer, as it does when the disk is full."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk_keeps_the_last_good_one(folder):
    before = _names(folder)
    state = TrainingState({"weights": torch.zeros(10_000)})
    with Checkpoints(folder, IDENTITY) as checkpoints:
        with (
            _largest_file(20_000),
            pytest.raises(OSError, match="000003.safetensors: cannot be written: File"),
        ):
            checkpoints.save(state, 3)
        assert _names(folder) == before
        assert checkpoints.load().values["loss"][0] == 2
        checkpoints.save(state, 3)
    assert _names(folder) == [before[1], "epoch-000003.safetensors"]


def test_failed_write_says_what_is_left(folder, monkeypatch):
    def sync(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", sync)
    message = (
        r"000003.safetensors: cannot be written: No space left on device\. Training "
        r"stopped after epoch 3; epoch-000002.safetensors is left to continue from"
    )
    with (
        Checkpoints(folder, IDENTITY) as checkpoints,
        pytest.raises(OSError, match=message),
    ):
        checkpoints.save(_state(), 3)
    assert _names(folder) == ["epoch-000001.safetensors", "epoch-000002.safetensors"]
    shutil.rmtree(folder)
    with (
        Checkpoints(folder, IDENTITY) as checkpoints,
        pytest.raises(OSError, match="there is no checkpoint left to continue from"),
    ):
        checkpoints.save(_state(), 1)


def test_unusable_folders_are_named(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    for folder, error in ((file, FileExistsError), (file / "run", NotADirectoryError)):
        with (
            pytest.raises(error, match=r"file.*: cannot hold checkpoints: "),
            Checkpoints(folder, IDENTITY),
        ):
            pass
    with pytest.raises(ValueError, match="null"), Checkpoints(file / "\0", IDENTITY):
        pass


@contextmanager
def _unprivileged():
    """Give up root's right to write anywhere."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="modes are POSIX's")
def test_unwritable_folder_is_named(folder):
    folder.chmod(0o500)
    try:
        with (
            _unprivileged(),
            pytest.raises(PermissionError, match=r"run.*: cannot .*Permission denied"),
            Checkpoints(folder, IDENTITY),
        ):
            pass
    finally:
        folder.chmod(0o700)


# Optimisers


def _network(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Conv3d(2, 3, 2), nn.BatchNorm3d(3), nn.Dropout(0.5), nn.Conv3d(3, 1, 1)
        )
    return lay_out(network, torch.device("cpu"))


def _train(network, optimizer, n_steps=1):
    for _ in range(n_steps):
        optimizer.zero_grad()
        network(
            torch.linspace(-1, 1, 128).reshape(2, 2, 4, 4, 2)
        ).square().sum().backward()
        optimizer.step()


def _weights(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def _equal(found, expected):
    return found.keys() == expected.keys() and all(
        torch.equal(found[name], expected[name]) for name in expected
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_goes_on_bit_by_bit(name):
    optimizer_class, settings = OPTIMIZERS[name]
    network = _network().eval()
    optimizer = optimizer_class(network.parameters(), lr=0.01, **settings)
    # One that has had no gradient has no moments.
    network[3].requires_grad_(False)
    _train(network, optimizer, 3)
    optimizer.param_groups[0]["lr"] = 0.02
    weights, state = _weights(network), optimizer_state(optimizer)
    network[3].requires_grad_(True)
    _train(network, optimizer, 3)

    resumed = _network(seed=1).eval()
    resumed.load_state_dict(weights)
    again = optimizer_class(resumed.parameters(), lr=0.5, **settings)
    state.values = json.loads(json.dumps(state.values))
    load_optimizer_state(again, state)
    group = again.param_groups[0]
    assert group["lr"] == 0.02
    assert isinstance(group.get("betas", ()), tuple)
    weight = resumed[0].weight
    for key, moment in again.state[weight].items():
        assert key == "step" or moment.stride() == weight.stride()
    _train(resumed, again, 3)
    assert _equal(_weights(resumed), _weights(network))


def test_loaded_optimizer_state_is_not_changed_by_training():
    network = _network()
    optimizer = torch.optim.Adam(network.parameters())
    _train(network, optimizer)
    state = optimizer_state(optimizer)
    kept = {name: value.clone() for name, value in state.tensors.items()}
    load_optimizer_state(optimizer, state)
    _train(network, optimizer)
    assert _equal(state.tensors, kept)


def test_implementation_is_the_new_runs():
    network = _network()
    state = optimizer_state(torch.optim.Adam(network.parameters(), lr=0.1))
    rate = torch.tensor(0.5)
    other = torch.optim.Adam(
        network.parameters(), lr=rate, foreach=False, capturable=True
    )
    load_optimizer_state(other, state)
    group = other.param_groups[0]
    assert group["lr"] is rate
    assert rate.item() == pytest.approx(0.1)
    assert (group["foreach"], group["capturable"]) == (False, True)


def test_optimizer_of_other_groups_is_refused():
    network = _network()
    state = optimizer_state(torch.optim.Adam(network.parameters()))
    two = torch.optim.Adam([{"params": part.parameters()} for part in network[::3]])
    with pytest.raises(ValueError, match=r"."):
        load_optimizer_state(two, state)


# Nets


def _net(seed=0, callbacks=()):
    network = _network(seed)
    return SimpleNamespace(
        module_=network,
        optimizer_=torch.optim.Adam(network.parameters(), lr=0.01),
        history=History(),
        order=np.random.default_rng(seed),
        view=CropAffine().build(seed),
        device="cpu",
        callbacks_=list(callbacks),
        max_epochs=10,
        verbose=0,
    )


def _run_epoch(net):
    """Use all that is random, and return what came of it."""
    net.history.new_epoch()
    net.history.new_batch()
    net.history.record("epoch", len(net.history))
    _train(net.module_, net.optimizer_)
    return {
        "order": torch.from_numpy(net.order.permutation(20)),
        "view": net.view(torch.linspace(0, 1, 512).reshape(1, 1, 8, 8, 8)),
        "random": torch.rand(3),
        **_weights(net.module_),
    }


def test_net_goes_on_bit_by_bit(tmp_path):
    with torch.random.fork_rng(), Checkpoints(tmp_path, IDENTITY) as checkpoints:
        torch.manual_seed(0)
        net = _net()
        for _ in range(2):
            _run_epoch(net)
        net.history.record("score", np.float64(0.1))
        checkpoints.save(capture(net), 2)
        expected = [_run_epoch(net) for _ in range(2)]

        torch.manual_seed(1)
        resumed = _net(seed=1)
        _run_epoch(resumed)
        state = checkpoints.load()
        restore(resumed, state)
        restore_generators(resumed, state)
        assert resumed.history.to_list() == [
            {"epoch": 1, "batches": [], "resumed": True},
            {"epoch": 2, "batches": [], "resumed": True, "score": 0.1},
        ]
        found = [_run_epoch(resumed) for _ in range(2)]
    assert all(map(_equal, found, expected))
    assert "resumed" not in resumed.history[-1]


def test_capturing_changes_nothing_and_copies():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        watched, unwatched = _net(), _net()
        before = torch.get_rng_state()
        _run_epoch(watched)
        state = capture(watched)
        kept = {name: value.clone() for name, value in state.tensors.items()}
        found = _run_epoch(watched)
        torch.set_rng_state(before)
        _run_epoch(unwatched)
        assert _equal(found, _run_epoch(unwatched))
        assert _equal(state.tensors, kept)


def test_state_of_another_network_is_refused():
    state = capture(_net())
    net = _net()
    net.module_ = lay_out(nn.Sequential(nn.Conv3d(2, 3, 2)), torch.device("cpu"))
    with pytest.raises(ValueError, match=r"does not fit the network.*\n.*1.weight"):
        restore(net, state)


def test_net_without_views():
    net = _net()
    net.view = None
    state = capture(net)
    assert "generators.view" not in state.tensors
    restore(net, state)
    restore_generators(net, state)


def test_callbacks_go_on_counting(tmp_path):
    def net_with_callbacks():
        plateau = LRScheduler(
            torch.optim.lr_scheduler.ReduceLROnPlateau, monitor="loss", patience=1
        )
        stopping = EarlyStopping("loss", patience=4, load_best=True)
        net = _net(callbacks=[("plateau", plateau), ("stopping", stopping)])
        for _, callback in net.callbacks_:
            callback.initialize()
            callback.on_train_begin(net)
        return net

    def run(net, losses):
        rates = []
        for loss in losses:
            with torch.random.fork_rng():
                torch.manual_seed(len(net.history))
                _run_epoch(net)
            net.history.record("loss", loss)
            for _, callback in net.callbacks_:
                callback.on_epoch_end(net)
            rates.append(net.optimizer_.param_groups[0]["lr"])
        return rates

    losses = [1.0, 0.5, 0.9, 0.8, 0.7]
    straight = net_with_callbacks()
    expected = run(straight, losses)
    best = straight.callbacks_[1][1].best_model_weights_
    assert expected == pytest.approx([0.01] * 3 + [0.001] * 2)

    with Checkpoints(tmp_path, IDENTITY) as checkpoints:
        interrupted = net_with_callbacks()
        run(interrupted, losses[:3])
        checkpoints.save(capture(interrupted), 3)
        state = checkpoints.load()
    resumed = _net(seed=1)
    resumed.callbacks_ = net_with_callbacks().callbacks_
    restore(resumed, state)
    for _, callback in resumed.callbacks_:
        callback.on_train_begin(resumed)
    restore_callbacks(resumed, state)
    load_optimizer_state(resumed.optimizer_, state)
    assert run(resumed, losses[3:]) == expected[3:]
    stopping = resumed.callbacks_[1][1]
    assert stopping.misses_ == 3
    assert stopping.best_epoch_ == 2
    assert stopping.dynamic_threshold_ == straight.callbacks_[1][1].dynamic_threshold_
    assert _equal(stopping.best_model_weights_, best)
    with pytest.raises(KeyboardInterrupt):
        run(resumed, [0.7])
