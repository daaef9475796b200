"""Sphinx configuration; `make docs` builds without any download."""

import inspect
from functools import cached_property
from importlib import import_module
from importlib.metadata import version as installed_version

from docutils import nodes

project = "sksubtomo"
author = "The sksubtomo developers"
copyright = "2026, The sksubtomo developers"
release = installed_version("sksubtomo")
version = release

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "myst_parser",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "_templates", "examples", "notebooks"]
default_role = "literal"

autosummary_generate = True
autodoc_typehints = "none"  # the docstrings state types, shapes and units

# _templates/autosummary/class.rst lists the methods and properties of a class.
numpydoc_show_class_members = False

# The gallery: docs/examples/plot_*.py are run, and shown in this order.
EXAMPLES = [
    "plot_quick_start.py",
    "plot_own_files.py",
    "plot_file_pitfalls.py",
    "plot_study.py",
    "plot_label_fractions.py",
    "plot_figures.py",
    "plot_grad_cam.py",
    "plot_clusters.py",
    "plot_next_to_label.py",
    "plot_uncertainty.py",
    "plot_scaling.py",
]
sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "auto_examples",
    "within_subsection_order": EXAMPLES.index,
    # Figures and displays are shown, not their names, which hold an address; nor the
    # lists of artists that some methods of matplotlib return.
    "ignore_repr_types": r"matplotlib\.|Display|'list'",
    "image_srcset": ["2x"],
    # Pages are the same whenever they are built, but for what has changed.
    "min_reported_time": float("inf"),
    "write_computation_times": False,
    "show_signature": False,
    "remove_config_comments": True,
    "download_all_examples": False,
}

html_math_renderer = "mathml"
html_theme = "pydata_sphinx_theme"
html_title = "sksubtomo"
html_show_sourcelink = False
html_theme_options = {
    "navigation_with_keys": False,
    "show_prev_next": False,
    "secondary_sidebar_items": ["page-toc"],
}


def own_properties(module, class_name):
    """Name the properties that a class of this package defines.

    Fields of dataclasses and fitted attributes stand in the class's docstring.
    """
    return [
        name
        for name, value in vars(getattr(import_module(module), class_name)).items()
        if isinstance(value, (property, cached_property)) and not name.startswith("_")
    ]


autosummary_context = {"own_properties": own_properties}
suppress_warnings = ["config.cache"]  # a function in the configuration


def skip_inherited_from_elsewhere(app, what, name, obj, skip, options):
    """Leave out what others define, such as scikit-learn's `set_params`.

    Those docstrings refer to pages of their own documentation.
    """
    if inspect.ismethoddescriptor(obj) and not hasattr(obj, "__module__"):
        return True  # a method of a builtin, such as tuple.count
    module = getattr(obj, "__module__", None) or "sksubtomo"
    return None if module.split(".")[0] == "sksubtomo" else True


def write_math(translator, node):
    """Write a formula as MathML: MathJax would be fetched by whoever reads the page."""
    # Of the extra `docs` only; the tests read this file, too.
    from latex2mathml.converter import convert

    display = "block" if isinstance(node, nodes.math_block) else "inline"
    formula = node.astext()
    if "\\\\" in formula:
        formula = rf"\begin{{aligned}}{formula}\end{{aligned}}"
    mathml = convert(formula, display=display)
    translator.body.append(mathml if display == "inline" else f"<p>{mathml}</p>")
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (write_math, None), (write_math, None))
    app.connect("autodoc-skip-member", skip_inherited_from_elsewhere)
