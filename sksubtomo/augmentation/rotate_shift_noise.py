"""Views from all directions: rotations in space, shifts, noise, contrast, the wedge."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from numbers import Real
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor

from sksubtomo.augmentation._base import ViewSampler, per_volume
from sksubtomo.augmentation.functional import (
    add_noise,
    resample,
    rigid_matrices,
    rotation_matrices,
)
from sksubtomo.augmentation.missing_wedge import (
    FRAMES,
    Frame,
    apply_masks,
    choose_wedges,
    estimate_wedges,
    wedge_masks,
)

TiltAxis = Literal["x", "y"]
TiltRange = tuple[float, float]

# Which of z, y and x are reversed: two of them are a half turn about the third axis.
_MIRRORS = list(product((False, True), repeat=3))
_FLIPS = {
    "half_turns": [axes for axes in _MIRRORS if sum(axes) % 2 == 0],
    "mirrors": _MIRRORS,
}


class RotateShiftNoise(BaseEstimator):
    """Uniform rotation in space, random shift, noise and contrast.

    Particles in a tomogram lie in any orientation, so two orientations of one volume
    are views of the same class. Rotation and shift are resampled once; outside the
    volume is zero. Noise is added after that and covers the empty corners.

    Volumes that are to be embedded or classified are neither smoothed by interpolation
    nor given noise, and a network that has only seen the others does not know them. So
    a part of the views is not resampled, and the noise goes down to none.

    A tilt series leaves out a wedge of Fourier space, which lies in the same direction
    in all volumes of a tomogram, however the particles lie. A rotation turns it along;
    with `wedge` a rotated view loses what another particle, lying as the view shows it,
    would have lost. It then lacks both wedges: what the volume's own lacks cannot be
    had back.

    Parameters
    ----------
    rotate : bool, default=True
        Whether to rotate, uniformly over all orientations.
    max_translation : float, default=0.1
        Largest shift along each axis, either way, as a fraction of that side.
    noise : float, default=0.3
        Largest standard deviation of the noise over that of the volume's voxels. Each
        view draws its own between 0 and this.
    p_rigid : float, default=0.7
        Probability that a view is rotated and shifted.
    contrast : float, default=0.0
        Largest change of contrast: each view is multiplied by ``exp(u)``, u uniform
        between ``-contrast`` and `contrast`. Zero stays zero, so volumes should have a
        mean near zero, as normalised ones have.
    wedge : (float, float), sequence of those, "estimate" or None, default="estimate"
        Smallest and largest tilt of the tilt series in degrees, within [-90, 90]: what
        they do not measure is taken out of rotated and shifted views. The noise passes
        the same wedge in all views, as that of a tomogram does, and then has the
        deviation that was drawn. Of several tilt series, give the tilts of each: every
        volume gets those that fit its Fourier power best. "estimate"
        knows nothing, and reads the tilts, and which of the axes are beam and tilt
        axis, from each volume; those without a wedge get none. None leaves Fourier
        space alone.
    tilt_axis : {"y", "x"}, default="y"
        The tilt axis in the volumes, where `wedge` is given; the beam then runs along
        z.
    flips : {"half_turns", "mirrors"} or None, default="mirrors"
        What every view goes through first, without interpolation, those included that
        are not rotated: one of the half turns about the axes, or also reflections in
        their planes, all equally likely. Both leave the wedge of a tilt range that is
        symmetric about zero where it is. The mirror image of a complex is another
        object, which at a resolution of 20 angstroms hardly shows.

    See Also
    --------
    CropAffine : The views of Gupta et al. (2022), in the plane.

    References
    ----------
    Shoemake, K. (1992). Uniform random rotations. Graphics Gems III, 124-132.

    Examples
    --------
    >>> import torch
    >>> from sksubtomo.augmentation import RotateShiftNoise
    >>> sampler = RotateShiftNoise(noise=0.5).build(seed=0)
    >>> volumes = torch.randn(4, 1, 8, 8, 8)
    >>> view_1, view_2 = sampler(volumes), sampler(volumes)
    >>> view_1.shape
    torch.Size([4, 1, 8, 8, 8])
    """

    _parameter_constraints: ClassVar[dict[str, list[Any] | str]] = {
        "rotate": ["boolean"],
        "max_translation": [Interval(Real, 0, 1, closed="both")],
        "noise": [Interval(Real, 0, None, closed="left")],
        "p_rigid": [Interval(Real, 0, 1, closed="both")],
        "contrast": [Interval(Real, 0, None, closed="left")],
        "wedge": "no_validation",  # `build` has more to say than which types it may be
        "tilt_axis": [StrOptions({"x", "y"})],
        "flips": [StrOptions(set(_FLIPS)), None],
    }

    def __init__(
        self,
        rotate: bool = True,
        max_translation: float = 0.1,
        noise: float = 0.3,
        p_rigid: float = 0.7,
        contrast: float = 0.0,
        wedge: TiltRange | Sequence[TiltRange] | Literal["estimate"] | None = (
            "estimate"
        ),
        tilt_axis: TiltAxis = "y",
        flips: Literal["half_turns", "mirrors"] | None = "mirrors",
    ) -> None:
        self.rotate = rotate
        self.max_translation = max_translation
        self.noise = noise
        self.p_rigid = p_rigid
        self.contrast = contrast
        self.wedge = wedge
        self.tilt_axis = tilt_axis
        self.flips = flips

    def build(self, seed: int) -> RotateShiftNoiseSampler:
        """Build a sampler of views.

        Parameters
        ----------
        seed : int
            Of the sampler's own generator.

        Returns
        -------
        RotateShiftNoiseSampler
            Maps (n, 1, depth, height, width) to views of that shape.

        Raises
        ------
        ValueError
            If a parameter is out of its range.
        """
        self._validate_params()
        return RotateShiftNoiseSampler(
            seed,
            rotate=self.rotate,
            max_translation=self.max_translation,
            noise=self.noise,
            p_rigid=self.p_rigid,
            contrast=self.contrast,
            wedge=_check_wedge(self.wedge),
            tilt_axis=self.tilt_axis,
            flips=self.flips,
        )


class RotateShiftNoiseSampler(ViewSampler):
    """Sampler of `RotateShiftNoise`'s views.

    Parameters
    ----------
    seed : int
        Of the sampler's own generator.
    rotate : bool
        As in `RotateShiftNoise`, and so are the others.
    max_translation, noise, p_rigid, contrast : float
        Ranges and probability.
    wedge : list of (float, float), "estimate" or None
        Tilts in degrees, of each tilt series.
    tilt_axis : {"y", "x"}
        The tilt axis.
    flips : {"half_turns", "mirrors"} or None
        As in `RotateShiftNoise`.
    """

    def __init__(
        self,
        seed: int,
        *,
        rotate: bool,
        max_translation: float,
        noise: float,
        p_rigid: float,
        contrast: float,
        wedge: list[TiltRange] | Literal["estimate"] | None,
        tilt_axis: TiltAxis,
        flips: Literal["half_turns", "mirrors"] | None,
    ) -> None:
        super().__init__(seed)
        self.rotate = rotate
        self.max_translation = max_translation
        self.noise = noise
        self.p_rigid = p_rigid
        self.contrast = contrast
        self.wedge = wedge
        self.tilt_axis = tilt_axis
        self.flips = flips

    def __call__(self, volumes: Tensor, start: int = 0, n: int | None = None) -> Tensor:
        """Draw one view of every volume."""
        rows = slice(start, start + len(volumes))
        n = n or rows.stop
        matrices = self.draw(n, *volumes.shape[2:])[rows]
        flips = self._draw_flips(n)[rows]
        views = volumes
        for axis, flipped in enumerate(flips.T, start=2):
            flipped = per_volume(flipped, volumes)
            views = torch.where(flipped, views.flip(axis), views)
        views = resample(views, matrices)
        # Of the volume, not of the view, from which interpolation and empty corners
        # have taken a part that differs from draw to draw.
        std = volumes.new_zeros(0)
        if len(volumes) > 0:
            std = volumes.std(dim=(1, 2, 3, 4), correction=0)
        factors = self.noise * self._uniform(n, low=0.0)[rows]
        std = std * factors.to(std, non_blocking=True)
        generator = self._fork(volumes.device)
        if self.wedge is None:
            views = _add_noise(views, std, rows, n, generator)
        else:
            moved = (matrices != torch.eye(4).to(matrices)).any(dim=2).any(dim=1)
            masks = self._masks(volumes, flips & ~moved[:, None])
            moved = per_volume(moved, volumes)
            std = std / masks.square().mean(dim=(1, 2, 3)).sqrt()
            # Volumes that have not moved have their wedge already.
            masked = _add_noise(torch.where(moved, views, 0.0), std, rows, n, generator)
            masked = apply_masks(masked, masks)
            views = torch.where(moved, masked, views + masked)
        if self.contrast > 0:
            factors = (self.contrast * self._uniform(n)).exp()
            views = views * per_volume(factors[rows], views)
        return views

    def _draw_flips(self, n: int) -> Tensor:
        """Draw which of the axes z, y and x of each volume are reversed."""
        if self.flips is None:
            return torch.zeros(n, 3, dtype=torch.bool)
        choices = torch.tensor(_FLIPS[self.flips])
        return choices[torch.randint(len(choices), (n,), generator=self._generator)]

    def _masks(self, volumes: Tensor, flips: Tensor) -> Tensor:
        """Return what the tilt series of each volume measures, if it is flipped so."""
        depth, height, width = volumes.shape[2:]

        def masks_of(tilt_ranges: Tensor, frame: Frame) -> Tensor:
            # Reversing the beam, or what is across it, turns the tilts around.
            reversed_ = flips[:, frame.beam] ^ flips[:, frame.across]
            reversed_ = reversed_.to(volumes.device, non_blocking=True)[:, None]
            tilt_ranges = torch.where(reversed_, -tilt_ranges.flip(1), tilt_ranges)
            return wedge_masks((depth, height, width), tilt_ranges, frame)

        if self.wedge != "estimate":
            across = 2 if self.tilt_axis == "y" else 1
            frame = Frame(beam=0, across=across)
            return masks_of(self._known_ranges(volumes, frame), frame)
        frames, tilt_ranges = estimate_wedges(volumes)
        masks = volumes.new_ones(len(volumes), depth, height, width)
        for number, frame in enumerate(FRAMES):
            lies_so = (frames == number)[:, None, None, None]
            # Asking would stall an accelerator.
            if volumes.device.type != "cpu" or lies_so.any():
                masks = torch.where(lies_so, masks_of(tilt_ranges, frame), masks)
        return masks

    def _known_ranges(self, volumes: Tensor, frame: Frame) -> Tensor:
        """Return the tilts of each volume, of those that were given."""
        assert isinstance(self.wedge, list)
        # Filled where the volumes are: copying a tensor would stall an accelerator.
        ends = [volumes.new_full((), end) for tilts in self.wedge for end in tilts]
        known = torch.stack(ends).reshape(-1, 2)
        if len(known) == 1:
            return known.expand(len(volumes), 2)
        return choose_wedges(volumes, known, frame)

    def draw(self, n: int, depth: int, height: int, width: int) -> Tensor:
        """Draw the transforms of one call.

        Parameters
        ----------
        n : int
            Number of volumes.
        depth, height, width : int
            Sides of the volumes in voxels.

        Returns
        -------
        Tensor of shape (n, 4, 4)
            Float64, as `resample` takes them.
        """
        sides = torch.tensor([depth, height, width], dtype=torch.float64)
        if self.rotate:
            quaternions = torch.randn(
                n, 4, dtype=torch.float64, generator=self._generator
            )
            rotations = rotation_matrices(quaternions)
        else:
            rotations = torch.eye(3, dtype=torch.float64).expand(n, 3, 3)
        translations = self._uniform(n, 3) * self.max_translation * sides
        matrices = rigid_matrices(rotations, translations)
        moved = self._uniform(n, low=0.0) < self.p_rigid
        return torch.where(moved[:, None, None], matrices, torch.eye(4).to(matrices))


def _add_noise(
    views: Tensor, std: Tensor, rows: slice, n: int, generator: torch.Generator
) -> Tensor:
    """Add to the rows of a batch the noise that they have in the whole batch."""
    if len(views) < n:
        # A generator has no way to skip the voxels of the other rows.
        views, std = _put_in(views, rows, n), _put_in(std, rows, n)
    return add_noise(views, std, generator)[rows]


def _put_in(part: Tensor, rows: slice, n: int) -> Tensor:
    """Put rows into a batch of zeros."""
    whole = part.new_zeros(n, *part.shape[1:])
    whole[rows] = part
    return whole


def _check_wedge(wedge: Any) -> list[TiltRange] | Literal["estimate"] | None:
    """Return the tilts of each tilt series, and refuse what is no range of tilts."""
    if wedge is None:
        return None
    if isinstance(wedge, str) and wedge == "estimate":
        return "estimate"
    try:
        ranges = np.asarray(wedge, dtype=np.float64)
    except (TypeError, ValueError):
        ranges = np.empty(0)
    if ranges.shape == (2,):
        ranges = ranges[np.newaxis]
    if (
        ranges.ndim != 2
        or ranges.shape[1] != 2
        or len(ranges) == 0
        or not np.all(np.abs(ranges) <= 90)
        or not np.all(ranges[:, 0] < ranges[:, 1])
    ):
        raise ValueError(
            "The 'wedge' parameter of RotateShiftNoise must be 'estimate', None, or "
            "two tilts in degrees with -90 <= smallest < largest <= 90 or a sequence "
            f"of such pairs. Got {wedge!r} instead."
        )
    return [(float(low), float(high)) for low, high in ranges]
