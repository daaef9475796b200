"""Views from all directions: random rotations in space, shifts and noise."""

from __future__ import annotations

from numbers import Real
from typing import Any, ClassVar

import torch
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval
from torch import Tensor

from sksubtomo.augmentation._base import ViewSampler
from sksubtomo.augmentation.functional import (
    add_noise,
    resample,
    rigid_matrices,
    rotation_matrices,
)


class RotateShiftNoise(BaseEstimator):
    """Uniform rotation in space, random shift and white noise.

    Particles in a tomogram lie in any orientation, so two orientations of one volume
    are views of the same class. Rotation and shift are resampled once; outside the
    volume is zero. Noise is added last and covers the empty corners.

    Volumes that are to be embedded or classified are neither smoothed by interpolation
    nor given noise, and a network that has only seen the others does not know them. So
    a part of the views is not resampled, and the noise goes down to none.

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

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "rotate": ["boolean"],
        "max_translation": [Interval(Real, 0, 1, closed="both")],
        "noise": [Interval(Real, 0, None, closed="left")],
        "p_rigid": [Interval(Real, 0, 1, closed="both")],
    }

    def __init__(
        self,
        rotate: bool = True,
        max_translation: float = 0.1,
        noise: float = 0.3,
        p_rigid: float = 0.7,
    ) -> None:
        self.rotate = rotate
        self.max_translation = max_translation
        self.noise = noise
        self.p_rigid = p_rigid

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
        )


class RotateShiftNoiseSampler(ViewSampler):
    """Sampler of `RotateShiftNoise`'s views.

    Parameters
    ----------
    seed : int
        Of the sampler's own generator.
    rotate, max_translation, noise, p_rigid : bool, float, float, float
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
    ) -> None:
        super().__init__(seed)
        self.rotate = rotate
        self.max_translation = max_translation
        self.noise = noise
        self.p_rigid = p_rigid

    def __call__(self, volumes: Tensor, start: int = 0, n: int | None = None) -> Tensor:
        """Draw one view of every volume."""
        rows = slice(start, start + len(volumes))
        n = n or rows.stop
        matrices = self.draw(n, *volumes.shape[2:])[rows]
        views = resample(volumes, matrices)
        # Of the volume, not of the view, from which interpolation and empty corners
        # have taken a part that differs from draw to draw.
        std = volumes.new_zeros(0)
        if len(volumes) > 0:
            std = volumes.std(dim=(1, 2, 3, 4), correction=0)
        factors = self.noise * self._uniform(n, low=0.0)[rows]
        std = std * factors.to(std, non_blocking=True)
        if len(volumes) < n:
            # A generator has no way to skip the voxels of the other rows.
            views, std = _put_in(views, rows, n), _put_in(std, rows, n)
        return add_noise(views, std, self._fork(volumes.device))[rows]

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


def _put_in(part: Tensor, rows: slice, n: int) -> Tensor:
    """Put rows into a batch of zeros."""
    whole = part.new_zeros(n, *part.shape[1:])
    whole[rows] = part
    return whole
