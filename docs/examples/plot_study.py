"""
The paper's study
=================

How many labels does contrastive pretraining save? Gupta et al. (2022) answered by
fine-tuning one network from pretrained and from random weights on parts of the labels.
:func:`~sksubtomo.study.run_study`, and ``make study`` or ``python -m sksubtomo study``
in a shell, does that experiment on volumes that are simulated, or on your own.

This is the machinery at work, on two classes of tiny volumes and with a few epochs. The
real study has six classes, 70 epochs and three repeats of every fit and takes a quarter
of an hour; what it found is on the page :ref:`study`.
"""

# %%
# Settings
# --------
# Everything that is not given here is what ``make study`` does. The rows of the table
# are a network from random weights, the same after each of the `methods`, and the two
# recipes: the paper's, and the best one measured.
from pathlib import Path
from tempfile import mkdtemp

from sksubtomo.contrastive import MoCo
from sksubtomo.study import StudySettings, run_study

settings = StudySettings(
    structures=["apoferritin", "rna_polymerase_ii"],
    size=8,
    snr=4,
    n_per_class=20,
    methods={"moco": MoCo(momentum=0.99)},
    epochs=3,
    fine_tune_epochs=6,
    labels_per_class=[3],
    fractions=[1.0],
    repeats=2,
)

# %%
# Run
# ---
# Volumes are split once into training, validation and test part; all methods pretrain
# on the training part, and see the same labels in the same repeat. Every fit is kept in
# the folder, so that an interrupted study goes on where it was. ``n_jobs=None`` takes
# all cores.
folder = Path(mkdtemp()) / "study"
result = run_study(settings, folder, n_jobs=1)

# %%
# Read the table
# --------------
# Accuracy is the mean over the repeats ± the standard deviation, `n` their number, and
# `p` that of a two-tailed test against random initialisation, paired by repeat. With
# two repeats of so short a training it means nothing; five or more are needed. (The
# last line, which says how long it took, is left out: that is never twice the same.)
print(result.table.partition("Pretraining took")[0])

# %%
# Look at the figure
# ------------------
# The study writes it to ``accuracy.png``, beside slices of the volumes and maps of the
# embeddings, and draws it again on demand.
result.curve.plot()

# %%
# What is in the folder:
print(*sorted(path.name for path in folder.iterdir()), sep="\n")

# %%
# Go on from here
# ---------------
# The rows are a pandas data frame, and ``summary`` tests them against any other row,
# also by the corrected test, which allows for what the repeats share.
result.curve.summary(baseline="recommended", test="corrected")

# %%
# Your own volumes instead of simulated ones: ``StudySettings(data="particles.mrc",
# labels="particles.csv")``, see :ref:`study`. Estimators of your own:
# :ref:`sphx_glr_auto_examples_plot_label_fractions.py`.
