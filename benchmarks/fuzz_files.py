"""Feed mutated MRC and STAR files to the command line.

The claim: whatever is done to a file, a command ends with status 0 or 2, prints nothing
but its own one-line messages on the standard error, comes back within `--seconds`, and
never holds more than ten times the size of its input files beyond what it holds for
the same files unharmed.

Run ``python benchmarks/fuzz_files.py --n 10000``. Every mutation is determined by
`--seed` and its number; a failure is printed with both, and ``--only NUMBER`` repeats
one. Files are a few kilobytes, so that thousands of runs take minutes; memory is what
Python and NumPy allocate (tracemalloc), the same for every machine.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import shutil
import signal
import sys
import tempfile
import time
import traceback
import tracemalloc
import warnings
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from sksubtomo import ContrastivePretrainer
from sksubtomo.cli import main
from sksubtomo.io import write_volume, write_volume_stack

N_PARTICLES = 12
SIDE = 8
# Header words of an MRC file that decide what is read: sizes, mode, starts, grid,
# cell, axes, space group, extended header, byte order.
HEADER_WORDS = (0, 4, 8, 12, 28, 32, 36, 40, 64, 68, 72, 88, 92, 104, 208, 212)
# Numbers that break arithmetic.
ODD_INTEGERS = (0, 1, -1, 2, 3, 7, 127, 401, 2**15, 2**31 - 1, -(2**31))


class Case(NamedTuple):
    """A command and the file of it that is mutated."""

    name: str
    mutated: str
    arguments: tuple[str, ...]


CASES = (
    Case("transform stack", "stack.mrc", ("transform", "stack.mrc")),
    Case("transform STAR", "particles.star", ("transform", "particles.star")),
    Case("transform STAR, stack", "stack.mrc", ("transform", "particles.star")),
    Case("extract, tomogram", "tomogram.mrc", ("extract", "picks.star")),
    Case("extract, STAR", "picks.star", ("extract", "picks.star")),
    Case("extract, RELION 5", "relion5.star", ("extract", "relion5.star")),
    Case("pick", "tomogram.mrc", ("pick",)),
    Case("classify, STAR", "particles.star", ("classify",)),
    Case("classify, Warp", "warp.star", ("classify", "warp.star")),
)


def make_files(folder: Path) -> None:
    """Write the unharmed files: particles, a tomogram and STAR files of dialects."""
    rng = np.random.default_rng(0)
    volumes = rng.normal(size=(N_PARTICLES, SIDE, SIDE, SIDE)).astype(np.float32)
    write_volume_stack(folder / "stack.mrc", volumes, 10.0)
    tomogram = rng.normal(size=(16, 40, 40)).astype(np.float32)
    write_volume(folder / "tomogram.mrc", tomogram, 10.0)
    names = [f"{row + 1:06d}@stack.mrc" for row in range(N_PARTICLES)]
    labels = "".join(
        f"{name},{'ab'[row % 2] if row < 6 else ''}\n" for row, name in enumerate(names)
    )
    (folder / "labels.csv").write_text("particle,label\n" + labels)
    optics = (
        "# version 30001\n\ndata_optics\n\nloop_\n_rlnOpticsGroup #1\n"
        "_rlnOpticsGroupName #2\n_rlnImagePixelSize #3\n_rlnImageSize #4\n"
        "_rlnImageDimensionality #5\n_rlnTomoTiltSeriesPixelSize #6\n"
        "1 'the first' 10.0 8 3 5.0\n2 \"second\" 10.0 8 3 5.0\n\n"
    )
    body = "".join(
        f"{name} {row % 2 + 1} tomogram {rng.uniform(4, 36):.2f} "
        f"{rng.uniform(4, 36):.2f} {rng.uniform(4, 12):.2f} '00{row}' {row % 3}\n"
        for row, name in enumerate(names)
    )
    (folder / "particles.star").write_text(
        optics + "data_particles\n\nloop_\n_rlnImageName #1\n_rlnOpticsGroup #2\n"
        "_rlnMicrographName #3\n_rlnCoordinateX #4\n_rlnCoordinateY #5\n"
        "_rlnCoordinateZ #6\n_myColumn #7\n_rlnClassNumber #8\n" + body
    )
    (folder / "picks.star").write_text(
        "data_\n\nloop_\n_rlnMicrographName\n_rlnCoordinateX\n_rlnCoordinateY\n"
        "_rlnCoordinateZ\n_rlnAutopickFigureOfMerit\n"
        + "".join(
            f"tomogram.mrc {rng.uniform(0, 40):.3f} {rng.uniform(0, 40):.3f} "
            f"{rng.uniform(0, 16):.3f} {rng.uniform():.3f}\n"
            for _ in range(N_PARTICLES)
        )
    )
    (folder / "relion5.star").write_text(
        "data_general\n\n_rlnTomoSubTomosAre2DStacks 0\n\n"
        + optics
        + "data_particles\r\n\r\nloop_\r\n_rlnTomoName #1\r\n"
        "_rlnCenteredCoordinateXAngst #2\r\n_rlnCenteredCoordinateYAngst #3\r\n"
        "_rlnCenteredCoordinateZAngst #4\r\n_rlnOpticsGroup #5\r\n"
        + "".join(
            f"tomogram {rng.uniform(-150, 150):.2f} {rng.uniform(-150, 150):.2f} "
            f"{rng.uniform(-40, 40):.2f} 1\r\n"
            for _ in range(N_PARTICLES)
        )
    )
    (folder / "warp.star").write_text(
        "data_\n\nloop_\n_rlnMicrographName #1\n_rlnCoordinateX #2\n"
        "_rlnCoordinateY #3\n_rlnCoordinateZ #4\n_rlnImageName #5\n"
        "_rlnPixelSize #6\n_rlnCtfImage #7\n"
        + "".join(
            f"001.mrc.tomostar {row}.0 2 3 {name} 10.0 ctf_{row}.mrc\n"
            for row, name in enumerate(names)
        )
    )


def mutate(contents: bytes, is_star: bool, rng: np.random.Generator) -> bytes:
    """Change a file in one to three ways."""
    data = bytearray(contents)
    for _ in range(rng.integers(1, 4)):
        if not data:
            break
        kind = rng.integers(8)
        # Three times in four, where it hurts.
        limit = len(data) if is_star or rng.random() < 0.25 else min(1024, len(data))
        at = int(rng.integers(limit))
        length = int(rng.integers(1, 64))
        if kind == 0:
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            data[at : at + length] = rng.bytes(length)
        elif kind == 2:
            del data[at : at + length]
        elif kind == 3:
            data[at:at] = rng.bytes(length)
        elif kind == 4:
            del data[int(rng.integers(len(data))) :]
        elif kind == 5:
            data[at:at] = data[at : at + length]
        elif is_star:
            swap_words(data, rng)
        else:
            word = int(rng.choice(HEADER_WORDS))
            value = int(rng.choice(ODD_INTEGERS))
            data[word : word + 4] = value.to_bytes(4, "little", signed=True)
    return bytes(data)


def swap_words(data: bytearray, rng: np.random.Generator) -> None:
    """Replace a word of a text file by another or by an odd one."""
    words = bytes(data).split(b" ")
    odd = [b"", b"nan", b"inf", b"-1", b"1e999", b"'", b'"', b"loop_", b"data_x", b"#"]
    odd += [b"999999999@stack.mrc", b"0@stack.mrc", b"../../x", b"\n;\n", b"_rlnZ"]
    place = int(rng.integers(len(words)))
    words[place] = (
        odd[int(rng.integers(len(odd)))]
        if rng.random() < 0.5
        else words[int(rng.integers(len(words)))]
    )
    data[:] = b" ".join(words)


def command_of(case: Case, folder: Path, encoder: Path) -> list[str]:
    """Return the arguments with the paths filled in."""
    name, *inputs = case.arguments
    paths = [str(folder / item) for item in inputs]
    output = folder / "output"
    if name == "transform":
        rest = ["--encoder", str(encoder), "--output", f"{output}.npy"]
    elif name == "extract":
        paths.insert(0, str(folder / "tomogram.mrc"))
        rest = ["--size", "8", "--output", str(output)]
    elif name == "pick":
        paths = [str(folder / "tomogram.mrc")]
        rest = ["--diameter", "60", "--number", "20", "--output", f"{output}.star"]
    else:
        paths = paths or [str(folder / "particles.star")]
        rest = ["--labels", str(folder / "labels.csv"), "--encoder", str(encoder)]
        rest += ["--fine-tune-epochs", "1", "--output", f"{output}.star"]
    return [name, *paths, *rest]


class TooLong(Exception):
    """Raised by the alarm."""


def run(arguments: list[str], seconds: int) -> tuple[str, str, int]:
    """Run a command; return what it did, its messages and its peak of memory."""

    def ring(*_: object) -> None:
        raise TooLong

    out, err = io.StringIO(), io.StringIO()
    tracemalloc.start()
    signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            warnings.catch_warnings(),
        ):
            status = str(main(arguments))
    except TooLong:
        status = "hang"
    except SystemExit as error:
        status = f"exit {error.code}"
    except BaseException:
        status = "traceback"
        err.write(traceback.format_exc())
    finally:
        signal.alarm(0)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return status, err.getvalue(), peak


def complaints(name: str, status: str, err: str, excess: float) -> str:
    """Return what is wrong with the end of a command, if anything."""
    if status not in ("0", "2"):
        return f"status {status}"
    lines = [
        line
        for line in err.replace("\r", "\n").splitlines()
        # Progress bars.
        if line.strip() and "it/s" not in line and "%|" not in line
    ]
    if any(not line.startswith(f"sksubtomo {name}: ") for line in lines):
        return "a line that is not the command's own"
    if status == "2" and sum(": error: " in line for line in lines) != 1:
        return "no one error line"
    if excess > 10:
        return f"{excess:.1f} times the files' size in memory"
    return ""


def main_fuzz() -> int:
    """Run the mutations and print a summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--only", type=int)
    options = parser.parse_args()
    torch.set_num_threads(1)
    outcomes: Counter[tuple[str, str]] = Counter()
    failures: list[str] = []
    slowest = worst = 0.0
    with tempfile.TemporaryDirectory() as scratch:
        pristine = Path(scratch, "pristine")
        pristine.mkdir()
        make_files(pristine)
        encoder = Path(scratch, "encoder")
        rng = np.random.default_rng(0)
        X = rng.normal(size=(4, SIDE, SIDE, SIDE)).astype(np.float32)
        ContrastivePretrainer(max_epochs=1, random_state=0).fit(X).save(encoder)
        usual = {}
        for case in CASES:
            # Twice: the first run imports and fills caches.
            for _ in range(2):
                folder = Path(scratch, "work")
                shutil.copytree(pristine, folder)
                arguments = command_of(case, folder, encoder)
                status, err, usual[case.name] = run(arguments, 600)
                shutil.rmtree(folder)
            if status != "0":
                print(f"{case.name} fails on unharmed files:\n{err}")
                return 1
        # What is imported by now is never looked through again.
        gc.collect()
        gc.freeze()
        total = sum(path.stat().st_size for path in pristine.iterdir())
        numbers = range(options.n) if options.only is None else [options.only]
        for number in numbers:
            case = CASES[number % len(CASES)]
            rng = np.random.default_rng([options.seed, number])
            folder = Path(scratch, "work")
            shutil.copytree(pristine, folder)
            target = folder / case.mutated
            target.write_bytes(
                mutate(target.read_bytes(), target.suffix == ".star", rng)
            )
            begin = time.perf_counter()
            status, err, peak = run(command_of(case, folder, encoder), options.seconds)
            slowest = max(slowest, time.perf_counter() - begin)
            excess = max(0, peak - usual[case.name]) / total
            worst = max(worst, excess)
            outcomes[case.name, status] += 1
            found = complaints(case.arguments[0], status, err, excess)
            if found:
                failures.append(f"{number} ({case.name}): {found}")
                print(f"--- {failures[-1]}\n{err[-3000:]}", flush=True)
            elif options.only is not None:
                print(f"{case.name}: status {status}\n{err}")
            shutil.rmtree(folder)
            if (number + 1) % 1000 == 0:
                print(f"{number + 1} done, {len(failures)} failures", flush=True)
    for (name, status), count in sorted(outcomes.items()):
        print(f"{name:24} status {status:10} {count:6}")
    print(f"slowest {slowest:.1f} s; most memory beyond the usual {worst:.1f} x files")
    print(f"{len(failures)} failures in {len(numbers)} mutations, seed {options.seed}")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main_fuzz())
