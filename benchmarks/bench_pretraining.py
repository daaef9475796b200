"""Time pretraining: `fit` against a bare loop, and an epoch against lightly's losses.

    python benchmarks/bench_pretraining.py [--peers DIR] [--methods moco]
        [--output benchmarks/results/bench_pretraining.txt]

**Overhead.** The bare loop has the same network, loss, augmentation, optimiser and
memory layout, batches by index from the same array, and nothing else: plain PyTorch in
one function. It runs one epoch after each epoch of `fit`, from a callback, so that both
see the same machine; an epoch of `fit` is all that lies between two epochs of the bare
loop. The first epochs warm up and do not count. What `fit` does once, before the first
epoch and after the last, is given in seconds.

**lightly.** A whole epoch with lightly's loss on TorchIO 1's transforms, one by one
through a `DataLoader`, as both are meant to be used; the same volumes, batch size,
head, optimiser and method. The network is given to it twice: as published and as one
would write it down (the ReLU before the pooling and again after the concatenation,
memory in the default order), and as sksubtomo has it, channels last. Each side has a
process of its own, and they take turns, an epoch each.

`DIR` is as for ``bench_augmentation.py``, with lightly in a folder of its own::

    pip install --no-deps --target DIR/lightly lightly

On import, lightly wants torchvision, for models and losses that are not used here;
where it is not installed, an empty module stands in for it.
"""

from __future__ import annotations

import argparse
import copy
import importlib.abc
import importlib.machinery
import importlib.util
import statistics
import sys
import time
import types
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _measure import Side, machine, ratios, serve, write
from bench_augmentation import torchio1_transform
from skorch.callbacks import Callback
from torch import nn
from torch.nn import functional

import sksubtomo
from sksubtomo import ContrastivePretrainer
from sksubtomo.augmentation import CropAffine
from sksubtomo.contrastive import MoCo, SimCLR
from sksubtomo.networks import RB3D

METHODS = {"moco": MoCo, "simclr": SimCLR}
OURS, PUBLISHED, SAME = "sksubtomo", "lightly, plain network", "lightly, our network"
LAST = torch.channels_last_3d
LR, WEIGHT_DECAY = 1e-4, 1e-4
BATCHES = (16, 64)
# Volumes and timed epochs by size, some seconds an epoch.
OVERHEAD = {16: (256, 7), 32: (128, 4)}
EPOCH = {16: (256, 3), 32: (64, 3)}
AIM_OVERHEAD, AIM_LIGHTLY = 0.95, 1.4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=Path, help="folder of the peers' folders")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["moco"])
    parser.add_argument("--sizes", nargs="+", type=int, choices=EPOCH, default=[16, 32])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.serve:
        serve(partial(prepare, options.serve))
        return
    lines = [
        "Command: python benchmarks/bench_pretraining.py --peers DIR --methods "
        f"{' '.join(options.methods)} --sizes {' '.join(map(str, options.sizes))}",
        f"Machine: {machine()}; one thread",
        f"Versions: sksubtomo {sksubtomo.__version__}, torch {torch.__version__}",
        "Median (lowest-highest) of all epochs but the first.",
        "",
        f"Throughput of fit as a part of the bare loop's (aim: {AIM_OVERHEAD})",
        f"{'size':>4} {'batch':>5}  {'method':<8}{'volumes/s':<12}{'wall':<20}"
        f"{'processor':<20}once (s)",
        *overhead(options.methods, options.sizes),
        "",
        *against_lightly(options),
    ]
    write(lines, options.output)


def overhead(methods: list[str], sizes: list[int]) -> Iterator[str]:
    """Yield a row for each comparison of `fit` with the bare loop."""
    for size in sizes:
        n, n_epochs = OVERHEAD[size]
        volumes = make_volumes(n, size)
        for batch in BATCHES:
            for method in methods:
                print(f"overhead: {size}^3, batch {batch}, {method}", file=sys.stderr)
                in_turn = InTurn(
                    bare_loop(volumes, METHODS[method](), batch_size=batch)
                )
                start = time.perf_counter()
                pretrainer = ContrastivePretrainer(
                    method,
                    encoder=RB3D(),
                    augmentation="crop_affine",
                    schedule="constant",
                    max_epochs=n_epochs + 1,
                    batch_size=batch,
                    lr=LR,
                    weight_decay=WEIGHT_DECAY,
                    callbacks=[in_turn],
                    device="cpu",
                    random_state=0,
                )
                pretrainer.fit(volumes)
                once = time.perf_counter() - start - in_turn.training
                wall, cpu = ratios(in_turn.fit[1:], in_turn.bare[1:], digits=3)
                speed = n / statistics.median(turn["wall"] for turn in in_turn.fit[1:])
                yield (
                    f"{size:>4} {batch:>5}  {method:<8}{speed:<12.1f}{wall:<20}"
                    f"{cpu:<20}{once:.2f}"
                )


class InTurn(Callback):
    """Runs an epoch of the bare loop after each epoch of `fit`, and times both."""

    def __init__(self, bare_epoch: Callable[[], None]) -> None:
        self.bare_epoch = bare_epoch
        self.fit: list[dict[str, float]] = []
        self.bare: list[dict[str, float]] = []

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self._began = time.perf_counter()
        self._mark = now()

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Time the epoch and the bare loop's."""
        end = now()
        self.fit.append(since(self._mark, end))
        self.bare_epoch()
        self._mark = now()
        self.bare.append(since(end, self._mark))

    def on_train_end(self, net: Any, **kwargs: Any) -> None:
        """Stop the clock."""
        self.training = time.perf_counter() - self._began


def bare_loop(
    volumes: np.ndarray, method: Any, *, batch_size: int
) -> Callable[[], None]:
    """Return a function that trains for an epoch, in as little code as possible."""
    torch.manual_seed(0)
    size = volumes.shape[-1]
    module = method.build(RB3D().build((size, size, size))).to(memory_format=LAST)
    optimizer = torch.optim.Adam(module.parameters(), LR, weight_decay=WEIGHT_DECAY)
    view = CropAffine().build(0)
    order = np.random.default_rng(0)
    mean, scale = float(volumes.mean()), float(volumes.std())

    def epoch() -> None:
        module.train()
        losses = []
        rows = order.permutation(len(volumes))
        for start in range(0, len(rows), batch_size):
            batch = torch.from_numpy(volumes[rows[start : start + batch_size]])[:, None]
            batch = (batch - mean) / scale
            loss = module(view(batch), view(batch))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        assert torch.stack(losses).isfinite().all()

    return epoch


def against_lightly(options: argparse.Namespace) -> Iterator[str]:
    """Yield the report of the comparison with lightly."""
    sides = {OURS: Side(__file__, OURS)}
    for name in (PUBLISHED, SAME):
        folders = []
        if options.peers is not None:
            folders = [options.peers / f for f in ("lightly", "torchio1", "common")]
        sides[name] = Side(__file__, name, folders)
        if sides[name].missing is not None:
            yield f"Left out: {name}: {sides.pop(name).missing}"
    yield (
        "An epoch with lightly's loss on TorchIO's transforms, times sksubtomo's "
        f"(aim: {AIM_LIGHTLY}). {sides[name].versions if name in sides else ''}"
    )
    yield (
        f"{'size':>4} {'batch':>5}  {'method':<8}{'side':<24}{'volumes/s':<12}"
        f"{'wall':<19}processor"
    )
    for size in options.sizes:
        n, rounds = EPOCH[size]
        for batch in BATCHES:
            for method in options.methods:
                turns: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
                for number in range(rounds + 1):
                    print(
                        f"epoch: {size}^3, batch {batch}, {method}, round {number}",
                        file=sys.stderr,
                    )
                    for name, side in sides.items():
                        turn = side.measure(size=size, n=n, batch=batch, method=method)
                        if number:
                            turns[name].append(turn)
                for name, results in turns.items():
                    speed = n / statistics.median(turn["wall"] for turn in results)
                    row = f"{size:>4} {batch:>5}  {method:<8}{name:<24}{speed:<12.1f}"
                    if name != OURS:
                        wall, cpu = ratios(turns[OURS], results)
                        row += f"{wall:<19}{cpu}"
                    yield row.rstrip()
    for side in sides.values():
        side.close()


def prepare(name: str) -> tuple[str, Callable[..., dict[str, float]]]:
    """Import a side; return its versions and how to time an epoch."""
    versions, build = "", sksubtomo_epoch
    if name != OURS:
        if importlib.util.find_spec("torchvision") is None:
            sys.meta_path.append(NoTorchvision())
        import lightly
        import lightly.loss
        import torchio

        versions = f"lightly {lightly.__version__}, torchio {torchio.__version__}"
        build = partial(lightly_epoch, published=name == PUBLISHED)

    epochs: dict[tuple[Any, ...], Callable[[], dict[str, float]]] = {}

    def measure(size: int, n: int, batch: int, method: str) -> dict[str, float]:
        key = size, n, batch, method
        if key not in epochs:
            epochs[key] = build(make_volumes(n, size), batch, method)
        return epochs[key]()

    return versions, measure


def sksubtomo_epoch(
    volumes: np.ndarray, batch: int, method: str
) -> Callable[[], dict[str, float]]:
    """Return a function that fits for an epoch and times that."""

    def epoch() -> dict[str, float]:
        clock = InTurn(lambda: None)
        ContrastivePretrainer(
            method,
            encoder=RB3D(),
            augmentation="crop_affine",
            schedule="constant",
            max_epochs=1,
            batch_size=batch,
            lr=LR,
            weight_decay=WEIGHT_DECAY,
            callbacks=[clock],
            device="cpu",
            random_state=0,
        ).fit(volumes)
        return clock.fit[0]

    return epoch


def lightly_epoch(
    volumes: np.ndarray, batch: int, method: str, *, published: bool
) -> Callable[[], dict[str, float]]:
    """Return a function that trains for an epoch as lightly's examples do."""
    import torchio as tio
    from lightly.loss import NTXentLoss

    torch.manual_seed(0)
    size = volumes.shape[-1]
    encoder: nn.Module = PublishedRB3D() if published else RB3D().build((size,) * 3)
    head = nn.Sequential(
        nn.BatchNorm1d(256, affine=False),
        nn.Linear(256, 256),
        nn.ReLU(),
        nn.Linear(256, 128),
    )
    model = nn.Sequential(encoder, head)
    if not published:
        model.to(memory_format=LAST)
    momentum_model = copy.deepcopy(model).requires_grad_(False)
    if method == "moco":
        defaults = MoCo()
        criterion = NTXentLoss(
            temperature=defaults.temperature,
            memory_bank_size=(defaults.queue_size, defaults.projection_dim),
        )
    else:
        criterion = NTXentLoss(temperature=SimCLR().temperature)
    optimizer = torch.optim.Adam(model.parameters(), LR, weight_decay=WEIGHT_DECAY)

    transform = torchio1_transform(size)
    mean, scale = float(volumes.mean()), float(volumes.std())
    subjects = [
        tio.Subject(volume=tio.ScalarImage(tensor=torch.from_numpy(volume)[None]))
        for volume in (volumes - mean) / scale
    ]

    class TwoViews(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(subjects)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
            views = (transform(subjects[index]) for _ in range(2))
            return tuple(view.volume.data for view in views)

    loader = torch.utils.data.DataLoader(TwoViews(), batch, shuffle=True)

    def epoch() -> dict[str, float]:
        start = now()
        total = 0.0
        for view_1, view_2 in loader:
            query = model(view_1)
            if method == "moco":
                with torch.no_grad():
                    for source, target in zip(
                        model.parameters(), momentum_model.parameters(), strict=True
                    ):
                        target.mul_(0.999).add_(source, alpha=0.001)
                    key = momentum_model(view_2)
            else:
                key = model(view_2)
            loss = criterion(query, key)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        assert np.isfinite(total)
        return since(start, now())

    return epoch


class NoTorchvision(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Stands in for torchvision where other losses and models of lightly import it."""

    def find_spec(self, fullname, path, target=None):
        """Find torchvision and whatever is in it."""
        if fullname.partition(".")[0] != "torchvision":
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec):
        """Make an empty module."""
        return types.ModuleType(spec.name)

    def exec_module(self, module):
        """Let the module have any name but those that Python itself looks up."""

        def placeholder(name):
            if name.startswith("__"):
                raise AttributeError(name)
            return type(name, (), {})

        module.__getattr__ = placeholder


class PublishedRB3D(nn.Module):
    """RB3D written down from its description."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv3d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool3d(2)
        )
        self.right = nn.ModuleList(
            nn.Sequential(nn.Conv3d(32, 16, 3, padding=1), nn.ReLU()) for _ in range(4)
        )
        self.left = nn.ModuleList(
            nn.Sequential(
                nn.Conv3d(32, 16, 1),
                nn.ReLU(),
                nn.Conv3d(16, 32, 3, padding=1),
                nn.ReLU(),
                nn.Conv3d(32, 16, 1),
            )
            for _ in range(4)
        )

    def forward(self, volumes: torch.Tensor) -> torch.Tensor:
        """Encode a batch."""
        hidden = self.stem(volumes)
        for right, left in zip(self.right, self.left, strict=True):
            hidden = torch.cat([right(hidden), left(hidden)], dim=1)
            hidden = functional.relu(hidden)
        return functional.adaptive_avg_pool3d(hidden, 2).flatten(1)


def make_volumes(n: int, size: int) -> np.ndarray:
    """Return noise; the time does not depend on what is in the volumes."""
    generator = np.random.default_rng(0)
    return generator.standard_normal((n, size, size, size), dtype=np.float32)


def now() -> tuple[float, float]:
    """Return wall and processor time."""
    return time.perf_counter(), time.process_time()


def since(start: tuple[float, float], end: tuple[float, float]) -> dict[str, float]:
    """Return the seconds between two times."""
    return {"wall": end[0] - start[0], "cpu": end[1] - start[1]}


if __name__ == "__main__":
    main()
