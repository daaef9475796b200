import importlib
import inspect
import re
from operator import attrgetter
from pathlib import Path

import pytest

API = Path(__file__).parents[1] / "docs" / "api.rst"

# Modules of the package that are described, and of which names nothing else is public.
MODULES = [
    "sksubtomo",
    "sksubtomo.active_learning",
    "sksubtomo.augmentation",
    "sksubtomo.clustering",
    "sksubtomo.contrastive",
    "sksubtomo.datasets",
    "sksubtomo.inspection",
    "sksubtomo.io",
    "sksubtomo.model_selection",
    "sksubtomo.networks",
    "sksubtomo.picking",
    "sksubtomo.recipes",
    "sksubtomo.study",
    "sksubtomo.uncertainty",
    "sksubtomo.workflows",
]

# For those who add a method, an encoder or an augmentation to the package.
NOT_LISTED = {
    "sksubtomo.augmentation": {"AUGMENTATIONS"},
    "sksubtomo.contrastive": {"METHODS", "ContrastiveModule"},
    "sksubtomo.networks": {"ENCODERS", "RB3DNetwork"},
    # Listed as sksubtomo.ReadVolumes.
    "sksubtomo.io": {"ReadVolumes"},
    "sksubtomo": {"__version__"},
}


def listed_names():
    """Return the names below each ``currentmodule`` of the API reference."""
    names = {}
    for line in API.read_text("utf-8").splitlines():
        if match := re.fullmatch(r"\.\. currentmodule:: (\S+)", line):
            current = names.setdefault(match[1], [])
        elif match := re.fullmatch(r" {3}([A-Za-z][\w.]*)", line):
            current.append(match[1])
    return names


def public_names(module):
    if hasattr(module, "__all__"):
        return set(module.__all__)
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isfunction(value) or inspect.isclass(value))
        and value.__module__ == module.__name__
    }


@pytest.mark.parametrize("name", MODULES)
def test_api_reference_lists_what_is_public_and_nothing_else(name):
    module = importlib.import_module(name)
    listed = listed_names()[name]
    assert len(listed) == len(set(listed))
    # What is reached through a submodule is described, but not exported.
    exported = {item for item in listed if "." not in item}
    assert exported == public_names(module) - NOT_LISTED.get(name, set())
    for item in listed:
        assert inspect.getdoc(attrgetter(item)(module))


def test_api_reference_has_no_other_module():
    assert sorted(listed_names()) == MODULES


def test_guide_pages_are_all_in_its_contents():
    guide = API.parent / "user_guide"
    index = (guide / "index.rst").read_text("utf-8")
    pages = {path.stem for path in guide.glob("*.rst")} - {"index"}
    assert set(re.findall(r"(?m)^ {3}(\w+)$", index)) == pages
