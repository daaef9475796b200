"""Views of uneven brightness."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, ClassVar

from sklearn.utils._param_validation import Interval
from torch import Tensor

from sksubtomo.augmentation._base import OccasionalAugmentation
from sksubtomo.augmentation.functional import bias_fields


class BiasField(OccasionalAugmentation):
    """Multiplication by a random smooth field, the exponential of a polynomial.

    Zero stays zero, so volumes should have a mean near zero, as normalised ones have.

    One of the augmentations that Gupta et al. (2022) [1]_ tried and left out.

    Parameters
    ----------
    p : float, default=0.5
        Probability that a view is changed.
    max_coefficient : float, default=0.5
        Largest coefficient of the polynomial, either way, drawn uniformly for each of
        its terms; the volume's faces are at -1 and 1. The default is TorchIO's [2]_.
    order : int, default=3
        Order of the polynomial. The default is TorchIO's [2]_.

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
    >>> from sksubtomo.augmentation import BiasField
    >>> sampler = BiasField(p=1).build(seed=0)
    >>> sampler(torch.ones(4, 1, 8, 8, 8)).min() > 0
    tensor(True)
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "p": [Interval(Real, 0, 1, closed="both")],
        "max_coefficient": [Interval(Real, 0, None, closed="left")],
        "order": [Interval(Integral, 0, None, closed="left")],
    }

    def __init__(
        self, p: float = 0.5, max_coefficient: float = 0.5, order: int = 3
    ) -> None:
        self.p = p
        self.max_coefficient = max_coefficient
        self.order = order

    def _draw(self, uniform: Callable[..., Tensor], n: int) -> Tensor:
        """Draw coefficients of polynomials, of shape (n, n_terms)."""
        order = self.order
        n_terms = (order + 1) * (order + 2) * (order + 3) // 6
        return self.max_coefficient * uniform(n, n_terms)

    def _change(self, volumes: Tensor, drawn: Tensor) -> Tensor:
        """Multiply all volumes by their fields."""
        depth, height, width = volumes.shape[2:]
        return volumes * bias_fields(drawn, self.order, (depth, height, width))
