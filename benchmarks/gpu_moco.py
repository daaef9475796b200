"""Time the paper's MoCo pretraining on a GPU, and hold it against the roofline.

    python benchmarks/gpu_moco.py --folder moco [--limit-minutes 9] [--structures DIR]
    python benchmarks/gpu_moco.py --folder moco --device cpu --n 32 --size 8 --epochs 4

The claim: 3,000 volumes of 32^3, 200 epochs, batches of 16, in at most 60 s on an
H200, at a precision whose accuracy is float32's, and at least half of the roofline.

Measured, one after the other, each kept in ``FOLDER/results.json`` when it is done, so
that the same command goes on where an earlier one was stopped:

1. The peaks of the device: matrix products at each precision, and copying.
2. The operations of one step: FLOPs, and bytes that each operation reads and writes
   once. The roofline is the larger of FLOPs over peak and bytes over bandwidth, added
   up over the operations.
3. Seconds an epoch, for each way to run and each precision, on noise, and whether
   anything waits for the device in an epoch (``torch.cuda.set_sync_debug_mode``).
4. The same of several trainings at once, each in a process of its own.
5. Whole trainings on simulated volumes: seconds, loss, and how well the embedding tells
   the classes apart.

Where the limit leaves too little time for the next measurement, the script says so and
ends; what is written so far is reported.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import shlex
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import _measure
import numpy as np
import torch
from skorch.callbacks import Callback
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from sksubtomo._training.graphs import optimizer_settings
from sksubtomo._training.precision import computing, resolve_precision
from sksubtomo._training.weights import lay_out
from sksubtomo.augmentation import CropAffine
from sksubtomo.contrastive import MoCo
from sksubtomo.datasets import Microscope, make_subtomograms
from sksubtomo.networks import RB3D
from sksubtomo.pretraining import ContrastivePretrainer
from sksubtomo.recipes import gupta2022

LIMIT_SECONDS = 60
WARM_EPOCHS = 2
SETTINGS = (
    "device",
    "n",
    "size",
    "epochs",
    "batch_size",
    "probe_epochs",
    "structures",
    "cudnn_benchmark",
)
VOXEL_SIZE = 10.0
MODES = {"eager": None, "encoder": "encoder", "step": "step"}


class Clock(Callback):
    """Remember when training began and when each epoch ended."""

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        """Start."""
        self.times = [time.perf_counter()]

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Take the time."""
        # The losses of the epoch have been read from the device.
        self.times.append(time.perf_counter())


class NoWaiting(Callback):
    """Make torch refuse to wait for the device in the epochs after the first ones."""

    def on_epoch_begin(self, net: Any, **kwargs: Any) -> None:
        """Count the batches, and forbid waiting."""
        self.n_left = len(net.get_iterator(kwargs["dataset_train"], training=True))
        if len(net.history) > WARM_EPOCHS:
            torch.cuda.set_sync_debug_mode("error")

    def on_batch_end(self, net: Any, training: bool = False, **kwargs: Any) -> None:
        """Allow it again, for the losses are read when the last batch is done."""
        self.n_left -= 1
        if self.n_left == 0:
            torch.cuda.set_sync_debug_mode("default")


class StartTogether(Callback):
    """Wait for the other processes when the first epochs are over."""

    def __init__(self, barrier: Any) -> None:
        self.barrier = barrier

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Wait at the end of the last epoch that is not timed."""
        if len(net.history) == WARM_EPOCHS:
            self.barrier.wait(timeout=120)
            self.start = time.time()


class Roofline(TorchDispatchMode):
    """Count FLOPs and bytes of every operation, and the least time it takes."""

    def __init__(self, flops_per_second: float, bytes_per_second: float) -> None:
        super().__init__()
        self.rates = (flops_per_second, bytes_per_second)
        self.flops = self.n_bytes = self.seconds = 0.0
        self.n_operations = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func.is_view or "empty" in func.__name__:
            return result
        tensors = {
            id(leaf): leaf
            for leaf in tree_leaves((args, kwargs, result))
            if isinstance(leaf, torch.Tensor)
        }
        n_bytes = sum(t.numel() * t.element_size() for t in tensors.values())
        count = flop_registry.get(func._overloadpacket)
        flops = 0 if count is None else count(*args, **kwargs, out_val=result)
        self.flops += flops
        self.n_bytes += n_bytes
        self.seconds += max(flops / self.rates[0], n_bytes / self.rates[1])
        self.n_operations += 1
        return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--n", type=int, default=3000)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--precisions", default="float32,tf32,bf16")
    parser.add_argument("--modes", default="eager,encoder,step")
    parser.add_argument("--probe-epochs", type=int, default=4)
    parser.add_argument("--at-once", default="2,4", help="numbers of processes")
    parser.add_argument("--seeds", type=int, default=2, help="of the whole trainings")
    parser.add_argument("--structures", type=Path, help="default: the phantoms")
    parser.add_argument("--cudnn-benchmark", action="store_true")
    parser.add_argument("--profile", action="store_true", help="also write a profile")
    parser.add_argument("--limit-minutes", type=float, default=float("inf"))
    options = parser.parse_args()
    options.precisions = options.precisions.split(",")
    options.modes = options.modes.split(",")
    if options.device == "cpu":
        torch.set_num_threads(1)
        options.modes = [mode for mode in options.modes if mode != "step"]
    torch.backends.cudnn.benchmark = options.cudnn_benchmark
    options.folder.mkdir(parents=True, exist_ok=True)

    results = Results(options)
    device = torch.device(options.device)
    peaks = results.measure("peaks", lambda: measure_peaks(device, options.precisions))
    for precision in options.precisions:
        if peaks is not None:
            results.measure(
                f"step {precision}",
                lambda p=precision: count_step(options, device, p, peaks),
            )
    ways = [(m, p) for p in options.precisions for m in options.modes]
    for mode, precision in ways:
        results.measure(
            f"epoch {mode} {precision}",
            lambda m=mode, p=precision: probe(options, m, p),
        )
    best = [fastest(results.found, options, p) for p in options.precisions]
    if options.at_once:
        for k in map(int, options.at_once.split(",")):
            for mode, precision in best:
                results.measure(
                    f"at once {k} {mode} {precision}",
                    lambda m=mode, p=precision, k=k: probe_at_once(options, m, p, k),
                )
    for seed in range(options.seeds):
        for mode, precision in best:
            results.measure(
                f"whole {mode} {precision} {seed}",
                lambda m=mode, p=precision, s=seed: train(options, m, p, s),
                expected_seconds(results.found, options, mode, precision),
            )
    if options.profile:
        results.measure("profile", lambda: profile(options, *best[-1]))
    report = write_report(options, results.found)
    (options.folder / "gpu_moco.txt").write_text(report)
    print(report, end="")


class Results:
    """What has been measured, kept in a file."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.path = options.folder / "results.json"
        self.end = time.monotonic() + 60 * options.limit_minutes
        settings = chosen(options, SETTINGS)
        self.found: dict[str, Any] = {"settings": settings}
        if self.path.exists():
            self.found = json.loads(self.path.read_text())
            if self.found["settings"] != settings:
                raise SystemExit(
                    f"{self.path} has settings {self.found['settings']}; expected "
                    f"{settings}. Give another --folder."
                )

    def measure(
        self, name: str, function: Callable[[], Any], expected_seconds: float = 0.0
    ) -> Any:
        """Measure what has not been measured, while there is time."""
        if name in self.found:
            return self.found[name]
        if time.monotonic() + expected_seconds > self.end:
            print(f"{name}: no time left; run the command again", flush=True)
            return None
        start = time.perf_counter()
        try:
            result = function()
        except Exception:
            # The others are measured all the same, and this one in the next run.
            print(f"{name}: failed\n{traceback.format_exc()}", flush=True)
            return None
        self.found[name] = result
        print(
            f"{name}: {json.dumps(result)} ({time.perf_counter() - start:.1f} s)",
            flush=True,
        )
        beside = self.path.with_suffix(".tmp")
        beside.write_text(json.dumps(self.found, indent=1))
        os.replace(beside, self.path)
        return result


def measure_peaks(device: torch.device, precisions: list[str]) -> dict[str, float]:
    """Return FLOP/s of matrix products by precision, and bytes/s of a copy."""
    n, n_values = (8192, 1 << 29) if device.type == "cuda" else (512, 1 << 22)
    peaks = {}
    for precision in precisions:
        resolved = resolve_precision(precision, device)
        dtype = torch.bfloat16 if resolved == "bf16" else torch.float32
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high" if resolved == "tf32" else "highest")
        try:
            peaks[precision] = 2 * n**3 / timed(lambda a=a, b=b: a @ b, device)
        finally:
            torch.set_float32_matmul_precision(before)
    source = torch.randn(n_values, device=device)
    target = torch.empty_like(source)
    peaks["copy"] = 2 * source.nbytes / timed(lambda: target.copy_(source), device)
    return peaks


def timed(function: Callable[[], Any], device: torch.device) -> float:
    """Return the median seconds of a call, of 20 after some to warm up."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    times = []
    for _ in range(25):
        wait()
        start = time.perf_counter()
        function()
        wait()
        times.append(time.perf_counter() - start)
    return statistics.median(times[5:])


def count_step(
    options: argparse.Namespace,
    device: torch.device,
    precision: str,
    peaks: dict[str, float],
) -> dict[str, float]:
    """Count the operations of one step, views included."""
    sides = (options.size,) * 3
    module = lay_out(MoCo().build(RB3D().build(sides)), device)
    view = CropAffine().build(0)
    settings = optimizer_settings(torch.optim.Adam, device, graphed=False)
    optimizer = torch.optim.Adam(module.parameters(), weight_decay=1e-4, **settings)
    volumes = torch.randn(options.batch_size, 1, *sides, device=device)

    def step() -> None:
        optimizer.zero_grad()
        module(view(volumes), view(volumes)).backward()
        optimizer.step()

    with computing(module.encoders(), precision=precision, device=device):
        step()
        with Roofline(peaks[precision], peaks["copy"]) as counter:
            step()
    return {
        "flops": counter.flops,
        "bytes": counter.n_bytes,
        "operations": counter.n_operations,
        "seconds_of_flops": counter.flops / peaks[precision],
        "seconds_of_bytes": counter.n_bytes / peaks["copy"],
        "roofline_seconds": counter.seconds,
    }


def pretrainer(
    options: argparse.Namespace, mode: str, precision: str, **parameters: Any
) -> ContrastivePretrainer:
    return gupta2022("moco").pretrainer.set_params(
        batch_size=options.batch_size,
        device=options.device,
        precision=precision,
        compile=MODES[mode],
        **{"random_state": 0, **parameters},
    )


def probe(options: argparse.Namespace, mode: str, precision: str) -> dict[str, Any]:
    """Return seconds an epoch, and what waits for the device."""
    volumes = noise(options)
    if options.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    clock = Clock()
    epochs = WARM_EPOCHS + options.probe_epochs
    pretrainer(
        options, mode, precision, max_epochs=epochs, callbacks=[("clock", clock)]
    ).fit(volumes)
    seconds = np.diff(clock.times).tolist()
    result = {
        "precision": resolve_precision(precision, torch.device(options.device)),
        "first_epoch_seconds": seconds[0],
        "epoch_seconds": statistics.median(seconds[WARM_EPOCHS:]),
        "epochs_seconds": [round(value, 4) for value in seconds],
    }
    if options.device != "cpu":
        result["waits"] = waits(options, mode, precision, volumes)
        result["peak_bytes"] = torch.cuda.max_memory_allocated()
    return result


def waits(
    options: argparse.Namespace, mode: str, precision: str, volumes: np.ndarray
) -> str:
    """Return the first operation of an epoch that waits for the device, or "none"."""
    callbacks = [("no_waiting", NoWaiting())]
    model = pretrainer(
        options, mode, precision, max_epochs=WARM_EPOCHS + 1, callbacks=callbacks
    )
    try:
        model.fit(volumes)
    except RuntimeError as error:
        cause = error.__cause__ or error
        frames = []
        trace = cause.__traceback__
        while trace is not None:
            code = trace.tb_frame.f_code
            frames.append(f"{Path(code.co_filename).name}:{trace.tb_lineno}")
            trace = trace.tb_next
        return f"{cause} at {' > '.join(frames[-8:])}"
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "none"


def probe_at_once(
    options: argparse.Namespace, mode: str, precision: str, k: int
) -> dict[str, Any]:
    """Return the volumes a second of k trainings together."""
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(k), context.Queue()
    workers = [
        context.Process(
            target=_probe_beside, args=(options, mode, precision, barrier, queue)
        )
        for _ in range(k)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise RuntimeError("a process of those at once has failed")
    spans = [queue.get() for _ in workers]
    seconds = max(stop for _, stop in spans) - min(start for start, _ in spans)
    volumes = k * options.n * options.probe_epochs
    return {"volumes_per_second": volumes / seconds}


def _probe_beside(
    options: argparse.Namespace, mode: str, precision: str, barrier: Any, queue: Any
) -> None:
    torch.set_num_threads(1)
    torch.backends.cudnn.benchmark = options.cudnn_benchmark
    together = StartTogether(barrier)
    clock = Clock()
    # The clock goes on when all processes do.
    callbacks = [("together", together), ("clock", clock)]
    epochs = WARM_EPOCHS + options.probe_epochs
    pretrainer(options, mode, precision, max_epochs=epochs, callbacks=callbacks).fit(
        noise(options)
    )
    elapsed = clock.times[-1] - clock.times[WARM_EPOCHS]
    queue.put((together.start, together.start + elapsed))


def noise(options: argparse.Namespace) -> np.ndarray:
    shape = (options.n, *(options.size,) * 3)
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def simulated(options: argparse.Namespace) -> dict[str, np.ndarray]:
    """Return training volumes, a third as many test volumes, and the labels."""
    path = options.folder / "volumes.npz"
    if not path.exists():
        settings = {**simulation(options), "snr": 0.05, "shuffle": True}
        n_per_class = -(-options.n * 4 // 30)
        X, y = make_subtomograms(
            n_per_class,
            random_state=0,
            n_jobs=os.cpu_count(),
            return_X_y=True,
            **settings,
        )
        n = options.n
        beside = path.with_name("volumes.tmp.npz")
        np.savez(beside, X=X[:n], y=y[:n], X_test=X[n:], y_test=y[n:])
        os.replace(beside, path)
    with np.load(path) as file:
        return dict(file)


def simulation(options: argparse.Namespace) -> dict[str, Any]:
    """Return the simulator's settings: the paper's, at the paper's size of volumes."""
    settings = {"structures": options.structures, "size": options.size}
    if options.size == 32:
        settings |= {
            "voxel_size": VOXEL_SIZE,
            "resolution": VOXEL_SIZE,
            "max_shift": 0.25,
            "tilt_step": None,
            "microscope": Microscope.liu2020(VOXEL_SIZE),
            "convention": "liu2020",
            "low_pass": 4 * VOXEL_SIZE,
        }
    return settings


def train(
    options: argparse.Namespace, mode: str, precision: str, seed: int
) -> dict[str, Any]:
    """Train to the end, and judge the embedding."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier

    data = simulated(options)
    clock = Clock()
    model = pretrainer(
        options,
        mode,
        precision,
        max_epochs=options.epochs,
        callbacks=[("clock", clock)],
        random_state=seed,
    )
    start = time.perf_counter()
    model.fit(data["X"])
    seconds = time.perf_counter() - start
    embedding, test = model.transform(data["X"]), model.transform(data["X_test"])
    judges = {
        "nearest_neighbours": KNeighborsClassifier(5, metric="cosine"),
        "linear_probe": LogisticRegression(max_iter=2000),
    }
    return {
        "fit_seconds": seconds,
        "epochs_seconds": clock.times[-1] - clock.times[0],
        "loss": float(model.history_[-1]["train_loss"]),
        **{
            name: judge.fit(embedding, data["y"]).score(test, data["y_test"])
            for name, judge in judges.items()
        },
    }


def profile(options: argparse.Namespace, mode: str, precision: str) -> str:
    """Write the operations that take longest, and return the name of the file."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if options.device != "cpu":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    model = pretrainer(options, mode, precision, max_epochs=3)
    volumes = noise(options)[: 8 * options.batch_size]
    with torch.profiler.profile(activities=activities) as profiler:
        model.fit(volumes)
    key = "self_cpu_time_total" if len(activities) == 1 else "self_cuda_time_total"
    table = profiler.key_averages().table(sort_by=key, row_limit=40)
    (options.folder / "profile.txt").write_text(f"{mode} {precision}\n{table}\n")
    return "profile.txt"


def fastest(
    found: dict[str, Any], options: argparse.Namespace, precision: str
) -> tuple[str, str]:
    """Return the way to run that is fastest at a precision, of those measured."""
    seconds = {
        mode: found[f"epoch {mode} {precision}"]["epoch_seconds"]
        for mode in options.modes
        if f"epoch {mode} {precision}" in found
    }
    mode = min(seconds, key=seconds.__getitem__) if seconds else options.modes[0]
    return mode, precision


def expected_seconds(
    found: dict[str, Any], options: argparse.Namespace, mode: str, precision: str
) -> float:
    """Return about how long a whole training takes, simulating included."""
    epoch = found.get(f"epoch {mode} {precision}", {"epoch_seconds": 0.0})
    return 30 + 1.2 * options.epochs * epoch["epoch_seconds"]


def write_report(options: argparse.Namespace, found: dict[str, Any]) -> str:
    n_steps = options.epochs * -(-options.n // options.batch_size)
    lines = [
        "Command: python benchmarks/gpu_moco.py " + shlex.join(shown_arguments()),
        f"Machine: {machine(options.device)}",
        "Versions: " + versions(),
        f"MoCo as in the paper: {options.n:,} volumes of {options.size}^3, "
        f"{options.epochs} epochs, batches of {options.batch_size}: {n_steps:,} steps",
        "",
    ]
    peaks = found.get("peaks")
    if peaks is not None:
        lines += [
            "Measured peaks: "
            + ", ".join(
                f"{name} {peak / 1e12:.3g} T{'B' if name == 'copy' else 'FLOP'}/s"
                for name, peak in peaks.items()
            ),
            "",
        ]
    lines.append(
        f"{'precision':<9} {'run':<7} {'epoch, s':>8} {'whole, s':>8} "
        f"{'FLOPs, s':>8} {'bytes, s':>8} {'roofline':>8} {'reached':>7}  waits"
    )
    for precision in options.precisions:
        step = found.get(f"step {precision}")
        for mode in options.modes:
            epoch = found.get(f"epoch {mode} {precision}")
            if step is None or epoch is None:
                continue
            whole = epoch["epoch_seconds"] * options.epochs
            floor = step["roofline_seconds"] * n_steps
            lines.append(
                f"{epoch['precision']:<9} {mode:<7} {epoch['epoch_seconds']:>8.3f} "
                f"{whole:>8.1f} {step['seconds_of_flops'] * n_steps:>8.1f} "
                f"{step['seconds_of_bytes'] * n_steps:>8.1f} {floor:>8.1f} "
                f"{floor / whole:>7.0%}  {epoch.get('waits', '-')}"
            )
    lines += [
        "",
        '"whole" is the median epoch times the number of epochs; the roofline counts '
        "each operation's bytes",
        "once, as if nothing were kept in caches and nothing fused.",
        "",
    ]
    for name, result in found.items():
        kind, _, rest = name.partition(" ")
        if kind == "step":
            lines.append(
                f"One step, {rest}: {result['flops'] / 1e9:.1f} GFLOP, "
                f"{result['bytes'] / 1e9:.2f} GB, {result['operations']} operations"
            )
        elif kind == "at":
            lines.append(f"{name}: {result['volumes_per_second']:,.0f} volumes/s")
        elif kind == "whole":
            lines.append(
                f"{name}: {result['fit_seconds']:.1f} s (limit {LIMIT_SECONDS} s), "
                f"loss {result['loss']:.3f}, 5 nearest neighbours "
                f"{result['nearest_neighbours']:.1%}, linear probe "
                f"{result['linear_probe']:.1%}"
            )
    return "\n".join(lines) + "\n"


def chosen(options: argparse.Namespace, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the options that results depend on; of a folder, whether it is given."""
    values = {name: getattr(options, name) for name in names}
    return {
        name: value is not None if name == "structures" else value
        for name, value in values.items()
    }


def shown_arguments() -> list[str]:
    """Return the arguments, folders without their place."""
    hidden = {"--structures": "DIR", "--folder": "FOLDER"}
    shown = []
    for before, argument in zip([None, *sys.argv[1:]], sys.argv[1:], strict=False):
        shown.append(hidden.get(before, argument))
    return shown


def machine(device: str) -> str:
    """Return the GPU, if it is used, and the processor."""
    gpu = "" if device == "cpu" else f"{torch.cuda.get_device_name(device)}, "
    return gpu + _measure.machine()


def versions() -> str:
    packages = ("numpy", "scikit-learn", "skorch", "torch")
    text = ", ".join(f"{name} {version(name)}" for name in packages)
    return f"Python {platform.python_version()}, {text}"


if __name__ == "__main__":
    main()
