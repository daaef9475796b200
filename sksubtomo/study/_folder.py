"""The output folder, and whose it is."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from sksubtomo._files import write_text
from sksubtomo.model_selection._comparison import package_versions
from sksubtomo.study.settings import StudySettings

_RESULTS = ("label_fractions.csv", "cells", "cache")
_ADVICE = "Choose another output folder, or delete this one."


def claim_folder(output: Path, settings: StudySettings, contents: Any) -> None:
    """Make the folder that of this study, or refuse."""
    if output.exists() and not output.is_dir():
        raise NotADirectoryError(f"{output} is a file; expected a folder.")
    identity = _identity(settings, contents)
    path = output / "settings.json"
    if not path.exists():
        for found in filter(Path.exists, (output / name for name in _RESULTS)):
            raise ValueError(
                f"{found} exists, but {path}, which says what made it, does not. "
                f"{_ADVICE}"
            )
        output.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(identity, indent=2, ensure_ascii=False) + "\n")
        return
    try:
        there = json.loads(path.read_text("utf-8"))
        differences = [
            f"the contents of {name}"
            if group == "files"
            else f"{name} ({there[group].get(name)!r} there, {now.get(name)!r} now)"
            for group, now in identity.items()
            for name in sorted(there[group].keys() | now.keys())
            if there[group].get(name) != now.get(name)
        ]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path}: cannot be read as the settings of a study ({error!r}). {_ADVICE}"
        ) from error
    if differences:
        raise ValueError(
            f"{output} holds a study that differs in {', '.join(differences)}. "
            f"{_ADVICE}"
        )


def _identity(settings: StudySettings, contents: Any) -> Any:
    """Return all that results depend on, as JSON has it."""
    described = {item.name: getattr(settings, item.name) for item in fields(settings)}
    # Where the files lie is no matter, what is in them is.
    for name in ("data", "labels", "structures"):
        if isinstance(described[name], str | Path):
            described[name] = Path(described[name]).name
    identity = {
        "settings": described,
        "files": contents,
        "versions": package_versions(),
    }
    # JSON has no infinity.
    return json.loads(
        json.dumps(identity, default=_describe),
        parse_constant=lambda constant: str(float(constant)),
    )


def _describe(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "get_params"):
        return {"class": type(value).__name__, **value.get_params(deep=False)}
    return repr(value)
