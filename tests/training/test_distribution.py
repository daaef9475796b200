"""What one process learns is compared with what two processes of torchrun learn.

This file is the script of those processes, too: one launch does everything.
"""

import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sksubtomo import ContrastivePretrainer
from sksubtomo._training import checkpoints
from sksubtomo._training.batches import BatchLoader, Normalizer, VolumeDataset
from sksubtomo._training.distribution import (
    Processes,
    agree,
    check_same,
    is_main,
    join_processes,
    parallelize,
    part_sizes,
)
from sksubtomo.contrastive import (
    BYOL,
    METHODS,
    ContrastiveModule,
    MoCo,
    SimCLR,
    SwAV,
    VICReg,
)
from sksubtomo.networks import RB3D, ResNet3D

CPU = torch.device("cpu")
ALONE = Processes(0, 1)

# Parts of different sizes; with one volume, there is a process without any.
BATCHES = (7, 7, 8, 7, 1, 7, 2, 7, 3, 7)

FITS = {
    "simclr": {"method": SimCLR(), "augmentation": "rotate_shift_noise"},
    "moco": {"method": MoCo(queue_size=16, momentum=0.9), "mask": "sphere"},
    "swav": {"method": SwAV(n_prototypes=5), "encoder": RB3D(norm="group")},
    "byol": {"method": BYOL(momentum=0.9), "encoder": RB3D(norm="group")},
    "vicreg": {"method": VICReg(), "augmentation": "rotate_shift_noise"},
}


class BatchNormEncoder(nn.Module):
    n_features = 6

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(1, 4, 3),
            nn.BatchNorm3d(4),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(32, 6),
            nn.BatchNorm1d(6, momentum=None, affine=False),
        )

    def forward(self, volumes):
        return self.layers(volumes)


class DropoutEncoder(nn.Module):
    n_features = 6

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(1, 8, 3),
            nn.Dropout3d(0.3),
            nn.Tanh(),
            nn.Dropout(0.3),
            nn.Flatten(),
            nn.Linear(64, 6),
            nn.Dropout(0.3),
        )

    def forward(self, volumes):
        return self.layers(volumes)


ENCODERS = {
    "rb3d": lambda: RB3D(norm="group").build((4, 4, 4)),
    "bn": BatchNormEncoder,
    "dropout": DropoutEncoder,
    # Pooled to a single voxel, of which a batch of one has no spread.
    "resnet3d": lambda: ResNet3D(widths=(8, 16)).build((4, 4, 4)),
}


def train(method, encoder, processes):
    """Train ten steps in double precision; return everything there is to compare."""
    with torch.random.fork_rng(devices=[]):
        return _train(method, encoder, processes)


def _train(method, encoder, processes):
    generator = torch.Generator().manual_seed(0)
    # Only the first process's start counts.
    torch.manual_seed(processes.rank)
    module = FITS[method]["method"].build(ENCODERS[encoder]()).double()
    torch.manual_seed(2)
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3, weight_decay=0.1)
    found = {"losses": []}
    with parallelize(module, CPU, processes) as parallel:
        for step, n in enumerate(BATCHES):
            # A batch normalisation of torch's own needs two rows.
            n = max(n, 2 if encoder == "bn" else 1)
            module.start_epoch(step // 5)
            volumes = torch.randn(n, 1, 4, 4, 4, generator=generator).double()
            noise = 0.1 * torch.randn(n, 1, 4, 4, 4, generator=generator).double()
            sizes = part_sizes(n, processes.size)
            own = [views.split(sizes)[processes.rank] for views in (volumes, noise)]
            optimizer.zero_grad()
            loss = parallel(own[0], own[0] + own[1], n)
            loss.backward()
            optimizer.step()
            found["losses"].append(loss.item())
            if step in (0, 4, 9):
                for name, value in module.named_parameters():
                    if value.grad is not None:
                        found[f"{step} {name}"] = value.grad.numpy().copy()
    assert not [layer for layer in module.modules() if "forward" in vars(layer)]
    assert ContrastiveModule(nn.Identity()).gather is module.gather
    found["generator"] = torch.get_rng_state().numpy()
    return found | {name: value.numpy() for name, value in module.state_dict().items()}


class Stubborn(ContrastiveModule):
    def forward(self, view_1, view_2):
        return (self.encoder(view_1) - self.encoder(view_2)).square().mean()


def train_stubborn(processes):
    module = Stubborn(BatchNormEncoder())
    with parallelize(module, CPU, processes) as parallel:
        parallel(*torch.randn(2, 4, 1, 4, 4, 4), 4 * processes.size)


def fit(method, **parameters):
    """Fit a pretrainer: 4 epochs of 3 batches, the last one odd.

    The learning rate is low, because an activation that rounding moves across the kink
    of a ReLU changes float32 gradients by far more than rounding.
    """
    volumes = np.random.default_rng(0).normal(size=(21, 8, 8, 8)).astype(np.float32)
    pretrainer = ContrastivePretrainer(
        **FITS[method],
        **parameters,
        max_epochs=4,
        batch_size=8,
        lr=1e-5,
        device="cpu",
    )
    state = torch.get_rng_state()
    pretrainer.fit(volumes)
    assert torch.equal(torch.get_rng_state(), state)
    return pretrainer, {
        "losses": [epoch["train_loss"] for epoch in pretrainer.history_],
        "embedding": pretrainer.transform(volumes[:5]),
    }


def find_disk_full(path, write):
    raise OSError("disk full.")


def main(folder):
    """Do everything that the tests look at, as one of the processes."""
    assert not torch.distributed.is_initialized()
    assert is_main() == (os.environ["RANK"] == "0")
    processes = join_processes(CPU)
    assert join_processes(CPU) == processes
    assert is_main() == (processes.rank == 0)
    with pytest.raises(ValueError, match="device='mps' with 2 processes; expected"):
        join_processes(torch.device("mps"))
    found = {"processes": [*processes], "agreed": agree([processes.rank])}

    check_same({"lr": 1, "X": {"shape": [2, 3]}})
    with pytest.raises(ValueError, match="different data or parameters") as error:
        check_same({"X": {"shape": [2, 3], "n": processes.rank}, "lr": 1})
    found["different"] = str(error.value)
    for method in METHODS:
        for encoder in ENCODERS:
            found[f"train {method} {encoder}"] = train(method, encoder, processes)
    with pytest.raises(TypeError, match="Stubborn calls its encoder itself"):
        train_stubborn(processes)

    for method in METHODS:
        pretrainer, found[f"fit {method}"] = fit(method, random_state=0)
    # Every process draws a seed of its own, and takes the first one's.
    _, found["unseeded"] = fit("simclr", random_state=None)
    with pytest.raises(ValueError, match="weight_decay is") as error:
        fit("moco", random_state=0, weight_decay=0.1 * processes.rank)
    with pytest.MonkeyPatch.context() as patch:
        if processes.rank == 0:
            patch.setattr(checkpoints, "write_atomically", find_disk_full)
        with pytest.raises(OSError, match="disk") as error:
            fit("moco", random_state=0, checkpoint_dir=folder / "run")
    found["disk full"] = str(error.value)
    pretrainer.save(folder / f"model-{processes.rank}")
    torch.save(found, folder / f"{processes.rank}.pt")
    torch.distributed.barrier()

    if processes.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    fit("moco", random_state=0)
    (folder / "survived").touch()


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """Run `main` in two processes; return what each found, and the folder."""
    folder = tmp_path_factory.mktemp("launched")
    command = ["torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    with subprocess.Popen(
        [sys.executable, "-m", *command, __file__, str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            _, errors = process.communicate(timeout=600)
        except BaseException:
            # It ends the processes that it has started, which have their own groups.
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
            raise
    paths = [folder / f"{rank}.pt" for rank in range(2)]
    assert all(path.exists() for path in paths), errors
    found = [torch.load(path, weights_only=False) for path in paths]
    return found, folder, process.returncode, errors


def test_processes_find_each_other(launched):
    (first, second), *_ = launched
    assert (first["processes"], second["processes"]) == ([0, 2], [1, 2])
    assert first["agreed"] == second["agreed"] == [0]


def test_differences_are_named_in_every_process(launched):
    (first, second), *_ = launched
    assert first["different"] == second["different"]
    assert "in process 1, X.n is 1 and not 0; expected" in first["different"]


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("method", METHODS)
def test_losses_gradients_and_state_are_those_of_one_process(launched, method, encoder):
    expected = train(method, encoder, ALONE)
    for found in launched[0]:
        trained = found[f"train {method} {encoder}"]
        assert trained.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(
                trained[name], value, rtol=0, atol=1e-7, err_msg=name
            )


@pytest.mark.parametrize("method", METHODS)
def test_fit_is_that_of_one_process(launched, method):
    (first, second), *_ = launched
    _, expected = fit(method, random_state=0)
    found = first[f"fit {method}"]
    np.testing.assert_allclose(found["losses"], expected["losses"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(
        found["embedding"], expected["embedding"], rtol=0, atol=1e-3
    )
    assert found["losses"] == second[f"fit {method}"]["losses"]


def test_processes_without_a_seed_share_one(launched):
    (first, second), *_ = launched
    assert first["unseeded"]["losses"] == second["unseeded"]["losses"]
    np.testing.assert_array_equal(
        first["unseeded"]["embedding"], second["unseeded"]["embedding"]
    )


def test_first_process_saves(launched):
    (first, _), folder, *_ = launched
    assert not (folder / "model-1").exists()
    loaded = ContrastivePretrainer.load(folder / "model-0")
    losses = [epoch["train_loss"] for epoch in loaded.history_]
    assert losses == first["fit vicreg"]["losses"]


def test_full_disk_ends_all(launched):
    (first, second), *_ = launched
    assert first["disk full"] == second["disk full"]
    assert "Training stopped after epoch 1; there is no" in first["disk full"]


def test_killed_process_ends_all(launched):
    _, folder, status, errors = launched
    assert status != 0
    assert "SIGKILL" in errors
    assert not (folder / "survived").exists()


def test_process_that_was_not_launched_is_alone():
    assert join_processes(CPU) == ALONE
    assert is_main()
    value = object()
    assert agree(value) is value
    check_same({"a": 1})
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize("n", [0, 1, 5, 6, 7])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_parts_are_those_of_the_loader(n, size):
    sizes = part_sizes(n, size)
    assert sum(sizes) == n
    assert max(sizes) - min(sizes) <= 1
    dataset = VolumeDataset(np.zeros((n, 2, 2, 2), np.float32))
    for rank in range(size if n else 0):
        loader = BatchLoader(
            dataset,
            batch_size=8,
            normalizer=Normalizer(),
            device=CPU,
            shard=(rank, size),
        )
        ((part, _),) = loader
        assert (len(part.volumes), part.start) == (sizes[rank], sum(sizes[:rank]))


if __name__ == "__main__":
    # Other packages may warn as they like when they are imported.
    warnings.filterwarnings("error", module=r"sksubtomo\.")
    warnings.filterwarnings("error", "Grad strides do not match")
    main(Path(sys.argv[1]))
