"""Views that are bent."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, ClassVar

import torch
from sklearn.utils._param_validation import Interval
from torch import Tensor

from sksubtomo.augmentation._base import OccasionalAugmentation
from sksubtomo.augmentation.functional import displace, spline_displacements


class Elastic(OccasionalAugmentation):
    """Random smooth deformation, resampled once; outside the volume is zero.

    Control points around and inside the volume are displaced at random, and cubic
    B-splines interpolate between them. The outermost two layers, the one outside and
    the one on the faces, stay in place.

    One of the augmentations that Gupta et al. (2022) [1]_ tried and left out.

    Parameters
    ----------
    p : float, default=0.5
        Probability that a view is deformed.
    max_displacement : float, default=0.05
        Largest displacement of a control point along each axis, either way, as a
        fraction of that side, drawn uniformly. The default is TorchIO's [2]_ 7.5 mm for
        a head 150 mm wide. Above ``0.5 / (n_control_points - 3)``, half of the distance
        between control points, the volume may fold over.
    n_control_points : int, default=7
        Control points along each axis, of which four stay in place. The default is
        TorchIO's [2]_.

    See Also
    --------
    Compose : Several augmentations in a row.

    References
    ----------
    .. [1] Gupta, T., He, X., Uddin, M. R., Zeng, X., Zhou, A., Zhang, J., Freyberg, Z.,
       Xu, M. (2022). Self-supervised learning for macromolecular structure
       classification based on cryo-electron tomograms. Front. Physiol. 13, 957484.
    .. [2] Pérez-García, F., Sparks, R., Ourselin, S. (2021). TorchIO: A Python library
       for efficient loading, preprocessing, augmentation and patch-based sampling of
       medical images in deep learning. Comput. Methods Programs Biomed. 208, 106236.

    Examples
    --------
    >>> import torch
    >>> from sksubtomo.augmentation import Elastic
    >>> sampler = Elastic(p=1, max_displacement=0.1).build(seed=0)
    >>> sampler(torch.randn(4, 1, 8, 8, 8)).shape
    torch.Size([4, 1, 8, 8, 8])
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "p": [Interval(Real, 0, 1, closed="both")],
        "max_displacement": [Interval(Real, 0, 1, closed="both")],
        "n_control_points": [Interval(Integral, 5, None, closed="left")],
    }

    def __init__(
        self,
        p: float = 0.5,
        max_displacement: float = 0.05,
        n_control_points: int = 7,
    ) -> None:
        self.p = p
        self.max_displacement = max_displacement
        self.n_control_points = n_control_points

    def _draw(self, uniform: Callable[..., Tensor], n: int) -> Tensor:
        """Draw the displacements of control points, as parts of the side."""
        points = self.n_control_points
        displacements = torch.zeros(n, 3, points, points, points, dtype=torch.float64)
        free = points - 4
        displacements[..., 2:-2, 2:-2, 2:-2] = self.max_displacement * uniform(
            n, 3, free, free, free
        )
        return displacements

    def _change(self, volumes: Tensor, drawn: Tensor) -> Tensor:
        """Deform all volumes."""
        depth, height, width = volumes.shape[2:]
        sides = (depth, height, width)
        scaled = [drawn[:, axis] * side for axis, side in enumerate(sides)]
        return displace(volumes, spline_displacements(torch.stack(scaled, 1), sides))
