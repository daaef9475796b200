"""Figures of volumes and embeddings."""

from sksubtomo.inspection.embedding import plot_embedding
from sksubtomo.inspection.slices import plot_slices

__all__ = ["plot_embedding", "plot_slices"]
