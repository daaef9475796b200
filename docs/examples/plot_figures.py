"""
Figures of volumes, classes and embeddings
==========================================

What the package draws, from the volumes to the calibration of a classifier. Figures are
*displays*, as in scikit-learn: a class method such as ``from_volumes`` or
``from_estimator`` computes what is shown and draws it, and the display that it returns
has the figure and its axes. :ref:`figures` says what each of them means.

The volumes are simulated and small. The trainings take seconds instead of the hour that
a real one takes, so that no figure here says how good the package is.
"""

# %%
import numpy as np

from sksubtomo.datasets import make_subtomograms

subtomograms = make_subtomograms(
    n_per_class=30,
    structures=["apoferritin", "groel", "p97", "proteasome_20s"],
    size=12,
    snr=3,
    random_state=0,
)
X, voxel_size = subtomograms.data, subtomograms.voxel_size
names = np.array(subtomograms.target_names)[subtomograms.target]
X.shape, voxel_size

# %%
# Volumes
# -------
# Three orthogonal slices of a few volumes. The bar has a length in angstroms, because
# `voxel_size` is known.
from sksubtomo.inspection import MontageDisplay, SlicesDisplay

first = [int(np.flatnonzero(names == name)[0]) for name in np.unique(names)]
SlicesDisplay.from_volumes(X[first], names=names[first], voxel_size=voxel_size)

# %%
# One slice each of many, class by class.
MontageDisplay.from_predictions(X, names, n_per_class=5, voxel_size=voxel_size)

# %%
# The mean of each class, as the volumes lie: particles in all orientations leave a
# ball, and nothing is reconstructed. In real data it is a quick check that there is a
# particle, of which size, and how well it is centred.
from sksubtomo.inspection import ClassAveragesDisplay

ClassAveragesDisplay.from_predictions(X, names, voxel_size=voxel_size)

# %%
# Isosurfaces are for volumes with little noise, such as an average or a template. Here
# two complexes are simulated without any.
from sksubtomo.inspection import IsosurfaceDisplay

clean = make_subtomograms(
    n_per_class=1,
    structures=["groel", "proteasome_20s"],
    size=24,
    snr=1000,
    random_state=1,
)
titles = np.array(clean.target_names)[clean.target]
IsosurfaceDisplay.from_volumes(
    clean.data, level=2.5, voxel_size=clean.voxel_size, titles=titles
)

# %%
# A map of the embedding
# ----------------------
# A classifier from ten labels a class; it sees the other volumes without their label.
from sksubtomo.recipes import recommended

rng = np.random.default_rng(0)
labelled = [
    rng.permutation(np.flatnonzero(names == name))[:10] for name in np.unique(names)
]
known = np.isin(np.arange(len(X)), labelled)
y = np.where(known, names, "unknown")
classifier = recommended(
    unlabeled="unknown", pretrainer__max_epochs=6, max_epochs=15, random_state=0
).fit(X, y)

# %%
# The pretrainer gives the embedding. Volumes without a label are grey. After so few
# epochs there are no clusters yet.
import matplotlib.pyplot as plt

from sksubtomo.inspection import EmbeddingDisplay

pretrainer = classifier.pretrainer_
fig, axes = plt.subplots(1, 2, figsize=(6.7, 2.5), layout="constrained")
EmbeddingDisplay.from_estimator(
    pretrainer, X, y, unlabeled="unknown", ax=axes[0], name="Label"
)
probabilities = classifier.predict_proba(X)
EmbeddingDisplay.from_embedding(
    pretrainer.transform(X),
    values=probabilities.max(axis=1),
    ax=axes[1],
    name="Probability",
)

# %%
# Predictions
# -----------
# What the classifier is surest of, with the probability of the class.
MontageDisplay.from_estimator(
    classifier, X[~known], n_per_class=5, voxel_size=voxel_size
)

# %%
# Confusion and calibration are displays of scikit-learn's own. A classifier is
# calibrated if, of the volumes that are classified with a probability of 0.8, 80 % are
# right; above the line it is right more often than it says, as this one, which has seen
# so little.
from sklearn.calibration import CalibrationDisplay
from sklearn.metrics import ConfusionMatrixDisplay

classes = classifier.classes_
predicted = classes[probabilities.argmax(axis=1)][~known]
fig, axes = plt.subplots(1, 2, figsize=(6.7, 3.3), layout="constrained")
ConfusionMatrixDisplay.from_predictions(
    names[~known],
    predicted,
    cmap="Blues",
    colorbar=False,
    xticks_rotation=30,
    ax=axes[0],
)
CalibrationDisplay.from_predictions(
    predicted == names[~known],
    probabilities[~known].max(axis=1),
    n_bins=5,
    strategy="quantile",
    name="classifier",
    ax=axes[1],
)
axes[1].set(xlabel="Probability of the predicted class", ylabel="Part that is right")
plt.show()
