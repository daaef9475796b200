"""The part of Fourier space that a tilt series does not measure.

The beam runs along z. The image at tilt t measures the plane spanned by the tilt axis
and ``u cos t + z sin t``, where u is the direction across the tilt axis: x for the tilt
axis y, y for the tilt axis x. So a coefficient is measured if its tilt
``arctan(kz / ku)`` lies in the range of tilts.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

TiltAxis = Literal["x", "y"]

# In degrees. Every tilt series is taken to cover the one and the other range: the
# power at the first is what the others are compared with, the second bounds the search.
_REFERENCE_TILT = 30.0
_SMALLEST_END = 40.0

_SECTOR = 2.5  # degrees

# Coefficients closer to the tilt axis, in voxels of Fourier space, mix many tilts.
_NEAREST = 2.0

# Shells of less than this part of the loudest one's power hold rounding errors and what
# the taper lets through.
_QUIETEST = 1e-6

# A coefficient ten times weaker or stronger than its shell says no more than that.
_LARGEST_LOG = math.log(10)

# Mean difference of log power between what is measured and what is missing: about 2 for
# a wedge of 30 degrees at either end, below 0.5 for volumes without one.
_SMALLEST_DROP = 1.0


def wedge_masks(
    shape: tuple[int, int, int], tilt_ranges: Tensor, tilt_axis: TiltAxis = "y"
) -> Tensor:
    """Return how much of each Fourier coefficient tilt series measure.

    Parameters
    ----------
    shape : (int, int, int)
        Depth, height and width of the volumes.
    tilt_ranges : Tensor of shape (n, 2)
        Smallest and largest tilt in degrees, within [-90, 90].
    tilt_axis : {"y", "x"}, default="y"
        The tilt axis; the beam runs along z.

    Returns
    -------
    Tensor of shape (n, depth, 1, width) or (n, depth, height, 1)
        Numbers in [0, 1] in the layout of ``torch.fft.fftn``, the same along the tilt
        axis, of the dtype and on the device of `tilt_ranges`: 1 inside, 0 outside,
        and in between a ramp one coefficient wide, as a crop of a larger volume has no
        sharp border. The mean, at frequency zero, is always measured.

    Examples
    --------
    >>> import torch
    >>> masks = wedge_masks((16, 16, 16), torch.tensor([[-60.0, 60.0]]))
    >>> masks.shape, round(masks.mean().item(), 1)
    (torch.Size([1, 16, 1, 16]), 0.7)
    """
    depth, height, width = shape
    side = width if tilt_axis == "y" else height
    kz, ku = (
        _frequencies_on(length, tilt_ranges.dtype, tilt_ranges.device)
        for length in (depth, side)
    )
    kz = kz[:, None]
    # k and -k are the same line through the origin: take the one with positive ku.
    kz = torch.where(ku < 0, -kz, kz)
    ku = ku.abs()
    masks = _inside(kz, ku, tilt_ranges, (depth, side))
    # These lines come with either sign of kz, and the factors of a real volume have to
    # be the same for both.
    either = (ku == 0) | (ku == 0.5) | (kz.abs() == 0.5)
    masks = torch.where(
        either, (masks + _inside(-kz, ku, tilt_ranges, (depth, side))) / 2, masks
    )
    complete = (tilt_ranges[:, 1] - tilt_ranges[:, 0])[:, None, None] >= 180
    if depth == 1 or side == 1:
        # Of all tilts, a plane has one, which is measured.
        complete = torch.ones_like(complete)
    masks = torch.where(complete | ((kz == 0) & (ku == 0)), 1.0, masks)
    return masks[:, :, None] if tilt_axis == "y" else masks[..., None]


def apply_masks(volumes: Tensor, masks: Tensor) -> Tensor:
    """Multiply the Fourier coefficients of volumes.

    Parameters
    ----------
    volumes : Tensor of shape (n, 1, depth, height, width)
        Floating point.
    masks : Tensor of shape (n, depth, height, width), or broadcast to it
        Real factors in the layout of ``torch.fft.fftn``, the same for k and -k.

    Returns
    -------
    Tensor of shape (n, 1, depth, height, width)
        The filtered volumes.

    Examples
    --------
    >>> import torch
    >>> volumes = torch.arange(8.0).reshape(1, 1, 2, 2, 2)
    >>> apply_masks(volumes, torch.tensor([1.0, 0.0])).flatten()
    tensor([0.5000, 0.5000, 2.5000, 2.5000, 4.5000, 4.5000, 6.5000, 6.5000])
    """
    if len(volumes) == 0:  # which not every FFT takes
        return volumes.clone()
    shape = volumes.shape[2:]
    half = masks[..., : shape[2] // 2 + 1].to(volumes)
    spectra = torch.fft.rfftn(volumes[:, 0], dim=(1, 2, 3)) * half
    return torch.fft.irfftn(spectra, s=shape, dim=(1, 2, 3))[:, None]


def estimate_tilt_ranges(volumes: Tensor, tilt_axis: TiltAxis = "y") -> Tensor:
    """Estimate from each volume which tilts it was reconstructed from.

    Parameters
    ----------
    volumes : Tensor of shape (n, 1, depth, height, width)
        Floating point; neither rotated nor masked since they were cut out.
    tilt_axis : {"y", "x"}, default="y"
        The tilt axis; the beam runs along z.

    Returns
    -------
    Tensor of shape (n, 2)
        Smallest and largest tilt in degrees, of the dtype and on the device of
        `volumes`; -90 and 90 where nothing is missing. Either end is between 40 and 90
        degrees from zero. On simulated volumes of 16 voxels a side the ends are off by
        4 degrees (root mean square), with noise or without; at 12 voxels by 5 to 6.
        Much smaller ones hold too few coefficients.

    Notes
    -----
    The volumes are tapered, since the jump from one face to the opposite one has power
    in the missing wedge. The log power of each coefficient is taken relative to its
    shell's in tilts of up to 30 degrees, which removes whatever depends on resolution
    alone: contrast transfer, filters, the colour of noise. Two means are then fitted,
    one inside of a range of tilts and one outside; the range with the least sum of
    squares is taken, and none if the means differ by less than a factor of e.

    Examples
    --------
    >>> import torch
    >>> noise = torch.randn(
    ...     1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0)
    ... )
    >>> masks = wedge_masks((32, 32, 32), torch.tensor([[-40.0, 60.0]]))
    >>> estimate_tilt_ranges(apply_masks(noise, masks)).round(decimals=-1)
    tensor([[-40.,  60.]])
    """
    if len(volumes) == 0:  # which not every FFT takes
        return volumes.new_zeros(0, 2)
    depth, height, width = volumes.shape[2:]
    part = _partition((depth, height, width), tilt_axis, volumes.dtype, volumes.device)
    centred = volumes[:, 0] - volumes[:, 0].mean(dim=(1, 2, 3), keepdim=True)
    power = torch.fft.rfftn(centred * part.taper, dim=(1, 2, 3)).abs().square()
    tiny = torch.finfo(power.dtype).tiny
    logs = power.flatten(1)[:, part.coefficients].clamp_min(tiny).log()

    levels = logs @ part.references
    loudest = levels.masked_fill(part.without_reference, -math.inf)
    loudest = loudest.amax(dim=1, keepdim=True)
    quiet = levels < loudest + math.log(_QUIETEST)
    counted = (~(quiet | part.without_reference))[:, part.shells].to(logs)
    logs = (logs - levels[:, part.shells]).clamp(-_LARGEST_LOG, _LARGEST_LOG) * counted

    # Sums over the sectors before each of their borders.
    counts = F.pad((counted @ part.sectors).cumsum(dim=1), (1, 0))
    sums = F.pad((logs @ part.sectors).cumsum(dim=1), (1, 0))
    n_all, sum_all = counts[:, -1:, None], sums[:, -1:, None]
    n_ends = len(part.lowest)
    n_in = counts[:, None, -n_ends:] - counts[:, :n_ends, None]
    sum_in = sums[:, None, -n_ends:] - sums[:, :n_ends, None]
    n_out, sum_out = n_all - n_in, sum_all - sum_in
    drops = sum_in / n_in.clamp_min(1) - sum_out / n_out.clamp_min(1)
    # What the two means take off the sum of squares, times the number of coefficients.
    gains = n_in * n_out * drops.square() * (drops > _SMALLEST_DROP)

    # Empty sectors leave several equally good borders, of which the mean is taken.
    best = gains.amax(dim=(1, 2), keepdim=True)
    tied = (gains == best).to(logs)
    low = (tied.sum(dim=2) * part.lowest).sum(dim=1) / tied.sum(dim=(1, 2))
    high = (tied.sum(dim=1) * part.highest).sum(dim=1) / tied.sum(dim=(1, 2))
    found = torch.stack([low, high], dim=1)
    complete = torch.stack([low.new_full(low.shape, tilt) for tilt in (-90, 90)], dim=1)
    return torch.where(best[:, 0] > 0, found, complete)


class _Partition(NamedTuple):
    """How the Fourier coefficients of a volume's shape fall into shells and sectors."""

    taper: Tensor  # (depth, height, width)
    coefficients: Tensor  # (k,), positions in the flattened output of rfftn
    shells: Tensor  # (k,), number of each one's shell
    references: Tensor  # (k, n_shells), weights of the means over reference tilts
    without_reference: Tensor  # (n_shells,), whether there are none
    sectors: Tensor  # (k, n_sectors), part of each coefficient in each sector of tilts
    lowest: Tensor  # (n_ends,), the borders that may be the smallest tilt
    highest: Tensor  # (n_ends,), and the largest


@lru_cache(maxsize=8)
def _partition(
    shape: tuple[int, int, int],
    tilt_axis: TiltAxis,
    dtype: torch.dtype,
    device: torch.device,
) -> _Partition:
    axes = [_frequencies(side) for side in shape]
    axes[2] = axes[2][: shape[2] // 2 + 1]
    fz, fy, fx = torch.meshgrid(*axes, indexing="ij")
    fu, side = (fx, shape[2]) if tilt_axis == "y" else (fy, shape[1])
    tilts = torch.rad2deg(torch.atan2(torch.where(fu < 0, -fz, fz), fu.abs()))
    radii = torch.sqrt(fz**2 + fy**2 + fx**2)
    at_nyquist = (fz.abs() == 0.5) | (fy.abs() == 0.5) | (fx.abs() == 0.5)
    too_near = torch.hypot(fz * shape[0], fu * side) < _NEAREST
    used = ~at_nyquist & ~too_near & (radii < 0.5)
    tilts = tilts[used]

    shells = torch.round(radii[used] * max(shape)).long()
    references = F.one_hot(shells, max(shape) // 2 + 1).double()
    references = references * (tilts.abs() <= _REFERENCE_TILT)[:, None]
    n_references = references.sum(dim=0)

    n_sectors = round(180 / _SECTOR)
    sectors = ((tilts + 90) / _SECTOR).long().clamp(max=n_sectors - 1)
    # 90 and -90 degrees are the same line, on the border of the first and the last.
    opposite = torch.where(tilts.abs() > 90 - 1e-6, n_sectors - 1 - sectors, sectors)
    parts = F.one_hot(sectors, n_sectors) + F.one_hot(opposite, n_sectors)

    taper = torch.ones(shape, dtype=torch.float64)
    for axis, side in enumerate(shape):
        window = torch.hann_window(side + 2, periodic=False, dtype=torch.float64)[1:-1]
        taper *= window.reshape([-1 if i == axis else 1 for i in range(3)])
    ends = torch.arange(-90.0, -_SMALLEST_END + _SECTOR / 2, _SECTOR)

    def put(tensor: Tensor) -> Tensor:
        return tensor.to(device, dtype if tensor.is_floating_point() else None)

    return _Partition(
        taper=put(taper),
        coefficients=put(used.flatten().nonzero()[:, 0]),
        shells=put(shells),
        references=put(references / n_references.clamp_min(1)),
        without_reference=put(n_references == 0),
        sectors=put(parts.double() / 2),
        lowest=put(ends),
        highest=put(-ends.flip(0)),
    )


def _frequencies(side: int) -> Tensor:
    """Return the frequencies along one axis in cycles per voxel, as of ``fftn``."""
    return torch.fft.fftfreq(side, dtype=torch.float64)


@lru_cache(maxsize=32)
def _frequencies_on(side: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the frequencies on a device, which has to wait for them only once."""
    return _frequencies(side).to(device, dtype)


def _inside(
    kz: Tensor, ku: Tensor, tilt_ranges: Tensor, sides: tuple[int, int]
) -> Tensor:
    """Return 1 inside of the tilt ranges, 0 outside, with a ramp between the two.

    Parameters
    ----------
    kz, ku : Tensor, broadcast to (depth, side)
        Frequencies along z and across the tilt axis in cycles per voxel; `ku` is not
        negative.
    tilt_ranges : Tensor of shape (n, 2)
        Smallest and largest tilt in degrees.
    sides : (int, int)
        Depth, and side of the volume across the tilt axis, in voxels.

    Returns
    -------
    Tensor of shape (n, depth, side)
        Numbers in [0, 1].
    """
    depth, side = sides
    low, high = torch.deg2rad(tilt_ranges)[:, :, None, None].unbind(dim=1)
    from_low = kz * low.cos() - ku * low.sin()
    from_high = ku * high.sin() - kz * high.cos()
    # The distance between neighbouring coefficients, at right angles to the border.
    ramp_low, ramp_high = (
        torch.hypot(end.cos() / depth, end.sin() / side) for end in (low, high)
    )
    nearest = torch.minimum(from_low / ramp_low, from_high / ramp_high)
    return (nearest + 0.5).clamp(0, 1)
