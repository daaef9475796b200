"""The part of Fourier space that a tilt series does not measure.

The image at tilt t measures the plane spanned by the tilt axis and
``u cos t + b sin t``, where b is the direction of the beam and u the one across beam
and tilt axis. So a coefficient is measured if its tilt ``arctan(kb / ku)`` lies in the
range of tilts. In tomograms as most programs write them b is z, u is x, and the tilt
axis y.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import permutations
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Frame(NamedTuple):
    """How a tilt series lies in a volume, whose axes are 0 for z, 1 for y, 2 for x.

    Attributes
    ----------
    beam : int
        The axis along the beam.
    across : int
        The axis at right angles to the beam and the tilt axis.
    """

    beam: int = 0
    across: int = 2

    @property
    def tilt_axis(self) -> int:
        """Return the axis about which the specimen is tilted.

        Returns
        -------
        int
            The one that is neither `beam` nor `across`.
        """
        return 3 - self.beam - self.across


# The usual one first: it is taken where several fit equally well.
FRAMES = [Frame(beam, across) for beam, _tilt_axis, across in permutations(range(3))]

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

# What the two means have to take off the sum of squares: altogether, because the best
# of all frames and ranges takes about that much off in white noise of 8 voxels a side,
# and of each coefficient, because particles without noise have directions, too. Tilts
# of up to 60 degrees take off about 330 at 12 voxels, which is 0.8 of each.
_SMALLEST_GAIN = 50.0
_SMALLEST_MEAN_GAIN = 0.3


def wedge_masks(
    shape: tuple[int, int, int], tilt_ranges: Tensor, frame: Frame = FRAMES[0]
) -> Tensor:
    """Return how much of each Fourier coefficient tilt series measure.

    Parameters
    ----------
    shape : (int, int, int)
        Depth, height and width of the volumes.
    tilt_ranges : Tensor of shape (n, 2)
        Smallest and largest tilt in degrees, within [-90, 90].
    frame : Frame, default=Frame(beam=0, across=2)
        Where beam and tilt axis are.

    Returns
    -------
    Tensor of shape (n, depth, height, width), but 1 along the tilt axis
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
    sides = shape[frame.beam], shape[frame.across]
    kb, ku = (
        _frequencies_on(side, tilt_ranges.dtype, tilt_ranges.device) for side in sides
    )
    kb = kb[:, None]
    # k and -k are the same line through the origin: take the one with positive ku.
    kb = torch.where(ku < 0, -kb, kb)
    ku = ku.abs()
    masks = _inside(kb, ku, tilt_ranges, sides)
    # These lines come with either sign of kb, and the factors of a real volume have to
    # be the same for both.
    either = (ku == 0) | (ku == 0.5) | (kb.abs() == 0.5)
    masks = torch.where(
        either, (masks + _inside(-kb, ku, tilt_ranges, sides)) / 2, masks
    )
    complete = (tilt_ranges[:, 1] - tilt_ranges[:, 0])[:, None, None] >= 180
    if 1 in sides:
        # Of all tilts, a plane has one, which is measured.
        complete = torch.ones_like(complete)
    masks = torch.where(complete | ((kb == 0) & (ku == 0)), 1.0, masks)
    if frame.beam > frame.across:
        masks = masks.mT
    return masks.unsqueeze(1 + frame.tilt_axis)


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


def estimate_wedges(volumes: Tensor) -> tuple[Tensor, Tensor]:
    """Estimate from each volume which tilts it was reconstructed from, and how it lies.

    Parameters
    ----------
    volumes : Tensor of shape (n, 1, depth, height, width)
        Floating point; neither rotated nor masked since they were cut out.

    Returns
    -------
    frames : Tensor of shape (n,)
        Position in `FRAMES` of the frame that beam and tilt axis make; 0 where nothing
        is missing.
    tilt_ranges : Tensor of shape (n, 2)
        Smallest and largest tilt in degrees, of the dtype and on the device of
        `volumes`; -90 and 90 where nothing is missing. Either end is between 40 and 90
        degrees from zero. On simulated volumes of 16 voxels a side the ends are off by
        3 to 4 degrees (root mean square), with noise or without; at 12 voxels by 4 to
        8. Much smaller ones hold too few coefficients.

    Notes
    -----
    The volumes are tapered, since the jump from one face to the opposite one has power
    in the missing wedge. The log power of each coefficient is taken relative to its
    shell's in tilts of up to 30 degrees, which removes whatever depends on resolution
    alone: contrast transfer, filters, the colour of noise. Two means are then fitted,
    one inside of a range of tilts and one outside; the frame and the range with the
    least sum of squares are taken, and none if the means differ by less than a factor
    of e or the fit is not clearly better than one mean.

    Examples
    --------
    >>> import torch
    >>> noise = torch.randn(
    ...     1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0)
    ... )
    >>> masks = wedge_masks((32, 32, 32), torch.tensor([[-40.0, 60.0]]), Frame(1, 2))
    >>> frames, tilt_ranges = estimate_wedges(apply_masks(noise, masks))
    >>> FRAMES[frames[0]], tilt_ranges.round(decimals=-1)
    (Frame(beam=1, across=2), tensor([[-40.,  60.]]))
    """
    if len(volumes) == 0:  # which not every FFT takes
        return volumes.new_zeros(0, dtype=torch.long), volumes.new_zeros(0, 2)
    logs, shape = _log_power(volumes)
    fits = [_fit_tilt_range(logs, shape, frame) for frame in FRAMES]
    gains, tilt_ranges = (torch.stack(parts) for parts in zip(*fits, strict=True))
    frames = gains.argmax(dim=0) * (gains.amax(dim=0) > 0)
    return frames, tilt_ranges[frames, torch.arange(len(volumes), device=frames.device)]


def choose_wedges(
    volumes: Tensor, tilt_ranges: Tensor, frame: Frame = FRAMES[0]
) -> Tensor:
    """Choose which of several tilt series each volume was reconstructed from.

    Parameters
    ----------
    volumes : Tensor of shape (n, 1, depth, height, width)
        Floating point; neither rotated nor masked since they were cut out.
    tilt_ranges : Tensor of shape (k, 2)
        Smallest and largest tilt of each series in degrees. Ends that are nearer to
        zero than 40 degrees count as 40.
    frame : Frame, default=Frame(beam=0, across=2)
        Where beam and tilt axis are.

    Returns
    -------
    Tensor of shape (n, 2)
        The tilts of each volume: those of `tilt_ranges` that fit its Fourier power
        best, as `estimate_wedges` fits it.

    Examples
    --------
    >>> import torch
    >>> noise = torch.randn(
    ...     1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0)
    ... )
    >>> known = torch.tensor([[-60.0, 60.0], [-40.0, 60.0]])
    >>> choose_wedges(apply_masks(noise, wedge_masks((16, 16, 16), known[1:])), known)
    tensor([[-40.,  60.]])
    """
    if len(volumes) == 0:
        return volumes.new_zeros(0, 2)
    logs, shape = _log_power(volumes)
    gains, drops, _ = _compare_means(
        logs, _partition(shape, frame, logs.dtype, logs.device)
    )
    gains = gains * drops.sign()  # more power outside than inside is no wedge
    sectors = torch.round((tilt_ranges + 90) / _SECTOR).long()
    last = gains.shape[1] - 1
    low = sectors[:, 0].clamp(0, last)
    high = (sectors[:, 1] - round(180 / _SECTOR) + last).clamp(0, last)
    return tilt_ranges[gains[:, low, high].argmax(dim=1)]


def _log_power(volumes: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
    """Return the log power of tapered volumes as rows, and the volumes' shape."""
    depth, height, width = volumes.shape[2:]
    shape = (depth, height, width)
    taper = _taper(shape, volumes.dtype, volumes.device)
    centred = volumes[:, 0] - volumes[:, 0].mean(dim=(1, 2, 3), keepdim=True)
    power = torch.fft.rfftn(centred * taper, dim=(1, 2, 3)).abs().square()
    return power.flatten(1).clamp_min(torch.finfo(power.dtype).tiny).log(), shape


def _fit_tilt_range(
    logs: Tensor, shape: tuple[int, int, int], frame: Frame
) -> tuple[Tensor, Tensor]:
    """Fit the tilts of one frame.

    Parameters
    ----------
    logs : Tensor of shape (n, depth * height * (width // 2 + 1))
        Log power in the layout of ``torch.fft.rfftn``.
    shape : (int, int, int)
        Depth, height and width of the volumes.
    frame : Frame
        Where beam and tilt axis are.

    Returns
    -------
    gains : Tensor of shape (n,)
        What the two means take off the sum of squares; 0 where that is too little.
    tilt_ranges : Tensor of shape (n, 2)
        Degrees.
    """
    part = _partition(shape, frame, logs.dtype, logs.device)
    gains, drops, n_all = _compare_means(logs, part)
    enough = (gains > _SMALLEST_GAIN) & (gains > _SMALLEST_MEAN_GAIN * n_all)
    gains = gains * (enough & (drops > _SMALLEST_DROP))

    # Empty sectors leave several equally good borders, of which the mean is taken.
    best = gains.amax(dim=(1, 2), keepdim=True)
    tied = (gains == best).to(logs)
    low = (tied.sum(dim=2) * part.lowest).sum(dim=1) / tied.sum(dim=(1, 2))
    high = (tied.sum(dim=1) * part.highest).sum(dim=1) / tied.sum(dim=(1, 2))
    found = torch.stack([low, high], dim=1)
    complete = torch.stack([low.new_full(low.shape, tilt) for tilt in (-90, 90)], dim=1)
    tilt_ranges = torch.where(best[:, 0] > 0, found, complete)
    return best[:, 0, 0], tilt_ranges


class _Means(NamedTuple):
    """How well two means fit, for each pair of smallest and largest tilt."""

    gains: Tensor  # (n, n_ends, n_ends), what they take off the sum of squares
    drops: Tensor  # (n, n_ends, n_ends), the mean inside less the one outside
    n_all: Tensor  # (n, 1, 1), coefficients


def _compare_means(logs: Tensor, part: _Partition) -> _Means:
    """Fit one mean of log power inside of each range of tilts, and one outside."""
    logs = logs[:, part.coefficients]
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
    gains = n_in * n_out / n_all.clamp_min(1) * drops.square()
    return _Means(gains, drops, n_all)


class _Partition(NamedTuple):
    """How the Fourier coefficients of a volume's shape fall into shells and sectors."""

    coefficients: Tensor  # (k,), positions in the flattened output of rfftn
    shells: Tensor  # (k,), number of each one's shell
    references: Tensor  # (k, n_shells), weights of the means over reference tilts
    without_reference: Tensor  # (n_shells,), whether there are none
    sectors: Tensor  # (k, n_sectors), part of each coefficient in each sector of tilts
    lowest: Tensor  # (n_ends,), the borders that may be the smallest tilt
    highest: Tensor  # (n_ends,), and the largest


@lru_cache(maxsize=8 * len(FRAMES))
def _partition(
    shape: tuple[int, int, int], frame: Frame, dtype: torch.dtype, device: torch.device
) -> _Partition:
    axes = [_frequencies(side) for side in shape]
    axes[2] = axes[2][: shape[2] // 2 + 1]
    grids = torch.meshgrid(*axes, indexing="ij")
    fb, fu = grids[frame.beam], grids[frame.across]
    tilts = torch.rad2deg(torch.atan2(torch.where(fu < 0, -fb, fb), fu.abs()))
    radii = torch.stack(grids).square().sum(dim=0).sqrt()
    at_nyquist = (torch.stack(grids).abs() == 0.5).any(dim=0)
    too_near = torch.hypot(fb * shape[frame.beam], fu * shape[frame.across]) < _NEAREST
    # Of a pair k and -k, which have the same power, one counts: a part of the pairs is
    # there twice, for which the frames would not be equally likely.
    fz, fy, fx = grids
    again = (fx == 0) & ((fy < 0) | ((fy == 0) & (fz < 0)))
    used = ~at_nyquist & ~too_near & (radii < 0.5) & ~again
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
    ends = torch.arange(-90.0, -_SMALLEST_END + _SECTOR / 2, _SECTOR)

    def put(tensor: Tensor) -> Tensor:
        return tensor.to(device, dtype if tensor.is_floating_point() else None)

    return _Partition(
        coefficients=put(used.flatten().nonzero()[:, 0]),
        shells=put(shells),
        references=put(references / n_references.clamp_min(1)),
        without_reference=put(n_references == 0),
        sectors=put(parts.double() / 2),
        lowest=put(ends),
        highest=put(-ends.flip(0)),
    )


@lru_cache(maxsize=8)
def _taper(
    shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device
) -> Tensor:
    taper = torch.ones(shape, dtype=torch.float64)
    for axis, side in enumerate(shape):
        window = torch.hann_window(side + 2, periodic=False, dtype=torch.float64)[1:-1]
        taper *= window.reshape([-1 if i == axis else 1 for i in range(3)])
    return taper.to(device, dtype)


def _frequencies(side: int) -> Tensor:
    """Return the frequencies along one axis in cycles per voxel, as of ``fftn``."""
    return torch.fft.fftfreq(side, dtype=torch.float64)


@lru_cache(maxsize=32)
def _frequencies_on(side: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the frequencies on a device, which has to wait for them only once."""
    return _frequencies(side).to(device, dtype)


def _inside(
    kb: Tensor, ku: Tensor, tilt_ranges: Tensor, sides: tuple[int, int]
) -> Tensor:
    """Return 1 inside of the tilt ranges, 0 outside, with a ramp between the two.

    Parameters
    ----------
    kb, ku : Tensor, broadcast to (along, across)
        Frequencies along and across the beam in cycles per voxel; `ku` is not
        negative.
    tilt_ranges : Tensor of shape (n, 2)
        Smallest and largest tilt in degrees.
    sides : (int, int)
        Sides of the volume along and across the beam, in voxels.

    Returns
    -------
    Tensor of shape (n, along, across)
        Numbers in [0, 1].
    """
    along, across = sides
    low, high = torch.deg2rad(tilt_ranges)[:, :, None, None].unbind(dim=1)
    from_low = kb * low.cos() - ku * low.sin()
    from_high = ku * high.sin() - kb * high.cos()
    # The distance between neighbouring coefficients, at right angles to the border.
    ramp_low, ramp_high = (
        torch.hypot(end.cos() / along, end.sin() / across) for end in (low, high)
    )
    nearest = torch.minimum(from_low / ramp_low, from_high / ramp_high)
    return (nearest + 0.5).clamp(0, 1)
