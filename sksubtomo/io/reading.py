"""Volumes read where a pipeline needs them."""

from __future__ import annotations

from numbers import Real
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin, _fit_context
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted

from sksubtomo.io._sources import (
    Expected,
    check_axes,
    check_index,
    gather,
    open_source,
)
from sksubtomo.io.volumes import parse_references, set_contrast


class ReadVolumes(  # type: ignore[call-arg]
    TransformerMixin, BaseEstimator, auto_wrap_output_keys=None
):
    """Read the volumes that an array of references names.

    As the first step of a pipeline it lets an array of file names stand for volumes
    that need not fit into memory: a split, such as that of cross-validation, splits the
    names, and only the files of the rows at hand are opened.
    :func:`~sksubtomo.io.list_references` makes such an array of a STAR file, a folder
    or a stack.

    A reference is the path of a file of one volume (MRC, EM), or ``"3@stack.mrc"`` for
    the third volume of a stack (MRC, HDF5, Zarr). Paths are relative to the working
    directory.

    Parameters
    ----------
    dataset : str, default=None
        Which array of HDF5 files and Zarr stores to read. By default the only one with
        four axes.
    voxel_size : float, default=None
        Voxel size in angstroms, which overrides what the files say.
    invert_contrast : bool, default=None
        True multiplies the volumes by -1, False leaves them. None leaves them as well,
        but warns if the particles are darker than their surroundings.
    axes : str, default="zyx"
        The order in which the files store the axes, slowest first.
    allow_image_stacks : bool, default=False
        Take files for volumes whose header or name (".mrcs") says that they are stacks
        of images, and single volumes that are no cubes without a warning.

    Attributes
    ----------
    volume_shape_ : tuple of int
        Depth, height and width of the first volume, which all others have to have.
    voxel_size_ : float or None
        Voxel size in angstroms, of the first file unless it was given; files that have
        another one are refused, unless it was given.

    See Also
    --------
    sksubtomo.io.list_references : Makes the array of references.
    sksubtomo.io.read_volumes : Reads a source as a whole, memory-mapped if possible.

    Notes
    -----
    ``fit`` opens the first file only, and reads its header. ``set_output`` is accepted,
    so that it can be called on a pipeline, and has no effect: volumes are no columns of
    a data frame. A pipeline's cache (`memory`) is keyed by the references, not by the
    contents of their files.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sksubtomo import ContrastivePretrainer, ReadVolumes
    >>> from sksubtomo.datasets import make_subtomograms
    >>> from sksubtomo.io import list_references, write_volume_stack
    >>> X, y = make_subtomograms(n_per_class=2, size=8, random_state=0,
    ...                          return_X_y=True)
    >>> pipeline = make_pipeline(
    ...     ReadVolumes(),
    ...     ContrastivePretrainer(max_epochs=1, random_state=0),
    ...     LogisticRegression(),
    ... )
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "subtomograms.mrc")
    ...     write_volume_stack(path, X, voxel_size=40)
    ...     references = list_references(path)
    ...     pipeline.fit(references, y).predict(references[:3]).shape
    (3,)
    """

    _parameter_constraints: dict[str, list[Any]] = {
        "dataset": [str, None],
        "voxel_size": [Interval(Real, 0, None, closed="neither"), None],
        "invert_contrast": ["boolean", None],
        "axes": [str],
        "allow_image_stacks": ["boolean"],
    }

    def __init__(
        self,
        *,
        dataset: str | None = None,
        voxel_size: float | None = None,
        invert_contrast: bool | None = None,
        axes: str = "zyx",
        allow_image_stacks: bool = False,
    ) -> None:
        self.dataset = dataset
        self.voxel_size = voxel_size
        self.invert_contrast = invert_contrast
        self.axes = axes
        self.allow_image_stacks = allow_image_stacks

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn what the volumes look like from the first file.

        Parameters
        ----------
        X : array-like of shape (n,) or (n, 1)
            References, str or Path.
        y : ignored
            Not used, present by convention.

        Returns
        -------
        self
            The fitted transformer.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file cannot be read, or holds no volume.
        TypeError
            If X holds something else than names.
        ImportError
            If the format needs an extra that is not installed.
        """
        order = check_axes(self.axes)
        first = parse_references(X)[0]
        with open_source(
            first.path,
            dataset=self.dataset,
            allow_image_stacks=self.allow_image_stacks,
            # Whoever reads the volumes, in transform, is warned.
            warn=False,
        ) as (volumes, voxel_size):
            check_index(first, volumes.shape[0])
            self.volume_shape_ = tuple(volumes.shape[1 + axis] for axis in order)
        self.voxel_size_ = (
            voxel_size if self.voxel_size is None else float(self.voxel_size)
        )
        self._origin = first.name
        return self

    def transform(self, X: Any) -> NDArray[np.float32]:
        """Read the volumes.

        Parameters
        ----------
        X : array-like of shape (n,) or (n, 1)
            References, str or Path.

        Returns
        -------
        ndarray of shape (n, depth, height, width), float32
            The volumes, axes z, y, x.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If a file cannot be read or holds something else than real, finite volumes
            of the shape and voxel size found in ``fit``.
        TypeError
            If X holds something else than names.
        ImportError
            If the format needs an extra that is not installed.

        Warns
        -----
        UserWarning
            If the header breaks the format in a way that leaves the data readable, a
            single volume is no cube and so may be tilt images, or the contrast looks
            inverted and `invert_contrast` is None.
        """
        check_is_fitted(self)
        volumes, _ = gather(
            parse_references(X),
            Expected(self.volume_shape_, self._origin, self.voxel_size_, self._origin),
            dataset=self.dataset,
            axes=self.axes,
            allow_image_stacks=self.allow_image_stacks,
            ignore_voxel_size=self.voxel_size is not None,
        )
        return set_contrast(volumes, self.invert_contrast)

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[Any]:
        """Return a name for each voxel, in the order of a flattened volume.

        Parameters
        ----------
        input_features : ignored
            Not used, present by convention.

        Returns
        -------
        ndarray of str, shape (n_voxels,)
            Names such as "z0_y3_x12".
        """
        check_is_fitted(self)
        return np.array(
            [f"z{z}_y{y}_x{x}" for z, y, x in np.ndindex(*self.volume_shape_)],
            dtype=object,
        )

    def set_output(self, *, transform: str | None = None) -> Self:
        """Accept an output container, which has no effect: the output is volumes.

        Parameters
        ----------
        transform : {"default", "pandas", "polars"}, default=None
            Not used, so that ``set_output`` of a pipeline reaches its other steps.

        Returns
        -------
        self
            The transformer.
        """
        return self

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.transformer_tags.preserves_dtype = []
        return tags
