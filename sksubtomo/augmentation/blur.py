"""Blurred views."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any, ClassVar

from sklearn.utils._param_validation import Interval
from torch import Tensor

from sksubtomo.augmentation._base import OccasionalAugmentation
from sksubtomo.augmentation.functional import gaussian_blur


class Blur(OccasionalAugmentation):
    """Convolution with a random Gaussian, wider along some axes than along others.

    One of the augmentations that Gupta et al. (2022) [1]_ tried and left out.

    Parameters
    ----------
    p : float, default=0.5
        Probability that a view is blurred.
    max_std : float, default=1.0
        Largest standard deviation in voxels. Each view draws its own along each axis,
        uniformly between 0 and this. The default is half of TorchIO's [2]_, which is
        for volumes with ten times as many voxels along a side.

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
    >>> from sksubtomo.augmentation import Blur
    >>> sampler = Blur(p=1).build(seed=0)
    >>> sampler(torch.randn(4, 1, 8, 8, 8)).std() < 0.9
    tensor(True)
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "p": [Interval(Real, 0, 1, closed="both")],
        "max_std": [Interval(Real, 0, None, closed="left")],
    }

    def __init__(self, p: float = 0.5, max_std: float = 1.0) -> None:
        self.p = p
        self.max_std = max_std

    def _draw(self, uniform: Callable[..., Tensor], n: int) -> Tensor:
        """Draw standard deviations along z, y and x, of shape (n, 3)."""
        return self.max_std * uniform(n, 3, low=0.0)

    def _change(self, volumes: Tensor, drawn: Tensor) -> Tensor:
        """Blur all volumes."""
        return gaussian_blur(volumes, drawn)
