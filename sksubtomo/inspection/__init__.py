"""Seeing what is in the data, and what a model looked at.

Displays follow scikit-learn's: a class method draws, attributes hold what was drawn.
"""

from sksubtomo.inspection.averages import ClassAveragesDisplay, class_averages
from sksubtomo.inspection.embedding import EmbeddingDisplay
from sksubtomo.inspection.embedding_page import write_embedding_page
from sksubtomo.inspection.grad_cam import GradCAMDisplay, attention_width, grad_cam
from sksubtomo.inspection.isosurface import IsosurfaceDisplay
from sksubtomo.inspection.slices import MontageDisplay, SlicesDisplay

__all__ = [
    "ClassAveragesDisplay",
    "EmbeddingDisplay",
    "GradCAMDisplay",
    "IsosurfaceDisplay",
    "MontageDisplay",
    "SlicesDisplay",
    "attention_width",
    "class_averages",
    "grad_cam",
    "write_embedding_page",
]
