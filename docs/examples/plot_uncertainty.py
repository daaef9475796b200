"""
Knowing when not to answer
==========================

A classifier chooses among its classes whatever it is shown. Here its probabilities are
calibrated, answers that it is not sure of are withheld, and volumes of no known class
are told by their embedding. :ref:`uncertainty` has the measurements.

The volumes are simulated and small, and the trainings take seconds. Real ones take
longer, and there is more that they know.
"""

# %%
# Three complexes are known; a fourth is in the tomograms, but nobody has labelled it.
# Twenty volumes of each known class are for the training, thirty for validation, and
# the rest is for the test.
import numpy as np

from sksubtomo.datasets import make_subtomograms

names = ["apoferritin", "groel", "proteasome_20s", "beta_galactosidase"]
subtomograms = make_subtomograms(
    n_per_class=100, structures=names, size=12, snr=2, n_neighbors=1, random_state=0
)
y = np.array(names)[subtomograms.target]


def standardize(volumes):
    """Bring each volume to mean 0 and standard deviation 1, as extraction does."""
    centred = volumes - volumes.mean(axis=(1, 2, 3), keepdims=True)
    return centred / centred.std(axis=(1, 2, 3), keepdims=True)


X = standardize(subtomograms.data)
train, validation, test = [], [], []
for name in names[:3]:
    rows = np.flatnonzero(y == name)
    train.extend(rows[:20])
    validation.extend(rows[20:50])
    test.extend(rows[50:])

# %%
# A classifier without pretraining, which is quick. Its answers are averaged over four
# orientations of each volume.
from sksubtomo import RB3DClassifier

classifier = RB3DClassifier(max_epochs=45, test_views=4, random_state=0)
classifier.fit(X[train], y[train])
classifier.score(X[test], y[test])

# %%
# Calibration
# -----------
# One number, the temperature, is learned from the validation volumes. The classifier is
# fitted already, so it is frozen.
from sklearn.frozen import FrozenEstimator

from sksubtomo.uncertainty import (
    TemperatureScaledClassifier,
    expected_calibration_error,
    reliability_display,
)

calibrated = TemperatureScaledClassifier(FrozenEstimator(classifier))
calibrated.fit(X[validation], y[validation])
calibrated.temperature_

# %%
# The average makes the classifier less sure than it could be, and the temperature is
# below 1. The test volumes say whether it is right: on the diagonal, of the answers
# with a confidence of 0.8, 80 % are right.
import matplotlib.pyplot as plt

fig, ax = plt.subplots(figsize=(3.35, 3.2), layout="constrained")
for model, name, style in (
    (classifier, "as it is", {"color": "#D55E00", "marker": "o"}),
    (calibrated, "calibrated", {"color": "#0072B2", "marker": "s"}),
):
    probabilities = model.predict_proba(X[test])
    reliability_display(
        y[test], probabilities, model.classes_, n_bins=5, name=name, ax=ax, **style
    )
    error = expected_calibration_error(y[test], probabilities, model.classes_)
    print(f"{name}: calibration error {error:.2f}")

# %%
# Answers that are right nine times out of ten
# --------------------------------------------
# From the most confident answers down, the threshold is the last one before the
# validation volumes no longer promise this accuracy. The lower bound is what they
# promise, with 95 % confidence.
from sksubtomo.uncertainty import abstain, threshold_for_accuracy

found = threshold_for_accuracy(
    y[validation],
    calibrated.predict_proba(X[validation]),
    calibrated.classes_,
    accuracy=0.9,
)
found

# %%
# On the test volumes:
answers = abstain(
    calibrated.predict_proba(X[test]), calibrated.classes_, found.threshold
)
answered = answers != ""
coverage = np.mean(answered)
accuracy = np.mean(answers[answered] == y[test][answered])
print(f"{coverage:.0%} get an answer, of which {accuracy:.0%} are right")

# %%
# What is of no known class
# -------------------------
# The complex without labels, and empty boxes: noise with the transfer and the missing
# wedge of the others. The classifier may well be sure of what it answers.
unseen = X[y == names[3]][:40]
empty = standardize(
    make_subtomograms(40, structures=["groel"], size=12, snr=1e-6, random_state=1).data
)
kinds = {"known": X[test], "unseen complex": unseen, "noise": empty}

# %%
# In the embedding they lie farther from the labelled volumes than others of the known
# classes do. The detector's threshold is to reject one in twenty of these; with sixty
# labelled volumes it knows that roughly.
from sksubtomo.uncertainty import NoveltyDetector

detector = NoveltyDetector().fit(classifier.transform(X[train]))
fig, axes = plt.subplots(2, 1, figsize=(3.35, 4), layout="constrained")
colors = ("#0072B2", "#D55E00", "#000000")
for (kind, volumes), color, line in zip(
    kinds.items(), colors, ("-", "--", ":"), strict=True
):
    confidence = calibrated.predict_proba(volumes).max(axis=1)
    score = detector.score_samples(classifier.transform(volumes))
    rejected = np.mean(score < detector.offset_)
    print(f"{kind}: confidence {confidence.mean():.2f}, {rejected:.0%} rejected")
    for ax, values in zip(axes, (confidence, score), strict=True):
        style = {"histtype": "step", "color": color, "linestyle": line, "label": kind}
        ax.hist(values, bins=15, density=True, **style)
axes[1].axvline(detector.offset_, color="0.5", label="threshold")
axes[0].set(xlabel="Confidence", ylabel="Density")
axes[1].set(xlabel="Score of the embedding", ylabel="Density")
handles = axes[1].get_legend_handles_labels()
legend = fig.legend(*handles, loc="outside upper center", ncols=2)
