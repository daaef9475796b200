"""
Large data, long runs, many cores
=================================

Data larger than memory stay on disk; a run that is killed goes on where it was; fits of
one study run side by side. Nothing of it changes how an estimator is used, and none of
it changes a result.

The data here are 96 volumes of 8³ voxels, which need none of this, so that the example
takes seconds. :ref:`scaling` has the plans for a million volumes.
"""

# %%
# Volumes on disk
# ---------------
# Volumes are written bit by bit, in constant memory, and mapped: ``X`` is a view of the
# file. Datasets of h5py and arrays of Zarr and dask do as well. Training reads what it
# needs for the next batches.
from pathlib import Path
from tempfile import mkdtemp

import numpy as np

from sksubtomo.datasets import write_subtomograms
from sksubtomo.io import read_volumes

folder = Path(mkdtemp())
write_subtomograms(
    folder,
    n_per_class=24,
    structures=["apoferritin", "groel", "p97", "rna_polymerase_ii"],
    size=8,
    snr=4,
    random_state=0,
)
subtomograms = read_volumes(folder / "subtomograms.mrc")
X = subtomograms.volumes
type(X), X.shape

# %%
# A run that goes on
# ------------------
# With a `checkpoint_dir` the state of the training is saved after every epoch: weights,
# optimiser, queue, generators. Started again after a crash, the same script goes on
# with the next epoch. Here the first run ends after four epochs, and the same one with
# eight stands for what is started again. (Only with a constant learning rate may
# `max_epochs` grow; otherwise decide on it beforehand.)
from sksubtomo import ContrastivePretrainer

pretrainer = ContrastivePretrainer(
    max_epochs=4,
    schedule="constant",
    checkpoint_dir=folder / "checkpoints",
    random_state=0,
)
pretrainer.fit(X)
checkpoints = (folder / "checkpoints").glob("*.safetensors")
print(*sorted(path.name for path in checkpoints))
pretrainer = pretrainer.set_params(max_epochs=8).fit(X)

# %%
# A run without interruption ends with the same weights, to the last bit:
uninterrupted = ContrastivePretrainer(max_epochs=8, schedule="constant", random_state=0)
uninterrupted.fit(np.array(X))  # and from memory
np.array_equal(uninterrupted.transform(X), pretrainer.transform(X))

# %%
import matplotlib.pyplot as plt

losses = [epoch["train_loss"] for epoch in pretrainer.history_]
epochs = np.arange(1, len(losses) + 1)
fig, ax = plt.subplots(figsize=(5, 3), layout="constrained")
ax.plot(epochs[3:], losses[3:], "o--", color="#D55E00", label="second start")
ax.plot(epochs[:4], losses[:4], "o-", color="#0072B2", label="first start")
ax.axhline(
    uninterrupted.history_[-1]["train_loss"],
    color="0.5",
    linewidth=1,
    linestyle=":",
    label="end of a run in one go",
)
ax.set(xlabel="Epoch", ylabel="Loss (NT-Xent)")
ax.legend(frameon=False)

# %%
# Embeddings on disk
# ------------------
# `out` is an array on disk, to which the embeddings are written block by block.
n_features = len(pretrainer.get_feature_names_out())
out = np.lib.format.open_memmap(
    folder / "embeddings.npy", "w+", "float32", (len(X), n_features)
)
pretrainer.transform(X, out=out)
out.shape

# %%
# Many fits at once
# -----------------
# With `memory` a search pretrains once a fold, whatever else it varies and however many
# workers it has: here twice for eight fits. `n_jobs` is the number of processes on one
# machine; ``joblib.parallel_config("dask")`` sends the same fits to a cluster.
from sklearn.model_selection import GridSearchCV

from sksubtomo import LabelFractionClassifier, RB3DClassifier
from sksubtomo.io import read_particles

y = read_particles(folder / "particles.star").loop.column("sksubtomoClass")
classifier = RB3DClassifier(
    ContrastivePretrainer(max_epochs=4),
    memory=str(folder / "cache"),
    max_epochs=4,
    random_state=0,
)
study = GridSearchCV(
    LabelFractionClassifier(classifier, random_state=0),
    {"label_fraction": [0.5, 1.0], "estimator__lr": [3e-4, 1e-3]},
    cv=2,
    refit=False,
    n_jobs=1,
).fit(np.array(X), y)
for parameters, score in zip(
    study.cv_results_["params"], study.cv_results_["mean_test_score"], strict=True
):
    print(parameters, score.round(2))

# %%
# One training on several GPUs is started by ``torchrun``, without a change to the
# script: :ref:`distributed`. What each of these costs was measured: :ref:`large_data`,
# :ref:`checkpoints`, :ref:`parallel_studies`.
