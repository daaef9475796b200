"""
What labels are worth: curves and grid searches
===============================================

Is it worth labelling another hundred particles? And does pretraining help on these
data? :func:`~sksubtomo.model_selection.label_fraction_curve` answers for any
estimators, with the same splits, labels and seeds for all of them;
:class:`~sksubtomo.LabelFractionClassifier` makes the number of labels a parameter, so
that a grid search can vary it together with others.

The volumes are tiny and the pretraining takes ten epochs, not the hundreds that it
should.
"""

# %%
# Estimators to compare
# ---------------------
# Anything with ``fit`` and ``predict``. Here a logistic regression on the voxels stands
# against the same on the embedding of a pretrainer: the *linear probe*, the cheapest
# classifier on a learned representation. Networks such as
# :class:`~sksubtomo.RB3DClassifier` and ``recommended()`` are compared in the same way.
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sksubtomo import ContrastivePretrainer
from sksubtomo.datasets import make_subtomograms

X, y = make_subtomograms(
    n_per_class=40,
    structures=["apoferritin", "groel", "p97", "rna_polymerase_ii"],
    size=8,
    snr=4,
    random_state=0,
    return_X_y=True,
)
X = X.reshape(len(X), -1)  # scikit-learn's estimators take rows

pretrainer = ContrastivePretrainer(max_epochs=10, random_state=0)
linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
estimators = {"voxels": linear, "embedding": make_pipeline(pretrainer, linear)}

# %%
# The curve
# ---------
# One split into training, validation and test part. Each repeat draws the labels anew.
# The pretrainer is fitted once, on the training part and without labels, and not once
# for each of its twelve fits.
from sksubtomo.model_selection import label_fraction_curve

curve = label_fraction_curve(
    estimators,
    X,
    y,
    label_fractions=[0.25, 0.5, 1.0],
    labels_per_class=2,
    n_repeats=3,
    random_state=0,
)
curve.plot()

# %%
# As a table, with the p-value of the paired test against the first estimator. Three
# repeats on one split are few, and with all labels nothing is left to draw;
# ``resplit=True`` gives every repeat a split and a pretraining of its own.
columns = ["method", "labels_per_class", "mean", "std", "pvalue"]
print(curve.summary()[columns].round(2).to_string(index=False))

# %%
# A grid search over labels and parameters
# ----------------------------------------
# `label_fraction` is a parameter like any other. The last step of the pipeline hides a
# part of the labels; the pretrainer before it sees all rows. ``memory`` caches the
# pretrainer's work, so that the six candidates cost one pretraining a fold.
from tempfile import mkdtemp

from sklearn.model_selection import GridSearchCV

from sksubtomo import LabelFractionClassifier

few_labels = LabelFractionClassifier(LogisticRegression(max_iter=1000), random_state=0)
pipeline = make_pipeline(pretrainer, StandardScaler(), few_labels, memory=mkdtemp())
search = GridSearchCV(
    pipeline,
    {
        "labelfractionclassifier__label_fraction": [0.25, 1.0],
        "labelfractionclassifier__estimator__C": [0.01, 0.1, 1.0],
    },
    cv=2,
    refit=False,
).fit(X, y)

# %%
# Mean accuracy of the folds, for each part of the labels (rows) and strength of the
# regularisation (columns):
import pandas as pd

results = pd.DataFrame(search.cv_results_)
results.pivot(
    index="param_labelfractionclassifier__label_fraction",
    columns="param_labelfractionclassifier__estimator__C",
    values="mean_test_score",
).round(2)

# %%
# A classifier with a pretrainer inside has a parameter `memory` of its own, because
# the cache of a pipeline would miss it: :ref:`estimators`. With ``n_jobs`` the fits are
# spread over cores or a cluster: :ref:`parallel_studies`.
