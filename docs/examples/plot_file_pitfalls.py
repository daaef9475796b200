"""
File formats and their pitfalls
===============================

A classifier learns whatever it is given: volumes with the axes in another order, with
the contrast of another program, or of another voxel size train without an error and are
classified wrongly. This example makes each of these mistakes and shows how to see it.
Nothing is trained here. :ref:`formats_pitfalls` is the page with the rules.
"""

# %%
from pathlib import Path
from tempfile import mkdtemp

import matplotlib.pyplot as plt
import mrcfile
import numpy as np

from sksubtomo.datasets import make_subtomograms
from sksubtomo.io import (
    contrast_sign,
    open_volume,
    read_volumes,
    write_volume,
    write_volume_stack,
)

subtomograms = make_subtomograms(
    n_per_class=12, structures=["groel", "p97"], size=16, snr=4, random_state=0
)
X, voxel_size = subtomograms.data, subtomograms.voxel_size
folder = Path(mkdtemp())

# %%
# Light or dark
# -------------
# In a raw tomogram protein usually is dark, in simulations, templates and most exported
# particles it is light. A model that has learned the one does not know the other.
fig, axes = plt.subplots(1, 2, figsize=(4.8, 2.6), layout="constrained")
for ax, volumes, title in zip(axes, (X, -X), ("light", "dark"), strict=True):
    ax.imshow(volumes.mean(axis=0)[8], cmap="gray")
    ax.set_title(f"protein {title}: {contrast_sign(volumes):+d}", fontsize="medium")
    ax.set(xticks=[], yticks=[], xlabel="x", ylabel="y")
fig.suptitle("Mean of all volumes, slice z = 8", fontsize="medium")

# %%
# ``read_volumes`` compares centres with surroundings and warns.
# ``invert_contrast=True`` inverts, ``False`` says that it is meant so.
import warnings

write_volume_stack(folder / "dark.mrc", -X, voxel_size=voxel_size)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    read_volumes(folder / "dark.mrc")
print(str(caught[0].message).replace(f"{folder}/", ""))

light = read_volumes(folder / "dark.mrc", invert_contrast=True)
np.array_equal(light.volumes, X)

# %%
# Which axis is which
# -------------------
# Arrays are indexed ``[z, y, x]``; STAR files list X, Y and Z; other programs may store
# ``[x, y, z]``. The shapes do not tell. The missing wedge does: seen along the tilt
# axis, ``y``, the mean power spectrum lacks a wedge around ``z``, the direction of the
# beam.


def mean_power(volumes):
    spectra = np.fft.fftshift(np.fft.fftn(volumes, axes=(1, 2, 3)), axes=(1, 2, 3))
    return np.log10((np.abs(spectra) ** 2).mean(axis=0))


def draw_power(volumes):
    power = mean_power(volumes)
    middle = power.shape[0] // 2
    sections = (power[middle], power[:, middle], power[:, :, middle])
    fig, axes = plt.subplots(1, 3, figsize=(6.4, 2.5), layout="constrained")
    names = (("x", "y"), ("x", "z"), ("y", "z"))
    for ax, section, (across, up) in zip(axes, sections, names, strict=True):
        image = ax.imshow(
            section, cmap="viridis", origin="lower", vmin=power.min(), vmax=power.max()
        )
        ax.set(xticks=[], yticks=[])
        ax.set(xlabel=f"frequency along {across}", ylabel=f"along {up}")
    fig.colorbar(image, ax=axes, label="log$_{10}$ power")
    return fig


fig = draw_power(X)
# sphinx_gallery_thumbnail_number = 2
fig.suptitle(
    "As it should be: a wedge around z in the (z, x) section", fontsize="medium"
)

# %%
# The same volumes from a file that stored them as ``[x, y, z]``: now what is called
# ``x`` lacks its frequencies. ``axes="xyz"`` puts them right.
X_wrong = X.transpose(0, 3, 2, 1)
fig = draw_power(X_wrong)
fig.suptitle("Axes in the wrong order: a wedge around x", fontsize="medium")

write_volume_stack(folder / "xyz.mrc", X_wrong, voxel_size=voxel_size)
np.array_equal(read_volumes(folder / "xyz.mrc", axes="xyz").volumes, X)

# %%
# Voxel size
# ----------
# The header of an MRC file has 0 for "unknown" unless somebody wrote it, and it may be
# wrong after binning. Zero is read as None; a header that contradicts the STAR file, or
# another volume, is an error.
with mrcfile.new(folder / "unknown.mrc") as mrc:
    mrc.set_data(X[0])
volume, found = open_volume(folder / "unknown.mrc")
print(found)
volume, found = open_volume(folder / "unknown.mrc", voxel_size=voxel_size)
print(f"{found:.2f} Å")

# %%
write_volume(folder / "a.mrc", X[0], voxel_size)
write_volume(folder / "b.mrc", X[1], 2 * voxel_size)
try:
    read_volumes([folder / "a.mrc", folder / "b.mrc"])
except ValueError as error:
    print(str(error).replace(f"{folder}/", ""))

# %%
# A volume or a stack of images
# -----------------------------
# RELION 5 and Warp also write a particle as a stack of tilt images: 37 images of 16 ×
# 16 pixels look like a volume of shape (37, 16, 16). Such files are refused when
# header, name or STAR file tell.
with mrcfile.new(folder / "tilts.mrc") as mrc:
    mrc.set_data(np.zeros((37, 16, 16), np.float32))
    mrc.set_image_stack()
try:
    read_volumes(folder / "tilts.mrc")
except ValueError as error:
    print(str(error).replace(f"{folder}/", ""))

# %%
# Data types
# ----------
# MRC knows few types. float64, int32, int64 and bool cannot be written, and uint8
# becomes uint16 without a word:
with mrcfile.new(folder / "bytes.mrc") as mrc:
    mrc.set_data(np.zeros((4, 4, 4), np.uint8))
    print(mrc.data.dtype, "of mode", int(mrc.header.mode))

# %%
# float16, mode 12, halves a file, and other programs may not read it. This package
# reads it, and writes float32 (mode 2) whatever it is given:
with mrcfile.new(folder / "half.mrc") as mrc:
    mrc.set_data(X[0].astype(np.float16))
    mrc.voxel_size = voxel_size
half = read_volumes(folder / "half.mrc").volumes
write_volume(folder / "float64.mrc", X[0].astype(np.float64), voxel_size)
print(half.dtype, open_volume(folder / "float64.mrc")[0].dtype)
