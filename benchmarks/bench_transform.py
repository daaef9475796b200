"""Time `transform` against the bare forward of the encoder, one thread.

    python benchmarks/bench_transform.py [--rounds 9]
        [--output benchmarks/results/bench_transform.txt]

The bare forward is a loop over slices of the array: normalise, encode, keep; the same
weights in the same layout, without gradients. Both run over the whole array in turns.
`transform` chooses its own batch size, and its output for a volume does not depend on
what else is in the array; it also looks for values that are not finite.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from _measure import machine, ratios, time_calls, write

import sksubtomo
from sksubtomo import ContrastivePretrainer

N_VOLUMES = {16: 512, 32: 128}
BATCHES = (16, 64)
AIM = 0.95


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        f"Command: python benchmarks/bench_transform.py --rounds {options.rounds}",
        f"Machine: {machine()}; one thread",
        f"Versions: sksubtomo {sksubtomo.__version__}, torch {torch.__version__}",
        "",
        "Throughput of transform as a part of the bare forward's: median "
        f"(lowest-highest) of {options.rounds} rounds (aim: {AIM})",
        f"{'size':>4} {'batch':>5}  {'volumes/s':<12}{'wall':<22}processor",
    ]
    for size, n in N_VOLUMES.items():
        generator = np.random.default_rng(0)
        volumes = generator.standard_normal((n, size, size, size), dtype=np.float32)
        pretrainer = ContrastivePretrainer(
            encoder="rb3d", max_epochs=1, device="cpu", random_state=0
        ).fit(volumes[:32])
        encoder = copy.deepcopy(pretrainer.encoder_).eval()
        encoder.to(memory_format=torch.channels_last_3d)
        for batch in BATCHES:
            print(f"{size}^3, batch {batch}", file=sys.stderr)
            bare = partial(bare_forward, encoder, volumes, batch, pretrainer)
            turns = in_turn(partial(pretrainer.transform, volumes), bare, options)
            wall, cpu = ratios(*turns, digits=3)
            seconds = statistics.median(turn["wall"] for turn in turns[0])
            lines.append(f"{size:>4} {batch:>5}  {n / seconds:<12.1f}{wall:<22}{cpu}")
    write(lines, options.output)


def in_turn(
    transform: Callable[[], np.ndarray],
    bare: Callable[[], np.ndarray],
    options: argparse.Namespace,
) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """Check that both give the same, and return the seconds of each round."""
    np.testing.assert_allclose(transform(), bare(), rtol=1e-3, atol=1e-3)
    turns: tuple[list[dict[str, float]], list[dict[str, float]]] = ([], [])
    for _ in range(options.rounds):
        for call, seconds in zip((transform, bare), turns, strict=True):
            seconds.append(time_calls(call, 0))
    return turns


@torch.inference_mode()
def bare_forward(
    encoder: torch.nn.Module,
    volumes: np.ndarray,
    batch_size: int,
    pretrainer: ContrastivePretrainer,
) -> np.ndarray:
    """Encode all volumes with as little code as possible."""
    mean, scale = pretrainer.normalizer_.mean, pretrainer.normalizer_.scale
    features = []
    for start in range(0, len(volumes), batch_size):
        batch = torch.from_numpy(volumes[start : start + batch_size])[:, None]
        features.append(encoder((batch - mean) / scale))
    centred = torch.cat(features).numpy() - pretrainer.embedding_mean_
    return centred / pretrainer.embedding_scale_


if __name__ == "__main__":
    main()
