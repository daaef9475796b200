"""What the benchmarks share: sides in processes of their own, ratios, the machine."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

# One thread on every side, SimpleITK's own pool included.
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1",
}


class Side:
    """One side of a comparison: a process that is idle while another one is timed.

    Parameters
    ----------
    script : str
        The benchmark; it calls `serve` when it is given ``--serve NAME``.
    name : str
        Which side.
    folders : sequence of Path
        Put on the path of the process, for a peer that is not installed.
    """

    def __init__(self, script: str, name: str, folders: Sequence[Path] = ()) -> None:
        path = [*map(str, folders), os.environ.get("PYTHONPATH", "")]
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", script, "--serve", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                **ONE_THREAD,
                "PYTHONPATH": os.pathsep.join(filter(None, path)),
            },
        )
        start = self._read()
        self.versions: str = start.get("versions", "")
        self.missing: str | None = start.get("missing")

    def measure(self, **configuration: Any) -> dict[str, float]:
        """Return seconds, "wall" and "cpu", of one turn."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(configuration) + "\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the side {self.name!r} failed; its error is above")
        answer: dict[str, Any] = json.loads(line)
        return answer


def serve(
    prepare: Callable[[], tuple[str, Callable[..., dict[str, float]]]],
) -> None:
    """Answer the questions of a `Side` until it is closed.

    Parameters
    ----------
    prepare : callable
        Imports what the side needs; returns its versions, and a function from a
        configuration to seconds.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # What a library prints must not get between the answers.
    try:
        versions, measure = prepare()
    except ModuleNotFoundError as error:
        print(json.dumps({"missing": str(error)}), file=answers)
        return
    print(json.dumps({"versions": versions}), file=answers)
    for line in sys.stdin:
        print(json.dumps(measure(**json.loads(line))), file=answers)


def time_calls(call: Callable[[], Any], seconds: float) -> dict[str, float]:
    """Return the mean wall and processor seconds of a call, repeated a while."""
    n_calls = 0
    start_wall, start_cpu = time.perf_counter(), time.process_time()
    while True:
        call()
        n_calls += 1
        wall = time.perf_counter() - start_wall
        if wall >= seconds:
            break
    cpu = time.process_time() - start_cpu
    return {"wall": wall / n_calls, "cpu": cpu / n_calls}


def spread(values: Iterable[float], digits: int = 2) -> str:
    """Return the median with the smallest and the largest value."""
    values = sorted(values)
    numbers = (statistics.median(values), values[0], values[-1])
    middle, low, high = (f"{number:.{digits}f}" for number in numbers)
    return f"{middle} ({low}-{high})"


def ratios(
    turns: Sequence[dict[str, float]],
    others: Sequence[dict[str, float]],
    digits: int = 2,
) -> tuple[str, str]:
    """Return how many times the seconds of `others` are those of `turns`.

    Round by round: of wall time, and of processor time, which a busy machine
    distorts less.
    """
    return tuple(
        spread(
            [b[clock] / a[clock] for a, b in zip(turns, others, strict=True)], digits
        )
        for clock in ("wall", "cpu")
    )


def machine() -> str:
    """Return the processor and its number of cores, without the machine's name."""
    model = platform.processor() or platform.machine()
    vectors = ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
            if line.startswith("flags"):
                vectors = "AVX-512" if "avx512f" in line else "AVX2"
    parts = [model, platform.machine(), vectors, f"{os.cpu_count()} cores"]
    return ", ".join([*filter(None, parts), platform.system()])


def write(lines: Sequence[str], output: Path | None) -> None:
    """Show a report, and write it to a file if one is given."""
    report = "\n".join(lines) + "\n"
    sys.stdout.write(report)
    if output is not None:
        output.write_text(report)
