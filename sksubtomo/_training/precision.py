"""At what precision encoders compute, and whether they are compiled."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

PRECISIONS = ("auto", "float32", "tf32", "bf16")

# The first compute capability with tensor cores for TF32 and bfloat16 (Ampere).
_AMPERE = (8, 0)

# A fit may be nested in another one, and threads may share one model: what is changed
# for one of them is changed back when the last one leaves, in whichever order they do.
_lock = threading.Lock()


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return the precision that a ``precision`` parameter stands for on a device.

    What the hardware lacks is float32, so that a model that was trained on an
    accelerator predicts elsewhere, as fast as can be and no less exactly.

    Parameters
    ----------
    precision : {"auto", "float32", "tf32", "bf16"}
        "auto" is "tf32" on CUDA and "float32" elsewhere.
    device : torch.device
        Where it is computed.

    Returns
    -------
    {"float32", "tf32", "bf16"}
        What is computed at.

    Raises
    ------
    ValueError
        If there is no such precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r}; expected one of {PRECISIONS}.")
    if precision == "bf16":
        return "bf16" if _has_bf16(device) else "float32"
    if precision in ("auto", "tf32") and _has_tf32(device):
        return "tf32"
    return "float32"


@contextmanager
def computing(
    encoders: Iterable[nn.Module],
    *,
    precision: str,
    device: torch.device,
    compile: str | None = None,
) -> Iterator[None]:
    """Make encoders compute at a precision inside, and compile them if asked to.

    Only encoders are concerned: views, heads and losses, which cost next to nothing,
    stay in float32, and so do all weights. On leaving, the encoders and the flags of
    torch are as they were.

    Parameters
    ----------
    encoders : iterable of torch.nn.Module
        Networks that map volumes to features; in training or for inference.
    precision : {"auto", "float32", "tf32", "bf16"}
        As for `resolve_precision`. "tf32" and "float32" switch what cuDNN may round the
        inputs of a convolution to; "bf16" runs each encoder under autocast and returns
        its features as float32.
    device : torch.device
        Where the encoders are.
    compile : {"encoder", "step", None}, default=None
        "encoder" compiles each encoder with ``torch.compile`` at its first batch.
        "step" is the training loop's business.

    Yields
    ------
    None
        Nothing.

    Raises
    ------
    ValueError
        If there is no such precision.
    RuntimeError
        If the compiler fails.
    """
    precision = resolve_precision(precision, device)
    with ExitStack() as stack:
        if device.type == "cuda":
            stack.enter_context(_tf32_convolutions(precision == "tf32"))
        for encoder in encoders:
            if precision == "bf16":
                stack.enter_context(_autocast_forward(encoder, device))
            if compile == "encoder":
                stack.enter_context(_compiled(encoder))
        try:
            yield
        except Exception as error:
            if compile == "encoder" and _is_of_compiler(error):
                raise RuntimeError(
                    "compile='encoder' failed; torch.compile needs a C++ compiler, on "
                    "a GPU a C compiler and Triton, and an encoder that it can trace. "
                    "Use compile=None."
                ) from error
            raise


def _has_tf32(device: torch.device) -> bool:
    return (
        device.type == "cuda"
        and torch.version.hip is None
        and torch.cuda.get_device_capability(device) >= _AMPERE
    )


def _has_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is faster there than float32."""
    if device.type == "cuda":
        return torch.version.hip is not None or (
            torch.cuda.get_device_capability(device) >= _AMPERE
        )
    if device.type == "mps":
        return True
    # A CPU without instructions for it takes tens of times longer.
    tests = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, name, bool)() for name in tests)


class _AutocastForward:
    """What takes the place of an encoder's ``forward`` at bfloat16.

    An object rather than a closure, so that a copy of the encoder that a callback
    makes meanwhile computes with the copy's weights.

    Parameters
    ----------
    forward : callable
        The encoder's own, bound to it.
    device_type : str
        The device's.
    """

    def __init__(self, forward: Callable[[Tensor], Tensor], device_type: str) -> None:
        self.forward = forward
        self.device_type = device_type

    def __call__(self, volumes: Tensor) -> Tensor:
        # A cast weight is used once a pass: there is nothing to cache, and a cached
        # one would outlive the CUDA graph that it was made in.
        with torch.autocast(
            self.device_type, dtype=torch.bfloat16, cache_enabled=False
        ):
            features = self.forward(volumes)
        return features.float()


# How many are inside by encoder, and the ``forward`` that was set on it, if one was.
_autocast: dict[nn.Module, tuple[int, Any]] = {}


@contextmanager
def _autocast_forward(encoder: nn.Module, device: torch.device) -> Iterator[None]:
    with _lock:
        n_inside, own = _autocast.get(encoder, (0, vars(encoder).get("forward")))
        if n_inside == 0:
            encoder.forward = _AutocastForward(encoder.forward, device.type)
        _autocast[encoder] = n_inside + 1, own
    try:
        yield
    finally:
        with _lock:
            n_inside, own = _autocast.pop(encoder)
            if n_inside > 1:
                _autocast[encoder] = n_inside - 1, own
            else:
                del encoder.forward
                if own is not None:
                    encoder.forward = own


@contextmanager
def _compiled(encoder: nn.Module) -> Iterator[None]:
    """Compile in place: names, state dicts and pickles stay those of the encoder."""
    before = encoder._compiled_call_impl
    # Batches have one size, but for the last one of an epoch. Kernels for any size
    # are slower than two sets of them.
    encoder.compile(dynamic=False)
    try:
        yield
    finally:
        encoder._compiled_call_impl = before


def _is_of_compiler(error: Exception) -> bool:
    return type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))


# The flag belongs to the process: the newest one still inside decides, and the last one
# to leave restores what was there before the first.
_inside: list[tuple[object, bool]] = []
_outside: str | bool = True


@contextmanager
def _tf32_convolutions(allowed: bool) -> Iterator[None]:
    """Set whether cuDNN rounds to TF32.

    Matrix products are not concerned: torch computes them in float32 unless its user
    has said otherwise, and those of heads and losses take no time.
    """
    global _outside
    entry = (object(), allowed)
    with _lock:
        if not _inside:
            _outside = getattr(*_tf32_flag())
        _inside.append(entry)
        _set_tf32(allowed)
    try:
        yield
    finally:
        with _lock:
            _inside.remove(entry)
            if _inside:
                _set_tf32(_inside[-1][1])
            elif getattr(*_tf32_flag()) != _outside:
                setattr(*_tf32_flag(), _outside)


def _set_tf32(allowed: bool) -> None:
    # Since torch 2.9, reading a flag by one of the two interfaces after it was set by
    # the other raises. What need not change is not touched.
    found = getattr(*_tf32_flag())
    if (found in (True, "tf32")) == allowed:
        return
    if isinstance(found, str):
        setattr(*_tf32_flag(), "tf32" if allowed else "ieee")
    else:
        setattr(*_tf32_flag(), allowed)


def _tf32_flag() -> tuple[Any, str]:
    """Return what has torch's flag for convolutions, and the flag's name."""
    cudnn: Any = torch.backends.cudnn
    if hasattr(cudnn, "conv"):
        # A string: "tf32", "ieee", or "none" if no more general flag is set, either.
        return cudnn.conv, "fp32_precision"
    return cudnn, "allow_tf32"
