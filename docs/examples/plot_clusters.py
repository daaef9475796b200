"""
Clusters without labels
=======================

What is in the data, before anybody has labelled anything? An encoder is pretrained
without labels, its embedding is divided into clusters, and each of them is looked at.
:ref:`clusters` says how the number of clusters is chosen, and how well that did on
embeddings of real pretrainings.

The volumes are simulated, small and clean, and the training takes seconds: a real one
takes 2,000 steps or more.
"""

# %%
# An embedding
# ------------
# Three complexes, sixty volumes each. The classes are used at the very end only.
import numpy as np

from sksubtomo.datasets import make_subtomograms
from sksubtomo.recipes import recommended

simulated = make_subtomograms(
    n_per_class=60,
    structures=["pdh_e2_core", "groel", "rubisco"],
    size=10,
    snr=10,
    n_neighbors=0,
    random_state=0,
)
X, voxel_size = simulated.data, simulated.voxel_size
names = np.array(simulated.target_names)[simulated.target]

pretrainer = recommended().pretrainer.set_params(
    max_epochs=15, batch_size=32, random_state=0
)
embedding = pretrainer.fit_transform(X)
embedding.shape

# %%
# Clusters
# --------
# Gaussian mixtures of one component, two, three and so on are fitted to the first eight
# principal components. The number with the least Bayesian information criterion (BIC)
# is proposed.
from sksubtomo.clustering import propose_clusters

clusters = propose_clusters(embedding, random_state=0)
print(clusters.summary())

# %%
# All candidates have their score. A flat bottom of the curve means that the data do not
# decide between these numbers.
import matplotlib.pyplot as plt

numbers, scores = np.array(clusters.scores_).T
_, ax = plt.subplots(figsize=(3.35, 2.2), layout="constrained")
ax.plot(numbers, scores - scores.min(), marker="o")
ax.set(xlabel="Number of clusters", ylabel="BIC less the least")
ax.set_xticks(numbers)

# %%
# The map shows the first two of the components.
from sksubtomo.inspection import EmbeddingDisplay

EmbeddingDisplay.from_embedding(embedding, labels=clusters.labels_, name="Cluster")

# %%
# What they look like
# -------------------
# The average of each cluster, as the volumes lie. Clusters with the same average may be
# halves of one.
from sksubtomo.inspection import ClassAveragesDisplay

ClassAveragesDisplay.from_predictions(X, clusters.labels_, voxel_size=voxel_size)

# %%
# A page with all of this, and with the members of each cluster that are nearest to its
# centre, is one call. It needs no display, so that it also runs where the data are.
import tempfile
from pathlib import Path

from sksubtomo.clustering import write_cluster_report

with tempfile.TemporaryDirectory() as folder:
    page = Path(folder, "clusters.html")
    write_cluster_report(page, clusters, embedding, X, voxel_size=voxel_size)
    print(f"{page.name}: {page.stat().st_size / 1e6:.1f} MB")

# %%
# Were they right?
# ----------------
# Here the classes are known. The adjusted Rand index is 1 where clusters and classes
# are the same division, and 0 on average for divisions at random.
from sklearn.metrics import adjusted_rand_score

print(f"adjusted Rand index: {adjusted_rand_score(names, clusters.labels_):.2f}")
for cluster in range(clusters.n_clusters_):
    found, counts = np.unique(names[clusters.labels_ == cluster], return_counts=True)
    print(cluster, dict(zip(found.tolist(), counts.tolist(), strict=True)))
