"""From picks to boxes, for ranking and for the eye."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform, gaussian_filter

from sksubtomo.io.extraction import cut_box, nearest_starts
from sksubtomo.picking.detection import (
    CONTRASTS,
    Picks,
    check_length,
    check_tomogram,
)

# A particle is shown with no more voxels a diameter than twice this.
_DIAMETER_VOXELS = 10


def cut_candidates(
    tomogram: NDArray[Any], picks: Picks, *, contrast: str = "dark"
) -> tuple[NDArray[np.float32], float]:
    """Cut boxes of about two diameters around picks, for ranking and contact sheets.

    Parameters
    ----------
    tomogram : ndarray of shape (depth, height, width)
        The tomogram, z first, which may be a memory map.
    picks : Picks
        The picks, at least one.
    contrast : {"dark", "light"}, default="dark"
        Contrast of particles in the tomogram. They are light in the boxes.

    Returns
    -------
    boxes : ndarray of shape (n, size, size, size), float32
        The boxes, with the pick at ``size // 2``, to the nearest voxel. Those over the
        edge of the tomogram are filled up with their mean. If a diameter has 20 voxels
        or more, cubes of voxels are averaged, so that at least 10 remain: a box takes
        at most 250 kB.
    voxel_size : float
        Their voxel size in angstroms.

    Raises
    ------
    ValueError
        If there is no pick, one is outside of the tomogram, or a box holds NaN or
        infinite values.

    See Also
    --------
    sksubtomo.io.extract_subtomograms : Boxes of any size, on disk.
    """
    tomogram = check_tomogram(tomogram)
    if contrast not in CONTRASTS:
        raise ValueError(f"contrast={contrast!r}; expected 'dark' or 'light'.")
    last = np.array(tomogram.shape) - 1
    coordinates = picks.coordinates
    if not len(picks) or ((coordinates < 0) | (coordinates > last)).any():
        raise ValueError(
            f"{len(picks)} picks for a tomogram of shape {tomogram.shape}; expected at "
            "least one, and all of them inside."
        )
    voxels = picks.diameter / picks.voxel_size
    binning = max(1, int(voxels // _DIAMETER_VOXELS))
    size = 2 * int(np.ceil(voxels / binning))
    boxes = np.empty((len(picks), size, size, size), dtype=np.float32)
    starts = nearest_starts(coordinates, size, binning)
    for index, start in enumerate(starts):
        boxes[index] = cut_box(tomogram, start, size, binning, f"pick {index + 1}")
    if contrast == "dark":
        np.negative(boxes, out=boxes)
    return boxes, picks.voxel_size * binning


def resample_template(
    template: NDArray[Any], voxel_size: float, *, size: int, new_voxel_size: float
) -> NDArray[np.float32]:
    """Bring a template to the size and the voxel size of candidates.

    Parameters
    ----------
    template : ndarray of shape (depth, height, width)
        The template; its centre is at half of each side, rounded down.
    voxel_size : float
        Its voxel size in angstroms.
    size : int
        Side of the new one in voxels; what lies beyond it is cut off.
    new_voxel_size : float
        Voxel size of the new one in angstroms.

    Returns
    -------
    ndarray of shape (size, size, size), float32
        The template by cubic interpolation, its centre at ``size // 2``, with its mean
        on the border around it. Before its voxels become larger it is smoothed by a
        Gaussian with a standard deviation of half a new voxel.

    Raises
    ------
    ValueError
        If the template is no volume of finite values or a size is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> from sksubtomo.picking import resample_template
    >>> template = np.pad(np.ones((8, 8, 8)), 8)
    >>> resample_template(template, 5.0, size=16, new_voxel_size=10.0).shape
    (16, 16, 16)
    """
    volume = check_tomogram(template).astype(np.float32)
    check_length("voxel_size", voxel_size)
    check_length("new_voxel_size", new_voxel_size)
    if not np.isfinite(volume).all():
        raise ValueError("the template holds NaN or infinite values.")
    scale = new_voxel_size / voxel_size
    # Its border, where there is solvent, is what it is continued by.
    edge = np.ones(volume.shape, dtype=bool)
    edge[1:-1, 1:-1, 1:-1] = False
    background = float(volume[edge].mean(dtype=np.float64))
    if scale > 1:
        volume = gaussian_filter(volume, scale / 2, mode="nearest")
    centre = np.array(volume.shape) // 2
    resampled: NDArray[np.float32] = affine_transform(
        volume,
        scale * np.eye(3),
        centre - scale * (size // 2),
        output_shape=(size, size, size),
        order=3,
        mode="constant",
        cval=background,
    )
    return resampled
