"""
Your own MRC and STAR files
===========================

From a STAR file and a few labels to the same STAR file with a class for every particle.

So that the example runs anywhere, it first writes a small simulated set in the format
of RELION: replace the first cell by the path of your own STAR file. The trainings are
cut to some seconds; without `classifier`, ``classify_particles`` trains with the
recommended recipe for as long as it should.
"""

# %%
# A STAR file
# -----------
# ``particles.star`` lists sixty particles, which are in the stack
# ``subtomograms.mrc`` beside it.
from pathlib import Path
from tempfile import mkdtemp

from sksubtomo.datasets import write_subtomograms

folder = Path(mkdtemp())
path = write_subtomograms(
    folder,
    n_per_class=20,
    structures=["apoferritin", "p97", "rna_polymerase_ii"],
    size=12,
    snr=4,
    random_state=0,
)

# %%
# What is in it
# -------------
# :func:`~sksubtomo.io.read_volumes` takes STAR files of RELION 3.1, 4 and 5 and of
# Warp, MRC stacks, folders of MRC files, HDF5, Zarr and EM. The volumes come as an
# array ``(n, z, y, x)``, mapped from the disk where that is possible. It checks what
# commonly goes wrong: shapes, voxel sizes, dark particles, tilt images instead of
# volumes.
import numpy as np

from sksubtomo.inspection import MontageDisplay
from sksubtomo.io import read_volumes

subtomograms = read_volumes(path)
print(subtomograms.volumes.shape, subtomograms.volumes.dtype)
print(f"{subtomograms.voxel_size:.1f} Å a voxel")
print(subtomograms.names[:2])
print(subtomograms.particles.dialect)

# %%
# Look at them before anything else. Protein has to be light.
truth = np.array(subtomograms.particles.loop.column("sksubtomoClass"))
MontageDisplay.from_predictions(
    subtomograms.volumes, truth, n_per_class=5, voxel_size=subtomograms.voxel_size
)

# %%
# A few labels
# ------------
# A CSV file with the columns ``particle``, as the STAR file names it, and ``label``.
# Here five particles of each class are labelled.
lines = ["particle,label"]
for name in np.unique(truth):
    rows = np.flatnonzero(truth == name)[:5]
    lines += [f"{subtomograms.names[row]},{name}" for row in rows]
(folder / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
print(*lines[:4], sep="\n")

# %%
# Classify
# --------
# In a shell this is ``python -m sksubtomo classify particles.star --labels labels.csv
# --output classified.star``.
from sksubtomo.workflows import classify_particles, default_classifier

quick = default_classifier(
    pretrainer__max_epochs=8, pretrainer__batch_size=12, max_epochs=16, batch_size=5
)
result = classify_particles(
    path, folder / "labels.csv", output=folder / "classified.star", classifier=quick
)
print(result.summary())

# %%
# The STAR file that comes out
# ----------------------------
# Every block, column and value of the file that came in is still there. Added are the
# number of the class, its name and its probability; the class number that was there
# before has moved to ``sksubtomoPreviousClassNumber``.
from sksubtomo.io import read_particles

classified = read_particles(folder / "classified.star")
for column in (
    "rlnImageName",
    "rlnClassNumber",
    "sksubtomoClass",
    "sksubtomoProbability",
):
    print(f"{column:22}", *classified.loop.column(column)[20:23])

# %%
# How sure is it?
# ---------------
# Probabilities of particles without a label, by whether the class is the true one. This
# can only be drawn because the set is simulated; on your own particles, look at the
# least sure ones, and at labelled ones whose class is not their label.
import matplotlib.pyplot as plt

unlabelled = result.labels == ""
right = result.classes == truth
fig, ax = plt.subplots(figsize=(5, 3), layout="constrained")
ax.hist(
    [
        result.probabilities[unlabelled & right],
        result.probabilities[unlabelled & ~right],
    ],
    bins=np.linspace(1 / 3, 1, 13),
    stacked=True,
    color=["#0072B2", "#E69F00"],
    edgecolor="white",
    label=["right", "wrong"],
)
ax.set(xlabel="Probability of the class", ylabel="Particles")
ax.legend(frameon=False)
# sphinx_gallery_thumbnail_number = 2

# %%
# A file of the particles that one believes:
sure = classified.select(result.probabilities > 0.6)
sure.star.write(folder / "sure.star")
print(f"{len(sure)} of {len(classified)} particles")

# %%
# More: :ref:`particles_workflow`, :ref:`files` and
# :ref:`sphx_glr_auto_examples_plot_file_pitfalls.py`.
