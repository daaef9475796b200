import os

# Read by scikit-learn and SciPy when they are first imported; without it the
# array-API check is skipped.
os.environ["SCIPY_ARRAY_API"] = "1"

import matplotlib

matplotlib.use("Agg")

import torch

# Two torch threads on two busy cores make the suite many times slower than one.
torch.set_num_threads(1)
