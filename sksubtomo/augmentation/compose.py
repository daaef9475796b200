"""Several augmentations in a row, and the names that augmentations have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from sklearn.base import BaseEstimator
from torch import Tensor

from sksubtomo._parameters import resolve
from sksubtomo.augmentation._base import ViewSampler
from sksubtomo.augmentation.bias_field import BiasField
from sksubtomo.augmentation.blur import Blur
from sksubtomo.augmentation.crop_affine import CropAffine
from sksubtomo.augmentation.elastic import Elastic
from sksubtomo.augmentation.gamma import Gamma
from sksubtomo.augmentation.rotate_shift_noise import RotateShiftNoise


class Compose(BaseEstimator):
    """Several augmentations, each applied to what the one before it made.

    Those that resample blur each time: put rotations, shifts and crops into a single
    one of them.

    Parameters
    ----------
    augmentations : list or tuple, \
            default=("crop_affine", "blur", "gamma", "elastic", "bias_field")
        Names or objects, in their order. The default is the paper's augmentation
        together with all that Gupta et al. (2022) tried and left out.

    See Also
    --------
    Blur, Gamma, Elastic, BiasField : What can be added to other views.

    References
    ----------
    Gupta, T., He, X., Uddin, M. R., Zeng, X., Zhou, A., Zhang, J., Freyberg, Z.,
    Xu, M. (2022). Self-supervised learning for macromolecular structure
    classification based on cryo-electron tomograms. Front. Physiol. 13, 957484.

    Examples
    --------
    >>> import torch
    >>> from sksubtomo.augmentation import Blur, Compose
    >>> sampler = Compose(["crop_affine", Blur(p=0.2)]).build(seed=0)
    >>> sampler(torch.randn(4, 1, 8, 8, 8)).shape
    torch.Size([4, 1, 8, 8, 8])
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "augmentations": [list, tuple],
    }

    def __init__(
        self,
        augmentations: Sequence[Any] = (
            "crop_affine",
            "blur",
            "gamma",
            "elastic",
            "bias_field",
        ),
    ) -> None:
        self.augmentations = augmentations

    def build(self, seed: int) -> ComposeSampler:
        """Build a sampler of views.

        Parameters
        ----------
        seed : int
            Of the generator that gives each augmentation's sampler its seed.

        Returns
        -------
        ComposeSampler
            Maps (n, 1, depth, height, width) to views of that shape.

        Raises
        ------
        ValueError
            If there are no augmentations, a name is not known, or a parameter of one of
            them is out of its range.
        TypeError
            If something is neither a name nor an object with a ``build`` method.
        """
        self._validate_params()
        if len(self.augmentations) == 0:
            raise ValueError(
                "The 'augmentations' parameter of Compose must hold at least one. Got "
                f"{self.augmentations!r} instead."
            )
        return ComposeSampler(
            seed,
            [
                resolve(augmentation, AUGMENTATIONS, f"augmentations[{i}]")
                for i, augmentation in enumerate(self.augmentations)
            ],
        )


class ComposeSampler(ViewSampler):
    """Sampler of `Compose`'s views.

    Parameters
    ----------
    seed : int
        Of the generator that gives each sampler its seed.
    augmentations : sequence of parameter objects
        What builds the samplers.
    """

    def __init__(self, seed: int, augmentations: Sequence[Any]) -> None:
        super().__init__(seed)
        self.samplers: list[ViewSampler] = [
            augmentation.build(self._seed()) for augmentation in augmentations
        ]

    def __call__(self, volumes: Tensor, start: int = 0, n: int | None = None) -> Tensor:
        """Draw one view of every volume."""
        for sampler in self.samplers:
            volumes = sampler(volumes, start, n)
        return volumes

    def get_state(self) -> Tensor:
        """Return the states of all samplers, to be saved with a checkpoint.

        Returns
        -------
        Tensor
            One state after the other.
        """
        return torch.cat([sampler.get_state() for sampler in self.samplers])

    def set_state(self, state: Tensor) -> None:
        """Go on drawing from where `get_state` was called.

        Parameters
        ----------
        state : Tensor
            What `get_state` returned.
        """
        lengths = [len(sampler.get_state()) for sampler in self.samplers]
        for sampler, part in zip(self.samplers, state.split(lengths), strict=True):
            # A generator reads the state from where the tensor's storage begins.
            sampler.set_state(part.clone())


AUGMENTATIONS: Mapping[str, type] = {
    "crop_affine": CropAffine,
    "rotate_shift_noise": RotateShiftNoise,
    "blur": Blur,
    "gamma": Gamma,
    "elastic": Elastic,
    "bias_field": BiasField,
    "compose": Compose,
}
