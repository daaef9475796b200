"""
Quick start
===========

Seventy-two subtomograms of three complexes, five of each with a label. A classifier
learns from all of them without labels, is fine-tuned on the fifteen, and names the
others; the representation that it learned first is a map of the particles.

To be done in some seconds, both trainings are very short here. Left to itself, the
recipe trains for 2,000 steps or more each, which takes minutes to hours and is far more
accurate.
"""

# %%
# Volumes
# -------
# A data set is an array of shape ``(n, depth, height, width)``, ``z`` first. These are
# simulated, with a random orientation, a missing wedge, the contrast transfer of a
# microscope and noise; :ref:`sphx_glr_auto_examples_plot_own_files.py` reads volumes
# from files instead.
import numpy as np

from sksubtomo.datasets import make_subtomograms
from sksubtomo.inspection import EmbeddingDisplay, MontageDisplay

subtomograms = make_subtomograms(
    n_per_class=24,
    structures=["apoferritin", "p97", "rna_polymerase_ii"],
    size=12,
    snr=4,
    random_state=0,
)
X = subtomograms.data
names = np.array(subtomograms.target_names)[subtomograms.target]
MontageDisplay.from_predictions(
    X, names, n_per_class=5, voxel_size=subtomograms.voxel_size
)
X.shape

# %%
# Few labels
# ----------
# Five volumes of each class keep their label. The others are marked by a label of our
# choice, which the classifier is told of.
known = np.zeros(len(X), dtype=bool)
for name in np.unique(names):
    known[np.flatnonzero(names == name)[:5]] = True
y = np.where(known, names, "unknown")

# %%
# Learn
# -----
# One estimator does it all: contrastive pretraining on every volume, then fine-tuning
# on those with a label. It is an ordinary classifier of scikit-learn, so that
# pipelines, cross-validation and grid searches know how to handle it. Epochs and
# batches are set for a training of seconds; left out, they are those of the recipe.
from sksubtomo.recipes import recommended

classifier = recommended(
    unlabeled="unknown",
    pretrainer__max_epochs=8,
    pretrainer__batch_size=12,
    max_epochs=16,
    batch_size=5,
    random_state=0,
)
classifier.fit(X, y)

# %%
# Classes and probabilities
# -------------------------
# Chance is one third.
from sklearn.metrics import ConfusionMatrixDisplay, accuracy_score

predicted = classifier.predict(X[~known])
display = ConfusionMatrixDisplay.from_predictions(
    names[~known], predicted, cmap="Blues", colorbar=False, xticks_rotation=20
)
display.figure_.set_size_inches(4.5, 4.0)
display.figure_.set_layout_engine("constrained")
# sphinx_gallery_thumbnail_number = 2
accuracy_score(names[~known], predicted)

# %%
# Of each volume the probability of each class is known, too, and so is which particles
# the classifier is least sure of.
probabilities = classifier.predict_proba(X[~known])
print(classifier.classes_)
print(probabilities[:3].round(2))

# %%
# A map of the particles
# ----------------------
# The pretrainer inside turns volumes into rows of features, the embedding, without any
# label. Its two principal components, coloured by the true class:
embedding = classifier.pretrainer_.transform(X)
EmbeddingDisplay.from_embedding(embedding, labels=names)
embedding.shape

# %%
# Keep the model
# --------------
# ``classifier.save("model")`` writes the weights and a JSON file that can be read, and
# ``RB3DClassifier.load("model")`` reads them back (:ref:`saving`).
#
# Where to go from here:
#
# - :ref:`sphx_glr_auto_examples_plot_own_files.py` for MRC and STAR files;
# - :ref:`choosing` for which estimator, encoder and method to take;
# - :ref:`sphx_glr_auto_examples_plot_label_fractions.py` for what labels are worth.
