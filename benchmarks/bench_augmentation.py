"""Time the paper's augmentation against TorchIO, MONAI and kornia, one thread each.

    python benchmarks/bench_augmentation.py [--peers DIR] [--rounds 7]
        [--output benchmarks/results/bench_augmentation.txt]

All sides do the same in kind to a batch of volumes: a random resized crop in the plane
with probability 0.5, then a random affine transform in the plane (45 degrees, 10 %
shift, 10 % size) with probability 0.5, each drawn for every volume by itself, linear,
zeros outside. Every side has a process of its own, and they take turns; a ratio is that
of two turns of one round.

Peers are used as they are meant to be, and where that is faster also with the slices
as channels of an image, for which they were not made:

- TorchIO 1: `Compose` on subjects, one by one; a crop is `Crop` and `Resize`.
- TorchIO 2: `Compose` on an `ImagesBatch`; it has no random crop, which is an `Affine`
  that zooms and shifts.
- MONAI: `Compose` on volumes (or images), one by one; `RandScaleCrop` and `Resize`.
- kornia: on the whole batch. It has no resized crop of volumes, which is a
  `RandomAffine3D` that zooms and shifts; for images it is `RandomResizedCrop`.

`DIR` has one folder for each peer, since two versions of TorchIO do not go together,
and one for what they need; what is missing is left out::

    pip install --no-deps --target DIR/torchio1 torchio==1.2.1
    pip install --no-deps --target DIR/torchio2 torchio==2.0.0a2
    pip install --no-deps --target DIR/monai monai
    pip install --no-deps --target DIR/kornia kornia kornia_rs
    pip install --no-deps --target DIR/common deprecated docstring_parser humanize
        jaxtyping loguru markdown-it-py mdurl nibabel platformdirs rich shellingham
        simpleitk torch-interpol typeguard typer tyro wadler-lindig wrapt
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _measure import Side, machine, ratios, serve, spread, time_calls, write

OURS = "sksubtomo"
# Side: (folder of --peers, name in the report, how many times slower it is claimed).
PEERS = {
    "torchio1": ("torchio1", "TorchIO 1, one by one", 80),
    "torchio2": ("torchio2", "TorchIO 2, batched", 25),
    "monai": ("monai", "MONAI", 12),
    "monai2d": ("monai", "MONAI, slices as channels", None),
    "kornia": ("kornia", "kornia", 12),
    "kornia2d": ("kornia", "kornia, slices as channels", None),
}
SIZES, BATCHES = (32, 16), (16, 64)
DEGREES, SHIFT, SCALE = 45.0, 0.1, 0.1
SMALLEST = 0.5**0.5  # Side of a crop that keeps half of the area.
TURN = 0.25  # Seconds.


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=Path, help="folder of the peers' folders")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--serve", choices=[OURS, *PEERS], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(lambda: prepare(options.serve))
        return

    sides, lines = {OURS: Side(__file__, OURS)}, []
    for name, (folder, title, _) in PEERS.items():
        folders = []
        if options.peers is not None:
            folders = [options.peers / folder, options.peers / "common"]
        side = Side(__file__, name, folders)
        if side.missing is None:
            sides[name] = side
        else:
            lines.append(f"Left out: {title}: {side.missing}")
    versions = dict.fromkeys(side.versions for side in sides.values())
    lines = [
        f"Command: python benchmarks/bench_augmentation.py --peers DIR "
        f"--rounds {options.rounds}",
        f"Machine: {machine()}; one thread",
        f"Versions: {', '.join(versions)}",
        *lines,
        "",
        "Milliseconds a batch, and how many times sksubtomo's: median (lowest-highest) "
        f"of {options.rounds} rounds",
        f"{'size':>4} {'batch':>5}  {'side':<27}{'ms':<24}{'ratio, wall':<21}"
        f"{'ratio, processor':<21}aim",
    ]
    for size in SIZES:
        for batch in BATCHES:
            turns: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
            for number in range(options.rounds):
                print(f"{size}^3, batch {batch}, round {number + 1}", file=sys.stderr)
                for name, side in sides.items():
                    turns[name].append(side.measure(size=size, batch=batch))
            for name, results in turns.items():
                milliseconds = spread(turn["wall"] * 1e3 for turn in results)
                title, aim = PEERS[name][1:] if name in PEERS else (OURS, None)
                wall, cpu = ratios(turns[OURS], results, digits=1)
                row = f"{size:>4} {batch:>5}  {title:<27}{milliseconds:<24}"
                if name != OURS:
                    row += f"{wall:<21}{cpu:<21}{f'{aim}' if aim else ''}"
                lines.append(row.rstrip())
    for side in sides.values():
        side.close()
    write(lines, options.output)


def prepare(name: str) -> tuple[str, Callable[..., dict[str, float]]]:
    """Import a side; return its versions and how to time it."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    random.seed(0)
    versions, build = {
        OURS: sksubtomo_views,
        "torchio1": torchio1_views,
        "torchio2": torchio2_views,
        "monai": lambda: monai_views(as_image=False),
        "monai2d": lambda: monai_views(as_image=True),
        "kornia": kornia_views,
        "kornia2d": kornia_image_views,
    }[name]()

    calls: dict[tuple[int, int], Callable[[], Any]] = {}

    def measure(size: int, batch: int) -> dict[str, float]:
        if (size, batch) not in calls:
            volumes = torch.randn(batch, 1, size, size, size)
            calls[size, batch] = build(volumes)
            calls[size, batch]()
        return time_calls(calls[size, batch], TURN)

    check_kind(name, build)
    return versions, measure


def check_kind(name: str, build: Callable[[Any], Callable[[], Any]]) -> None:
    """Stop unless a side's views are what the docstring says."""
    import torch

    n_calls, n, size = 16, 16, 16
    volumes = torch.zeros(n, 1, size, size, size)
    volumes[:, :, 5] = 1 + torch.rand(size, size)
    call = build(volumes)
    # Of many calls, since kornia crops a whole batch of images or none of it.
    views = torch.stack(
        [torch.as_tensor(call()).reshape(volumes.shape) for _ in range(n_calls)]
    )
    others = [z for z in range(size) if z != 5]
    found = {
        "moved": (views - volumes).abs().flatten(2).amax(2).gt(0.01).double().mean(),
        "show zeros": views[:, :, :, 5].flatten(2).amin(2).lt(0.5).double().mean(),
        "other slices": views[:, :, :, others].abs().max(),
        "distinct": len(views.flatten(0, 1).flatten(1).unique(dim=0)) / n / n_calls,
    }
    # A crop by whole voxels, as TorchIO 1 has it, does not give many different views.
    expected = {
        "moved": (0.6, 0.9),
        "show zeros": (0.35, 0.7),
        "other slices": (0, 1e-4),
        "distinct": (0.5, 1),
    }
    for what, (low, high) in expected.items():
        if not low <= found[what] <= high:
            raise SystemExit(
                f"{name} is not of the same kind: {what}: {float(found[what]):.3g}, "
                f"expected {low} to {high}"
            )


def sksubtomo_views() -> tuple[str, Callable[[Any], Callable[[], Any]]]:
    import torch

    import sksubtomo
    from sksubtomo.augmentation import CropAffine

    def build(volumes):
        sampler = CropAffine().build(0)
        return lambda: sampler(volumes)

    return f"sksubtomo {sksubtomo.__version__}, torch {torch.__version__}", build


def torchio1_views() -> tuple[str, Callable[[Any], Callable[[], Any]]]:
    import torch
    import torchio as tio

    def build(volumes):
        transform = torchio1_transform(volumes.shape[-1])
        # Copies, since TorchIO copies a subject with the whole storage of its tensor.
        subjects = [
            tio.Subject(volume=tio.ScalarImage(tensor=volume.clone()))
            for volume in volumes
        ]
        return lambda: torch.stack([transform(s).volume.data for s in subjects])

    return f"torchio {tio.__version__}", build


def torchio1_transform(size: int) -> Any:
    """Return TorchIO 1's transform of subjects of cubic volumes."""
    import torchio as tio

    resize = tio.Resize((size, size, size))

    class RandomResizedCrop(tio.Transform):
        def apply_transform(self, subject):
            side = round(size * random.uniform(SMALLEST**2, 1) ** 0.5)
            top, left = (random.randint(0, size - side) for _ in range(2))
            ends = (top, size - side - top, left, size - side - left)
            return resize(tio.Crop((0, 0, *ends))(subject))

    shift = SHIFT * size
    affine = tio.RandomAffine(
        scales=(1, 1, *[1 - SCALE, 1 + SCALE] * 2),
        degrees=(-DEGREES, DEGREES, 0, 0, 0, 0),
        translation=(0, 0, *[-shift, shift] * 2),
        default_pad_value=0,
        p=0.5,
    )
    return tio.Compose([RandomResizedCrop(p=0.5), affine])


def torchio2_views() -> tuple[str, Callable[[Any], Callable[[], Any]]]:
    import torchio as tio

    def build(volumes):
        size = volumes.shape[-1]
        shift, room = SHIFT * size, (1 - SMALLEST) / 2 * size
        affine = {"default_pad_value": 0, "p": 0.5}
        transform = tio.Compose(
            [
                tio.Affine(
                    scales=(1, 1, *[1, 1 / SMALLEST] * 2),
                    translation=(0, 0, *[-room, room] * 2),
                    **affine,
                ),
                tio.Affine(
                    scales=(1, 1, *[1 - SCALE, 1 + SCALE] * 2),
                    degrees=(-DEGREES, DEGREES, 0, 0, 0, 0),
                    translation=(0, 0, *[-shift, shift] * 2),
                    **affine,
                ),
            ]
        )
        batch = tio.ImagesBatch(volumes, [tio.AffineMatrix() for _ in volumes])
        return lambda: transform(batch).data

    return f"torchio {tio.__version__}", build


def monai_views(as_image: bool) -> tuple[str, Callable[[Any], Callable[[], Any]]]:
    import monai
    import torch
    from monai import transforms

    def build(volumes):
        items = [volume.clone() for volume in (volumes[:, 0] if as_image else volumes)]
        sides = items[0].shape[1:]
        shift = SHIFT * sides[-1]
        still = () if as_image else (0,)
        affine = transforms.RandAffine(
            prob=0.5,
            rotate_range=[DEGREES / 180 * torch.pi, *(2 * still)],
            translate_range=[*still, shift, shift],
            scale_range=[*still, SCALE, SCALE],
            mode="bilinear",
            padding_mode="zeros",
            spatial_size=sides,
            cache_grid=True,
        )
        crop = transforms.Compose(
            [
                transforms.RandScaleCrop(
                    roi_scale=[*(1 for _ in still), SMALLEST, SMALLEST],
                    max_roi_scale=1,
                    random_size=True,
                ),
                transforms.Resize(sides, mode="bilinear" if as_image else "trilinear"),
            ]
        )

        def view(item):
            return affine(crop(item) if random.random() < 0.5 else item)

        return lambda: torch.stack([view(item) for item in items])

    return f"monai {monai.__version__}", build


def kornia_views() -> tuple[str, Callable[[Any], Callable[[], Any]]]:
    import kornia
    import torch
    from kornia.augmentation import RandomAffine3D

    def build(volumes):
        # Angles are about the axes x, y and z; shifts and sizes are in that order, too.
        room = (1 - SMALLEST) / 2
        zoom, size = (1.0, 1 / SMALLEST), (1 - SCALE, 1 + SCALE)
        transform = torch.nn.Sequential(
            RandomAffine3D(
                0.0, translate=(room, room, 0.0), scale=(zoom, zoom, (1.0, 1.0)), p=0.5
            ),
            RandomAffine3D(
                ((0.0, 0.0), (0.0, 0.0), (-DEGREES, DEGREES)),
                translate=(SHIFT, SHIFT, 0.0),
                scale=(size, size, (1.0, 1.0)),
                p=0.5,
            ),
        )
        return lambda: transform(volumes)

    return f"kornia {kornia.__version__}", build


def kornia_image_views() -> tuple[str, Callable[[Any], Callable[[], Any]]]:
    import kornia
    import torch
    from kornia.augmentation import RandomAffine, RandomResizedCrop

    def build(volumes):
        images = volumes[:, 0]
        transform = torch.nn.Sequential(
            RandomResizedCrop(
                tuple(images.shape[2:]),
                scale=(SMALLEST**2, 1.0),
                ratio=(1.0, 1.0),
                cropping_mode="slice",  # On the CPU faster than "resample".
                p=0.5,
            ),
            RandomAffine(
                DEGREES,
                translate=(SHIFT, SHIFT),
                scale=(1 - SCALE, 1 + SCALE),
                p=0.5,
            ),
        )
        return lambda: transform(images)

    return f"kornia {kornia.__version__}", build


if __name__ == "__main__":
    main()
