"""
Where a classifier looked
=========================

Grad-CAM maps what in a volume speaks for a class. Here it is drawn for two classifiers
that differ in their start: one was pretrained by contrast, the other begins with random
weights. Gupta et al. (2022) found the pretrained one to consider wider regions, so the
width of the maps is measured, too.

Trainings take seconds here, with too few volumes and epochs to compare methods; real
ones are of hundreds of epochs. :ref:`grad_cam` has a comparison over several repeats.
"""

# %%
# Two classifiers
# ---------------
# Three complexes, twenty-four volumes each, of which six have a label. The pretrainer
# learns from all of them; fine-tuning is the same for both.
import numpy as np

from sksubtomo import ContrastivePretrainer, RB3DClassifier
from sksubtomo.datasets import make_subtomograms
from sksubtomo.networks import RB3D

data = make_subtomograms(
    n_per_class=24,
    structures=["apoferritin", "p97", "rna_polymerase_ii"],
    size=12,
    snr=4,
    random_state=0,
)
X = data.data
names = np.array(data.target_names)[data.target]
known = np.zeros(len(X), dtype=bool)
for name in np.unique(names):
    known[np.flatnonzero(names == name)[:6]] = True
y = np.where(known, names, "unknown")

pretrainer = ContrastivePretrainer(
    encoder=RB3D(norm="group"),
    augmentation="rotate_shift_noise",
    batch_size=12,
    max_epochs=8,
    lr=1e-3,
)
settings = {"unlabeled": "unknown", "max_epochs": 80, "random_state": 0}
classifiers = {
    "pretrained": RB3DClassifier(pretrainer, **settings).fit(X, y),
    "random": RB3DClassifier(encoder=RB3D(norm="group"), **settings).fit(X, y),
}
X_test, names_test = X[~known], names[~known]
for start, classifier in classifiers.items():
    print(f"{start}: accuracy {classifier.score(X_test, names_test):.2f}")

# %%
# Where they look
# ---------------
# One volume of each class, in three planes through its centre; below the planes is the
# class that the classifier predicts, and that the map explains. Colours are parts of
# each map's own maximum.
from sksubtomo.inspection import GradCAMDisplay

rows = [int(np.flatnonzero(names_test == name)[0]) for name in np.unique(names)]
GradCAMDisplay.from_estimators(
    classifiers, X_test[rows], y=names_test[rows], voxel_size=data.voxel_size
)

# %%
# The maps themselves are arrays like the volumes, for further use or to be written as
# MRC files with :func:`sksubtomo.io.write_volume`. They can be of another class than
# the predicted one, and of another layer.
from sksubtomo.inspection import grad_cam

maps = grad_cam(
    classifiers["pretrained"], X_test, target="p97", layer="encoder.blocks.1"
)
maps.shape

# %%
# How wide attention is
# ---------------------
# One number for each map: the root-mean-square distance from its own centre of mass. A
# map that is the same everywhere would have nearly half of the box.
import matplotlib.pyplot as plt

from sksubtomo.inspection import attention_width

figure, ax = plt.subplots(figsize=(3.35, 2.4), layout="constrained")
for (start, classifier), style in zip(classifiers.items(), ("-", "--"), strict=True):
    widths = attention_width(grad_cam(classifier, X_test), voxel_size=data.voxel_size)
    ax.ecdf(widths[~np.isnan(widths)], label=start, linestyle=style)
even = attention_width(np.ones((1, 12, 12, 12)), voxel_size=data.voxel_size)[0]
ax.axvline(even, color="0.5", linewidth=0.8, label="even map")
ax.set(xlabel="Width of attention (Å)", ylabel="Part of the volumes")
ax.legend(fontsize="small", loc="upper left")

# %%
# Many volumes of one pair of classifiers are not many experiments: with another seed
# the order may be the other way round. A claim about methods needs repeats, as in
# ``benchmarks/attention_width.py``, whose result is in :ref:`grad_cam`.
