"""Views of another contrast curve."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any, ClassVar

from sklearn.utils._param_validation import Interval
from torch import Tensor

from sksubtomo.augmentation._base import OccasionalAugmentation
from sksubtomo.augmentation.functional import correct_gamma


class Gamma(OccasionalAugmentation):
    """Intensities raised to a random power.

    The power is taken between the smallest and the largest value of each volume, and
    the view gets the volume's mean and standard deviation back, so that only the shape
    of the histogram changes. TorchIO [2]_ raises the absolute values of signed data,
    which spreads or squeezes everything around zero.

    One of the augmentations that Gupta et al. (2022) [1]_ tried and left out.

    Parameters
    ----------
    p : float, default=0.5
        Probability that a view is changed.
    max_log_gamma : float, default=0.3
        Largest logarithm of the exponent, either way: it is ``exp(u)``, u uniform
        between ``-max_log_gamma`` and `max_log_gamma`. The default, exponents between
        0.74 and 1.35, is TorchIO's [2]_.

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
    >>> from sksubtomo.augmentation import Gamma
    >>> sampler = Gamma(p=1).build(seed=0)
    >>> sampler(torch.randn(4, 1, 8, 8, 8)).shape
    torch.Size([4, 1, 8, 8, 8])
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "p": [Interval(Real, 0, 1, closed="both")],
        "max_log_gamma": [Interval(Real, 0, None, closed="left")],
    }

    def __init__(self, p: float = 0.5, max_log_gamma: float = 0.3) -> None:
        self.p = p
        self.max_log_gamma = max_log_gamma

    def _draw(self, uniform: Callable[..., Tensor], n: int) -> Tensor:
        """Draw logarithms of exponents, of shape (n,)."""
        return self.max_log_gamma * uniform(n)

    def _change(self, volumes: Tensor, drawn: Tensor) -> Tensor:
        """Change the contrast curve of all volumes."""
        return correct_gamma(volumes, drawn)
