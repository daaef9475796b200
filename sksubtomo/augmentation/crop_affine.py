"""The paper's views: a random crop and a random affine transform in the plane."""

from __future__ import annotations

from numbers import Real
from typing import Any, ClassVar

import torch
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval
from torch import Tensor

from sksubtomo.augmentation._base import ViewSampler
from sksubtomo.augmentation.functional import crop_matrices, in_plane_matrices, resample


class CropAffine(BaseEstimator):
    """Random resized crop and random affine transform in the plane of y and x.

    The z axis is left alone: all slices of a volume share one transform. Crop and
    affine transform are composed and resampled once; outside the volume is zero.

    Parameters
    ----------
    p_crop : float, default=0.5
        Probability of a crop.
    crop_scale : tuple of two floats, default=(0.5, 1.0)
        Smallest and largest fraction of the plane's area that a crop keeps, drawn
        uniformly. The part has the plane's proportions and lies anywhere within it.
    p_affine : float, default=0.5
        Probability of an affine transform.
    max_rotation : float, default=45.0
        Largest rotation about z in degrees, either way.
    max_translation : float, default=0.1
        Largest shift along y and x, either way, as a fraction of that side.
    max_scaling : float, default=0.1
        Largest change of size, either way, as a fraction.

    See Also
    --------
    RotateShiftNoise : Views from all directions.

    References
    ----------
    Gupta, T., He, X., Uddin, M. R., Zeng, X., Zhou, A., Zhang, J., Freyberg, Z.,
    Xu, M. (2022). Self-supervised learning for macromolecular structure
    classification based on cryo-electron tomograms. Front. Physiol. 13, 957484.

    Examples
    --------
    >>> import torch
    >>> from sksubtomo.augmentation import CropAffine
    >>> sampler = CropAffine(max_rotation=90).build(seed=0)
    >>> volumes = torch.randn(4, 1, 8, 8, 8)
    >>> view_1, view_2 = sampler(volumes), sampler(volumes)
    >>> view_1.shape
    torch.Size([4, 1, 8, 8, 8])
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "p_crop": [Interval(Real, 0, 1, closed="both")],
        "crop_scale": [tuple, list],
        "p_affine": [Interval(Real, 0, 1, closed="both")],
        "max_rotation": [Interval(Real, 0, 180, closed="both")],
        "max_translation": [Interval(Real, 0, 1, closed="both")],
        "max_scaling": [Interval(Real, 0, 1, closed="left")],
    }

    def __init__(
        self,
        p_crop: float = 0.5,
        crop_scale: tuple[float, float] = (0.5, 1.0),
        p_affine: float = 0.5,
        max_rotation: float = 45.0,
        max_translation: float = 0.1,
        max_scaling: float = 0.1,
    ) -> None:
        self.p_crop = p_crop
        self.crop_scale = crop_scale
        self.p_affine = p_affine
        self.max_rotation = max_rotation
        self.max_translation = max_translation
        self.max_scaling = max_scaling

    def build(self, seed: int) -> CropAffineSampler:
        """Build a sampler of views.

        Parameters
        ----------
        seed : int
            Of the sampler's own generator.

        Returns
        -------
        CropAffineSampler
            Maps (n, 1, depth, height, width) to views of that shape.

        Raises
        ------
        ValueError
            If a parameter is out of its range.
        """
        self._validate_params()
        fractions = tuple(self.crop_scale)
        if not (
            len(fractions) == 2
            and all(isinstance(fraction, Real) for fraction in fractions)
            and 0 < fractions[0] <= fractions[1] <= 1
        ):
            raise ValueError(
                "The 'crop_scale' parameter of CropAffine must be two numbers with "
                f"0 < smallest <= largest <= 1. Got {self.crop_scale!r} instead."
            )
        return CropAffineSampler(
            seed,
            p_crop=self.p_crop,
            crop_scale=fractions,
            p_affine=self.p_affine,
            max_rotation=self.max_rotation,
            max_translation=self.max_translation,
            max_scaling=self.max_scaling,
        )


class CropAffineSampler(ViewSampler):
    """Sampler of `CropAffine`'s views.

    Parameters
    ----------
    seed : int
        Of the sampler's own generator.
    p_crop, crop_scale, p_affine, max_rotation, max_translation, max_scaling : float
        As in `CropAffine`.
    """

    def __init__(
        self,
        seed: int,
        *,
        p_crop: float,
        crop_scale: tuple[float, float],
        p_affine: float,
        max_rotation: float,
        max_translation: float,
        max_scaling: float,
    ) -> None:
        super().__init__(seed)
        self.p_crop = p_crop
        self.crop_scale = crop_scale
        self.p_affine = p_affine
        self.max_rotation = max_rotation
        self.max_translation = max_translation
        self.max_scaling = max_scaling

    def __call__(self, volumes: Tensor, start: int = 0, n: int | None = None) -> Tensor:
        """Draw one view of every volume."""
        stop = start + len(volumes)
        matrices = self.draw(n or stop, *volumes.shape[3:])[start:stop]
        return resample(volumes, matrices)

    def draw(self, n: int, height: int, width: int) -> Tensor:
        """Draw the transforms of one call.

        Parameters
        ----------
        n : int
            Number of volumes.
        height, width : int
            Sides of the plane in voxels.

        Returns
        -------
        Tensor of shape (n, 3, 3)
            Float64, as `resample` takes them.
        """
        sides = torch.tensor([height, width], dtype=torch.float64)
        identity = torch.eye(3, dtype=torch.float64)

        low, high = self.crop_scale
        zooms = self._uniform(n, low=low, high=high).sqrt()
        centres = self._uniform(n, 2) * (1 - zooms)[:, None] * sides / 2
        is_cropped = self._uniform(n, 1, 1, low=0.0) < self.p_crop
        crops = torch.where(is_cropped, crop_matrices(zooms, centres), identity)

        angles = self._uniform(n) * self.max_rotation
        translations = self._uniform(n, 2) * self.max_translation * sides
        scales = 1 + self._uniform(n) * self.max_scaling
        is_moved = self._uniform(n, 1, 1, low=0.0) < self.p_affine
        affines = in_plane_matrices(angles, translations, scales)
        affines = torch.where(is_moved, affines, identity)

        return crops @ affines
