"""Kill pretrainings at random moments, and compare the weights with undisturbed ones.

    python benchmarks/kill_and_resume.py [--methods moco simclr swav] [--kills 10]
        [--size 16] [--n-per-class 4] [--max-epochs 20] [--seed 0]
        [--output benchmarks/results/kill_and_resume.txt]

Every fit is a new Python process. SIGKILL leaves it no time to tidy up; its moment is
drawn uniformly, and the next process starts with the same command. The hashes are of
the encoder's weights and the embeddings; on the CPU they have to be equal.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import safetensors
import torch
from sklearn.base import clone

import sksubtomo
from sksubtomo import ContrastivePretrainer
from sksubtomo.datasets import make_subtomograms

_STARTED = "training"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", default=["moco", "simclr", "swav"])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--n-per-class", type=int, default=4)
    parser.add_argument("--max-epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--output", type=Path, help="write the report there as well as to the terminal"
    )
    parser.add_argument("--fit", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.fit:
        fit(*options.fit, options)
        return
    lines = [
        f"Command: python {shlex.join(sys.argv)}",
        f"Machine: {os.cpu_count()} cores, {platform.machine()}, {platform.system()}; "
        f"{torch.get_num_threads()} thread(s)",
        f"Versions: torch {torch.__version__}, numpy {np.__version__}, "
        f"safetensors {safetensors.__version__}, sksubtomo {sksubtomo.__version__}",
        "",
        f"{10 * options.n_per_class} volumes of {options.size}^3, "
        f"{options.max_epochs} epochs, {options.kills} SIGKILLs in a row a method",
    ]
    generator = np.random.default_rng(options.seed)
    equal = True
    for method in options.methods:
        with tempfile.TemporaryDirectory() as folder:
            found = kill_and_resume(method, Path(folder), generator, options)
        lines += ["", *found]
        equal &= found[-1].endswith("equal")
    report = "\n".join(lines) + "\n"
    print(report, end="")
    if options.output:
        options.output.write_text(report)
    if not equal:
        sys.exit("the weights differ")


def fit(method: str, folder: str, options: argparse.Namespace) -> None:
    """Pretrain, and print a hash of what came of it."""
    X, _ = make_subtomograms(
        n_per_class=options.n_per_class,
        size=options.size,
        random_state=options.seed,
        return_X_y=True,
    )
    pretrainer = ContrastivePretrainer(
        method, max_epochs=options.max_epochs, random_state=0, checkpoint_dir=folder
    )
    with warnings.catch_warnings():
        # That so short a run has learned little is no news.
        warnings.simplefilter("ignore")
        # What torch imports at first use takes as long as several epochs.
        clone(pretrainer).set_params(checkpoint_dir=None, max_epochs=1).fit(X[:2])
        print(_STARTED, flush=True)
        pretrainer.fit(X)
    digest = hashlib.sha256(pretrainer.transform(X).tobytes())
    for name, value in pretrainer.encoder_.state_dict().items():
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    resumed = sum(epoch["resumed"] for epoch in pretrainer.history_)
    print(digest.hexdigest(), resumed, flush=True)


def kill_and_resume(
    method: str,
    folder: Path,
    generator: np.random.Generator,
    options: argparse.Namespace,
) -> list[str]:
    """Return what to report of one method."""
    duration, expected, _ = run(method, folder / "straight", options)
    # All together are shorter than the run, so that it does not end before the last.
    moments = generator.uniform(0, 0.8 * duration / options.kills, options.kills)
    epochs = []
    for moment in moments:
        run(method, folder / "killed", options, kill_after=moment)
        names = sorted(path.name for path in (folder / "killed").glob("epoch-*"))
        epochs.append(int(names[-1][6:12]) if names else 0)
    _, found, resumed = run(method, folder / "killed", options)
    return [
        f"{method}: undisturbed in {duration:.1f} s",
        f"  killed after {', '.join(f'{moment:.2f}' for moment in moments)} s",
        f"  epochs saved by then: {', '.join(map(str, epochs))}; the last run resumed "
        f"{resumed} and did {options.max_epochs - resumed}",
        f"  undisturbed {expected}",
        f"  killed      {found}",
        f"  {'equal' if found == expected else 'DIFFERENT'}",
    ]


def run(
    method: str,
    folder: Path,
    options: argparse.Namespace,
    kill_after: float | None = None,
) -> tuple[float, str, int]:
    """Fit in a new process; return its duration, the hash and the epochs resumed."""
    arguments = [sys.executable, __file__, "--fit", method, str(folder)]
    for name in ("size", "n_per_class", "max_epochs", "seed"):
        arguments += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == _STARTED
        start = time.perf_counter()
        if kill_after is not None:
            time.sleep(kill_after)
            if process.poll() is not None:
                sys.exit("a run ended before it was killed: take more epochs")
            process.kill()
            return time.perf_counter() - start, "", 0
        digest, resumed = process.stdout.readline().split()
        duration = time.perf_counter() - start
    return duration, digest, int(resumed)


if __name__ == "__main__":
    main()
