"""
What to label next
==================

Which ten particles should an expert look at first, and which ten then? Here the expert
is the simulation, which knows the class of every volume. Labels that
:func:`~sksubtomo.active_learning.next_to_label` asks for are compared with as many
labels at random. :ref:`next_to_label` has the same over several data sets, with error
bars.

The volumes are simulated, small and clean, and the training takes seconds: a real one
takes 2,000 steps or more, and one data set proves nothing.
"""

# %%
# Particles of which nothing is known
# -----------------------------------
# Four complexes, of which one is eight times as frequent as another, as in a cell.
import numpy as np

from sksubtomo.datasets import make_subtomograms
from sksubtomo.recipes import recommended

simulated = make_subtomograms(
    n_per_class=88,
    structures=["apoferritin", "groel", "p97", "proteasome_20s"],
    size=10,
    snr=10,
    n_neighbors=0,
    random_state=0,
)
sizes = [64, 40, 24, 8]
of_class = [np.flatnonzero(simulated.target == k) for k in range(4)]
pool = np.concatenate([rows[:n] for rows, n in zip(of_class, sizes, strict=True)])
test = np.concatenate([rows[64:] for rows in of_class])
X, truth = simulated.data[pool], simulated.target[pool]
X_test, y_test = simulated.data[test], simulated.target[test]

pretrainer = recommended().pretrainer.set_params(
    max_epochs=20, batch_size=32, random_state=0
)
Z, Z_test = pretrainer.fit_transform(X), pretrainer.transform(X_test)

# %%
# The first labels
# ----------------
# There is no classifier yet, so the pretrained encoder is asked. It names particles
# that others are like.
from sksubtomo.active_learning import next_to_label

rows = next_to_label(pretrainer, X, 10)
names = np.array(simulated.target_names)
print("asked for: ", *names[truth[rows]])
at_random = next_to_label(pretrainer, X, 10, "random", random_state=0)
print("at random: ", *names[truth[at_random]])

# %%
# The map of the embedding, with the particles that were asked for.
from sksubtomo.inspection import EmbeddingDisplay

asked_for = np.full(len(X), "other", dtype=object)
asked_for[rows] = "asked for"
asked_for[at_random] = "at random"
EmbeddingDisplay.from_embedding(Z, labels=asked_for, unlabeled="other", marker_size=40)

# %%
# And then
# --------
# After each batch of labels a classifier is fitted, and asked for the next batch. A
# logistic regression on the embedding takes no time; an ``RB3DClassifier`` could be
# asked in the same way.
from sklearn.linear_model import LogisticRegression


def label(strategy, seed):
    """Return test accuracies after 10, 20, 30 and 40 labels."""
    labeled, classifier, accuracies = np.zeros(len(X), dtype=bool), None, []
    for _ in range(4):
        more = next_to_label(
            classifier, Z, 10, strategy, labeled=labeled, random_state=seed
        )
        labeled[more] = True  # the expert looks at these
        classifier = LogisticRegression(max_iter=1000).fit(Z[labeled], truth[labeled])
        accuracies.append(classifier.score(Z_test, y_test))
    return accuracies


n_labels = [10, 20, 30, 40]
mixed = label("mixed", 0)
random = [label("random", seed) for seed in range(5)]

# %%
# Random labels are drawn five times: the line is their mean, the band reaches from the
# worst to the best.
import matplotlib.pyplot as plt

_, ax = plt.subplots(figsize=(3.35, 2.6), layout="constrained")
ax.plot(n_labels, 100 * np.array(mixed), "D-", label="mixed")
ax.plot(n_labels, 100 * np.mean(random, axis=0), "ko--", label="random")
low, high = 100 * np.min(random, axis=0), 100 * np.max(random, axis=0)
ax.fill_between(n_labels, low, high, color="0.85")
ax.set(xlabel="Labels, of all classes together", ylabel="Test accuracy (%)")
ax.set_xticks(n_labels)
ax.legend(frameon=False)
