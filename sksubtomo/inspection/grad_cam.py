"""Where a classifier looked: Grad-CAM in three dimensions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection._search import BaseSearchCV
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from sksubtomo._labels import encode_labels
from sksubtomo._stored import StoredVolumes, Volumes, check_finite, iterate_blocks
from sksubtomo._training.precision import computing
from sksubtomo._training.runtime import inference_device
from sksubtomo._volumes import check_predict_volumes
from sksubtomo.classification import SubtomogramClassifier
from sksubtomo.inspection._arrays import (
    check_labels,
    check_positions,
    check_volumes,
    check_voxel_size,
    read_part,
)
from sksubtomo.inspection._layers import Layer, last_features, list_layers
from sksubtomo.inspection._matplotlib import (
    COLUMN_WIDTH,
    draw_image,
    draw_scale_bar,
    import_pyplot,
    make_grid,
    name_row,
    name_width,
)
from sksubtomo.semi_supervised import LabelFractionClassifier

# Always the same size, the last batch filled up, for convolutions round differently at
# different ones. On the CPU two volumes are about as fast as more, and layers that run
# larger batches in parts run them at once.
_CPU_BATCH = 2
_ACCELERATOR_BATCH = 64


def grad_cam(
    classifier: Any,
    X: Any,
    target: Any = None,
    layer: str | nn.Module | None = None,
) -> NDArray[np.float32]:
    """Map where a classifier found what speaks for a class.

    Gradient-weighted class activation mapping (Grad-CAM): the channels of a layer are
    weighted by the mean gradient of the class's score, before the softmax, and summed;
    what is positive is kept. The sum is interpolated linearly between the centres of
    the layer's voxels.

    Read more in the :ref:`User Guide <grad_cam>`.

    Parameters
    ----------
    classifier : estimator object
        A fitted :class:`~sksubtomo.SubtomogramClassifier` or subclass, or one inside of
        a :class:`~sksubtomo.LabelFractionClassifier`, a
        :class:`~sksubtomo.uncertainty.TemperatureScaledClassifier`, a search such as
        ``GridSearchCV``, a ``FrozenEstimator``, or at the end of a ``Pipeline``, whose
        earlier steps then transform X. Nothing of it is changed.
    X : array-like of shape (n, depth, height, width) or (n, n_features)
        Volumes of the shape that was fitted, or flattened ones. They are normalised and
        masked as in ``predict``.
    target : label or array-like of shape (n,), default=None
        The class to explain, or one for each volume, of those in ``classes_``. None is
        the class that is predicted for each volume.
    layer : str or torch.nn.Module, default=None
        A layer whose output has the shape (n, channels, depth, height, width): a
        submodule of the classifier's ``network_``, or its name there, such as
        ``"encoder.blocks.1"``. None is the encoder's last block of convolutions, or
        activation function, that has at least two voxels along each side: for RB3D
        ``"encoder.blocks"``, the last residual block, at half the volume's resolution.

    Returns
    -------
    ndarray of shape (n, depth, height, width), float32
        Maps, 0 or larger, in units of the class's score. The map of a volume does not
        depend on what else is in X. It is 0 everywhere if nothing speaks for the class.

    Raises
    ------
    ImportError
        If captum is not installed.
    TypeError
        If `classifier` or `layer` is of another kind, or X holds no numbers.
    ValueError
        If X, `target` or `layer` is not acceptable.
    sklearn.exceptions.NotFittedError
        If the classifier is not fitted.

    See Also
    --------
    attention_width : How wide the maps are.
    GradCAMDisplay : Draws maps on slices of the volumes.

    Notes
    -----
    A voxel of the layer lies at the centre of the windows that made it: after pooling
    by two, those are 0.5, 2.5, 4.5, ... in voxels of the volume, whether or not its
    side is a multiple of two. Interpolation between them does not shift the map, as
    stretching the layer's grid to the volume would.

    Maps are of each volume as it is given. With ``test_views`` above 1 the predicted
    class is that of all views, and the map that of the first one: a mean over views
    would be wider than the map of a classifier without.

    References
    ----------
    R. R. Selvaraju, M. Cogswell, A. Das, R. Vedantam, D. Parikh and D. Batra,
    "Grad-CAM: visual explanations from deep networks via gradient-based localization",
    ICCV 2017.

    Examples
    --------
    >>> from sksubtomo import RB3DClassifier
    >>> from sksubtomo.datasets import make_subtomograms
    >>> from sksubtomo.inspection import grad_cam
    >>> X, y = make_subtomograms(n_per_class=2, size=8, random_state=0,
    ...                          return_X_y=True)
    >>> classifier = RB3DClassifier(max_epochs=2, random_state=0).fit(X, y)
    >>> maps = grad_cam(classifier, X[:3])
    >>> maps.shape, bool(maps.min() >= 0)
    ((3, 8, 8, 8), True)
    """
    method = _import_captum()
    fitted, classes, steps = _unwrap(classifier)
    for step in steps:
        X = step.transform(X)
    volumes = check_predict_volumes(fitted, X)
    network, normalizer = fitted.network_, fitted.normalizer_
    device = inference_device(fitted.device)
    maps = np.empty(volumes.shape, np.float32)
    with _evaluating(network):
        if target is None:
            targets = fitted.predict_proba(X).argmax(axis=1)
        else:
            if np.ndim(target) == 0:
                target = np.full(len(volumes), target)
            targets = encode_labels(target, classes, len(volumes), "target")
        network.to(device)
        with (
            torch.inference_mode(False),
            computing([network.encoder], precision=fitted.precision, device=device),
        ):
            chosen = _choose_layer(network, layer, volumes.shape[1:], device)
            explain = method(network, chosen.module).attribute
            weights = _interpolation_weights(chosen.positions, volumes.shape[1:])
            for rows, batch, goals in _batches(volumes, targets, device):
                coarse = explain(normalizer(batch), goals, relu_attributions=True)
                grids = coarse[: len(rows), 0].detach().float().cpu().numpy()
                for row, grid in zip(rows, grids, strict=True):
                    maps[row] = np.einsum(
                        "zyx,zd,yh,xw->dhw", grid, *weights, optimize=True
                    )
    return maps


def _import_captum() -> Any:
    try:
        from captum.attr import LayerGradCam
    except ImportError as error:
        raise ImportError(
            "Grad-CAM needs captum, which is not installed: "
            'pip install "sksubtomo[explain]".'
        ) from error
    return LayerGradCam


def _unwrap(classifier: Any) -> tuple[Any, NDArray[Any], list[Pipeline]]:
    """Return the classifier with the network, its labels, and what transforms its X.

    The labels are those of the outermost estimator, which may have encoded them; their
    order stays.
    """
    # Imported here, for that module draws with this package.
    from sksubtomo.uncertainty import TemperatureScaledClassifier

    if isinstance(classifier, FrozenEstimator):
        return _unwrap(classifier.estimator)
    # A temperature changes the scale of a map only, so the map is that without it.
    wrappers = (LabelFractionClassifier, TemperatureScaledClassifier)
    if isinstance(
        classifier, (SubtomogramClassifier, *wrappers, Pipeline, BaseSearchCV)
    ):
        check_is_fitted(classifier)
    if isinstance(classifier, SubtomogramClassifier):
        return classifier, classifier.classes_, []
    if isinstance(classifier, wrappers):
        fitted, _, steps = _unwrap(classifier.estimator_)
        return fitted, classifier.classes_, steps
    if isinstance(classifier, BaseSearchCV):
        return _unwrap(classifier.best_estimator_)
    if isinstance(classifier, Pipeline):
        fitted, classes, steps = _unwrap(classifier[-1])
        if len(classifier) > 1:
            steps = [classifier[:-1], *steps]
        return fitted, classes, steps
    raise TypeError(
        f"classifier is a {type(classifier).__name__}; expected a fitted "
        "SubtomogramClassifier, or a LabelFractionClassifier, "
        "TemperatureScaledClassifier, Pipeline, search or FrozenEstimator with one "
        "inside."
    )


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode inside; each module gets its own mode back."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _choose_layer(
    network: nn.Module,
    layer: str | nn.Module | None,
    volume_shape: Sequence[int],
    device: torch.device,
) -> Layer:
    """Return the layer that is meant, if Grad-CAM can be computed for it."""
    layers = list_layers(network, volume_shape, device)
    if layer is None:
        found = last_features(layers, volume_shape)
        if found is None:
            raise ValueError(
                f"layer=None, but no convolution of the network has an output of two "
                f"voxels a side for volumes of {tuple(volume_shape)}; expected a layer "
                f"out of {_names(layers)}."
            )
        return found
    if not isinstance(layer, (str, nn.Module)):
        raise TypeError(
            f"layer is a {type(layer).__name__}; expected a name in network_, one of "
            "its modules, or None."
        )
    names = {module: name for name, module in network.named_modules()}
    is_named = isinstance(layer, str)
    name = layer if is_named else names.get(layer)
    if name is None or name not in names.values():
        what = f"layer={layer!r}" if is_named else f"layer is a {type(layer).__name__}"
        raise ValueError(
            f"{what}, which is no part of the classifier's network_; expected one of "
            f"{_names(layers)}."
        )
    for found in layers:
        if found.name == name and found.positions is not None and found.n_runs == 1:
            return found
    raise ValueError(
        f"layer={name!r} has no output of shape (n, channels, depth, height, width), "
        f"or not one alone; expected one of {_names(layers)}."
    )


def _batches(
    volumes: Volumes, targets: NDArray[np.int64], device: torch.device
) -> Iterator[tuple[range, Tensor, Tensor]]:
    """Yield rows, their volumes and their targets, filled up to one size with zeros."""
    size = _CPU_BATCH if device.type == "cpu" else _ACCELERATOR_BATCH
    for start, block in iterate_blocks(volumes, size):
        if isinstance(volumes, StoredVolumes):
            check_finite(block, start)
        for first in range(0, len(block), size):
            part = block[first : first + size]
            rows = range(start + first, start + first + len(part))
            batch = np.zeros((size, 1, *part.shape[1:]), np.float32)
            batch[: len(part), 0] = part
            goals = np.zeros(size, np.int64)
            goals[: len(part)] = targets[rows.start : rows.stop]
            yield (
                rows,
                torch.from_numpy(batch).to(device),
                torch.from_numpy(goals).to(device),
            )


def _names(layers: Sequence[Layer]) -> list[str]:
    return [layer.name for layer in layers if layer.positions is not None]


def _interpolation_weights(
    positions: Any, volume_shape: Sequence[int]
) -> list[NDArray[np.float64]]:
    """Return, for each axis, the weight of each layer voxel in each volume voxel.

    Beyond the first and the last position the nearest value is repeated.
    """
    return [
        np.stack(
            [np.interp(np.arange(side), along, unit) for unit in np.eye(len(along))]
        )
        for along, side in zip(positions, volume_shape, strict=True)
    ]


def attention_width(
    maps: ArrayLike, voxel_size: float | None = None, measure: str = "rms"
) -> NDArray[np.float64]:
    """Measure how wide maps of attention are.

    Read more in the :ref:`User Guide <grad_cam>`.

    Parameters
    ----------
    maps : array-like of shape (n, depth, height, width)
        Maps, 0 or larger, such as those of :func:`grad_cam`. Their units do not
        matter.
    voxel_size : float, default=None
        Voxel size in angstroms. None gives widths in voxels.
    measure : {"rms", "half_maximum"}, default="rms"
        "rms" is the root-mean-square distance from the map's own centre of mass, each
        voxel weighted by its value. It counts how far attention is spread, whether in
        one place or in several. "half_maximum" is the radius of a ball of as many
        voxels as have at least half of the largest value. It counts how much is
        highlighted, wherever that is.

    Returns
    -------
    ndarray of shape (n,)
        Widths, in angstroms or voxels; NaN for maps that are 0 everywhere. An even map
        of a cube of side L has an rms width of nearly L / 2, a ball of radius R one of
        0.77 R.

    Raises
    ------
    ValueError
        If the shape, a value or a parameter is not acceptable.

    See Also
    --------
    grad_cam : Makes maps.

    Notes
    -----
    Maps of coarser layers are wider: compare those of one layer and one network.

    Examples
    --------
    >>> import numpy as np
    >>> from sksubtomo.inspection import attention_width
    >>> maps = np.zeros((2, 9, 9, 9))
    >>> maps[0, 4, 4, [2, 6]] = 1.0
    >>> attention_width(maps, voxel_size=10.0)
    array([20., nan])
    """
    maps = np.asarray(maps, np.float64)
    if maps.ndim != 4:
        raise ValueError(
            f"maps have shape {maps.shape}; expected (n, depth, height, width)."
        )
    if not (np.isfinite(maps).all() and (maps >= 0).all()):
        raise ValueError(
            "maps hold NaN, infinity or negative values; expected finite values of at "
            "least 0."
        )
    if measure not in ("rms", "half_maximum"):
        raise ValueError(f"measure={measure!r}; expected 'rms' or 'half_maximum'.")
    check_voxel_size(voxel_size)
    unit = 1.0 if voxel_size is None else voxel_size
    largest = maps.max(axis=(1, 2, 3), initial=0.0)
    is_empty = largest == 0
    # Sums of very small or large values would leave the range of numbers.
    maps = maps / np.where(is_empty, 1.0, largest)[:, None, None, None]
    if measure == "half_maximum":
        n_voxels = (maps >= 0.5).sum(axis=(1, 2, 3))
        widths = np.cbrt(3 * n_voxels / (4 * np.pi))
    else:
        total = np.where(is_empty, 1.0, maps.sum(axis=(1, 2, 3)))
        variance = np.zeros(len(maps))
        for axis in (1, 2, 3):
            others = tuple({1, 2, 3} - {axis})
            along = maps.sum(axis=others) / total[:, None]
            places = np.arange(maps.shape[axis])
            centre = along @ places
            variance += (along * (places - centre[:, None]) ** 2).sum(axis=1)
        widths = np.sqrt(variance)
    return np.where(is_empty, np.nan, unit * widths)


class GradCAMDisplay:
    """Maps of attention on slices of the volumes, of one or several classifiers.

    It is recommended to use :meth:`from_estimator` or :meth:`from_estimators`.

    Read more in the :ref:`User Guide <grad_cam>`.

    Parameters
    ----------
    volumes : array-like of shape (n, depth, height, width)
        Volumes.
    maps : dict of str to array-like of shape (n, depth, height, width)
        Maps of each classifier, by the name that stands above them.
    labels : array-like of shape (n,), default=None
        What stands beside each volume, such as its class.
    targets : dict of str to array-like of shape (n,), default=None
        The class that each map explains.
    voxel_size : float, default=None
        Voxel size in angstroms, for the scale bar. None means that it is unknown, and
        the bar is in voxels.

    Attributes
    ----------
    figure_ : matplotlib Figure
        The figure, once it is drawn.
    axes_ : ndarray of shape (n, 3 * n_classifiers)
        A row for each volume; for each classifier three planes, of x to the right and y
        upwards, x and z, y and z.

    Raises
    ------
    ValueError
        If shapes do not fit or `voxel_size` is out of range.

    See Also
    --------
    grad_cam : Makes the maps.
    attention_width : How wide they are.

    Examples
    --------
    >>> from sksubtomo import RB3DClassifier
    >>> from sksubtomo.datasets import make_subtomograms
    >>> from sksubtomo.inspection import GradCAMDisplay
    >>> X, y = make_subtomograms(n_per_class=2, size=8, random_state=0,
    ...                          return_X_y=True)
    >>> classifier = RB3DClassifier(max_epochs=2, random_state=0).fit(X, y)
    >>> display = GradCAMDisplay.from_estimator(classifier, X[:2], y=y[:2])
    >>> display.axes_.shape
    (2, 3)
    """

    def __init__(
        self,
        volumes: ArrayLike,
        maps: Mapping[str, ArrayLike],
        *,
        labels: ArrayLike | None = None,
        targets: Mapping[str, ArrayLike] | None = None,
        voxel_size: float | None = None,
    ) -> None:
        self.volumes = check_volumes(volumes)
        self.maps = {name: np.asarray(of_one) for name, of_one in maps.items()}
        shape = tuple(self.volumes.shape)
        if not self.maps:
            raise ValueError("maps is empty; expected maps of at least one classifier.")
        for name, of_one in self.maps.items():
            if of_one.shape != shape:
                raise ValueError(
                    f"maps[{name!r}] have shape {of_one.shape}; expected {shape}, that "
                    "of the volumes."
                )
        self.labels: list[Any] | None = None
        if labels is not None:
            self.labels = check_labels(labels, shape[0], "volume").tolist()
        self.targets: dict[str, NDArray[Any]] | None = None
        if targets is not None:
            if set(targets) != set(maps):
                raise ValueError(
                    f"targets has the names {list(targets)}; expected those of maps, "
                    f"{list(maps)}."
                )
            self.targets = {
                name: check_labels(of_one, shape[0], "map")
                for name, of_one in targets.items()
            }
        check_voxel_size(voxel_size)
        self.voxel_size = voxel_size

    @classmethod
    def from_estimator(
        cls,
        classifier: Any,
        X: Any,
        *,
        y: ArrayLike | None = None,
        target: Any = None,
        layer: str | nn.Module | None = None,
        positions: Sequence[int] | None = None,
        voxel_size: float | None = None,
        ax: Any = None,
        title: str | None = None,
    ) -> Self:
        """Compute the maps of a classifier and draw them.

        Parameters
        ----------
        classifier : estimator object
            As for :func:`grad_cam`.
        X : array-like of shape (n, depth, height, width) or (n, n_features)
            The volumes to draw, a few.
        y : array-like of shape (n,), default=None
            Their classes, which are written beside them.
        target : label or array-like of shape (n,), default=None
            The class to explain, or one for each volume. None is the predicted one.
        layer : str or torch.nn.Module, default=None
            As for :func:`grad_cam`.
        positions : tuple of three int, default=None
            Indices z, y and x of the slices. None means the central ones.
        voxel_size : float, default=None
            Voxel size in angstroms; None means that it is unknown.
        ax : Axes, array of 3 n Axes, Figure or SubFigure, default=None
            Where to draw, see :meth:`plot`.
        title : str, default=None
            Heading; None says what is drawn.

        Returns
        -------
        GradCAMDisplay
            The display.

        Raises
        ------
        ImportError
            If captum or matplotlib is not installed.
        TypeError
            If `classifier` or `layer` is of another kind.
        ValueError
            If shapes do not fit or a parameter is not acceptable.
        """
        return cls.from_estimators(
            {"": classifier},
            X,
            y=y,
            target=target,
            layer=layer,
            positions=positions,
            voxel_size=voxel_size,
            ax=ax,
            title=title,
        )

    @classmethod
    def from_estimators(
        cls,
        classifiers: Mapping[str, Any],
        X: Any,
        *,
        y: ArrayLike | None = None,
        target: Any = None,
        layer: str | nn.Module | None = None,
        positions: Sequence[int] | None = None,
        voxel_size: float | None = None,
        ax: Any = None,
        title: str | None = None,
    ) -> Self:
        """Compute the maps of several classifiers and draw them side by side.

        Parameters
        ----------
        classifiers : dict of str to estimator object
            Classifiers as for :func:`grad_cam`, by the names that are written above
            them, such as ``{"pretrained": a, "random": b}``.
        X : array-like of shape (n, depth, height, width) or (n, n_features)
            The volumes to draw, a few.
        y : array-like of shape (n,), default=None
            Their classes, which are written beside them.
        target : label or array-like of shape (n,), default=None
            The class to explain, or one for each volume, by all classifiers. None is
            for each classifier the class that it predicts.
        layer : str or torch.nn.Module, default=None
            As for :func:`grad_cam`.
        positions : tuple of three int, default=None
            Indices z, y and x of the slices. None means the central ones.
        voxel_size : float, default=None
            Voxel size in angstroms; None means that it is unknown.
        ax : Axes, array of Axes, Figure or SubFigure, default=None
            Where to draw, see :meth:`plot`.
        title : str, default=None
            Heading; None says what is drawn.

        Returns
        -------
        GradCAMDisplay
            The display.

        Raises
        ------
        ImportError
            If captum or matplotlib is not installed.
        TypeError
            If one of `classifiers`, or `layer`, is of another kind.
        ValueError
            If shapes do not fit or a parameter is not acceptable.
        """
        maps, targets = {}, {}
        for name, classifier in classifiers.items():
            _unwrap(classifier)
            explained = classifier.predict(X) if target is None else target
            maps[name] = grad_cam(classifier, X, explained, layer)
            targets[name] = np.broadcast_to(explained, len(maps[name]))
        volumes = X
        if np.ndim(X) == 2 and maps:
            volumes = np.asarray(X).reshape(next(iter(maps.values())).shape)
        display = cls(volumes, maps, labels=y, targets=targets, voxel_size=voxel_size)
        return display.plot(ax=ax, positions=positions, title=title)

    def plot(
        self,
        *,
        ax: Any = None,
        positions: Sequence[int] | None = None,
        cmap: str = "plasma",
        title: str | None = None,
    ) -> Self:
        """Draw three planes of each volume and of its maps.

        Each map is drawn as a part of its own maximum, which may lie outside of the
        planes: where it is 0 it is transparent. Grey values run from the 1st to the
        99th percentile of the slices of each volume. The class that is explained is
        written below the planes of each map.

        Parameters
        ----------
        ax : Axes, array of Axes, Figure or SubFigure, default=None
            Where to draw. The place of Axes is divided; a Figure is given the size that
            the panels need. None makes a figure of a journal's column width, or wider
            for more than two classifiers.
        positions : tuple of three int, default=None
            Indices z, y and x of the slices. None means the central ones, of index
            ``n // 2``.
        cmap : str, default="plasma"
            Name of the colours of the maps.
        title : str, default=None
            Heading; None says what is drawn.

        Returns
        -------
        GradCAMDisplay
            The display itself.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If `positions` are not inside the volumes, or a voxel is not finite.
        """
        place = check_positions(positions, self.volumes.shape[1:])
        n, *sides = self.volumes.shape
        widths = [float(sides[axis]) for _ in self.maps for axis in (2, 2, 1)]
        beside = name_width(self.labels) + 0.15
        room = max(COLUMN_WIDTH - beside, _LEAST_PANEL * len(widths))
        panel = room * max(sides[:2]) / sum(widths)
        below = 0.0 if self.targets is None else _TARGET
        self.figure_, self.axes_ = make_grid(
            ax,
            n,
            len(widths),
            figsize=(beside + room, _HEADING + _COLOR_BAR + (panel + below) * n),
            heading=self._heading() if title is None else title,
            width_ratios=widths,
        )
        colors = _fading_colors(cmap)
        for row, panels in enumerate(self.axes_):
            slices = _planes(read_part(self.volumes, row), place)
            grey = np.concatenate([image.ravel() for image in slices])
            low, high = np.percentile(grey, [1, 99])
            for number, (name, maps) in enumerate(self.maps.items()):
                group = panels[3 * number : 3 * number + 3]
                # An empty map is transparent everywhere.
                parts = maps[row] / (maps[row].max() or 1.0)
                for panel_ax, image, part in zip(
                    group, slices, _planes(parts, place), strict=True
                ):
                    drawn = draw_image(panel_ax, image, self.voxel_size, (low, high))
                    overlay = panel_ax.imshow(
                        part,
                        cmap=colors,
                        vmin=0.0,
                        vmax=1.0,
                        origin="lower",
                        interpolation="nearest",
                        extent=drawn.get_extent(),
                    )
                if self.targets is not None:
                    # To the right, where a scale bar leaves room for long names.
                    group[2].set_xlabel(
                        str(self.targets[name][row]),
                        fontsize="x-small",
                        labelpad=2,
                        x=1.0,
                        ha="right",
                    )
            if self.labels is not None:
                name_row(panels[0], self.labels[row])
        for panel_ax, plane in zip(
            self.axes_[0], _PLANES * len(self.maps), strict=True
        ):
            panel_ax.set_title(plane, fontsize="x-small", pad=3)
        for number, name in enumerate(self.maps):
            middle = self.axes_[0, 3 * number + 1]
            middle.set_title(f"{name}\n{_PLANES[1]}".strip(), fontsize="x-small", pad=3)
        draw_scale_bar(self.axes_[-1, 0], self.voxel_size)
        bar = self.figure_.colorbar(
            overlay,
            ax=self.axes_,
            orientation="horizontal",
            aspect=40,
            ticks=[0.0, 0.5, 1.0],
        )
        # What is transparent is seen on the greys of the slices.
        bar.ax.set_facecolor("0.35")
        bar.set_label("Part of each map's maximum", fontsize="x-small")
        bar.ax.tick_params(labelsize="x-small")
        return self

    def _heading(self) -> str:
        return "Grad-CAM" if self.targets is None else "Grad-CAM of the class below"


_PLANES = ("xy", "xz", "yz")

# Heights in inches of what is written above the panels, below each row and under all,
# and the least width of a panel.
_HEADING, _TARGET, _COLOR_BAR, _LEAST_PANEL = 0.6, 0.16, 0.65, 0.45

_OPACITY = 0.75


def _planes(volume: NDArray[Any], positions: Sequence[int]) -> list[NDArray[Any]]:
    """Return the slices at constant z, y and x."""
    z, y, x = positions
    return [volume[z], volume[:, y], volume[:, :, x]]


def _fading_colors(name: str) -> Any:
    """Return colours that are transparent at 0."""
    plt = import_pyplot()
    from matplotlib.colors import ListedColormap

    colors = plt.get_cmap(name)(np.linspace(0, 1, 256))
    colors[:, 3] = np.linspace(0, _OPACITY, 256)
    return ListedColormap(colors)
