"""From files of particles to encoders, embeddings and classes.

Each function is a command as well: ``pretrain``, ``transform`` and ``classify``. All
that can be checked is checked before anything is trained. Particles of one file are
read as they are needed, and need not fit into memory. Of several processes that train
together (torchrun) only the first one writes.
"""

from __future__ import annotations

import csv
import io
import os
import warnings
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_is_fitted

from sksubtomo._files import check_writable, write_atomically, write_text
from sksubtomo._labels import is_missing
from sksubtomo._saving import SavedModelMixin, check_model_folder, check_saveable
from sksubtomo._training.batches import Normalizer
from sksubtomo._training.distribution import is_main
from sksubtomo.classification import RB3DClassifier, SubtomogramClassifier
from sksubtomo.io import (
    Subtomograms,
    list_references,
    read_labels,
    write_particles,
)
from sksubtomo.io._outputs import already_there
from sksubtomo.io._sources import parse_reference
from sksubtomo.io.labels import shorten
from sksubtomo.io.particles import find_image
from sksubtomo.io.star import StarFile, format_values
from sksubtomo.io.volumes import open_subtomograms
from sksubtomo.pretraining import ContrastivePretrainer
from sksubtomo.recipes import recommended

PathLike = str | Path
Source = PathLike | Sequence[Any] | Subtomograms

# The mark of unlabelled particles: no label can be empty.
_UNLABELED = ""

# Longer ones are texts, not names of classes.
_MAX_LABEL = 200

# How far the voxel size may be from the encoder's, as a part of it, and how many
# volumes the intensities are compared by.
_VOXEL_SIZE_TOLERANCE = 0.01
_MAX_INTENSITY_VOLUMES = 32


def default_pretrainer(**parameters: Any) -> ContrastivePretrainer:
    """Return the pretrainer that the workflows use unless they are given another.

    That of :func:`~sksubtomo.recipes.recommended`, with a seed of 0.

    Parameters
    ----------
    **parameters
        Parameters of the pretrainer to set, such as `max_epochs`.

    Returns
    -------
    ContrastivePretrainer
        An unfitted pretrainer.

    Examples
    --------
    >>> from sksubtomo.workflows import default_pretrainer
    >>> default_pretrainer(max_epochs=20).encoder
    RB3D(norm='group')
    """
    pretrainer: ContrastivePretrainer = default_classifier().pretrainer
    return pretrainer.set_params(**parameters)


def default_classifier(**parameters: Any) -> RB3DClassifier:
    """Return the classifier that the workflows use unless they are given another.

    That of :func:`~sksubtomo.recipes.recommended`, with seeds of 0. It pretrains on all
    particles and is fine-tuned on the labelled ones.

    Parameters
    ----------
    **parameters
        Parameters of the classifier to set, such as `max_epochs`; with ``pretrainer__``
        in front, of the pretrainer. Fine-tuning has the views of a `pretrainer` that is
        given.

    Returns
    -------
    RB3DClassifier
        An unfitted classifier.

    Examples
    --------
    >>> from sksubtomo.workflows import default_classifier
    >>> classifier = default_classifier(max_epochs=20, pretrainer__max_epochs=100)
    >>> classifier.max_epochs, classifier.pretrainer.max_epochs
    (20, 100)
    """
    seeds = {"random_state": 0}
    if "pretrainer" not in parameters:
        seeds["pretrainer__random_state"] = 0
    return recommended(**seeds | parameters)


def pretrain_encoder(
    source: Source,
    *,
    pretrainer: ContrastivePretrainer | None = None,
    output: PathLike | None = None,
    overwrite: bool = False,
    **reading: Any,
) -> ContrastivePretrainer:
    """Learn an encoder from particles without labels.

    Parameters
    ----------
    source : path, sequence of paths, or Subtomograms
        The particles: whatever :func:`~sksubtomo.io.read_volumes` reads, or what it
        returned.
    pretrainer : ContrastivePretrainer, default=None
        What to fit; it is cloned. None is `default_pretrainer`.
    output : path, default=None
        Folder to save the encoder in, for `ContrastivePretrainer.load` and the
        other workflows. None saves nothing.
    overwrite : bool, default=False
        Whether a model that is there already may be replaced.
    **reading
        Further arguments of :func:`~sksubtomo.io.read_volumes`, such as `voxel_size`
        or `invert_contrast`.

    Returns
    -------
    ContrastivePretrainer
        The fitted pretrainer. Its attribute ``voxel_size_`` is the voxel size of the
        particles in angstroms, or None if it is not known; it is saved too.

    Raises
    ------
    ValueError
        If the particles, the output or a parameter is not acceptable.
    FileExistsError
        If there is a model in `output` already and `overwrite` is False.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from sksubtomo.datasets import make_subtomograms
    >>> from sksubtomo.io import write_volume_stack
    >>> from sksubtomo.workflows import default_pretrainer, pretrain_encoder
    >>> X, y = make_subtomograms(n_per_class=1, size=8, random_state=0,
    ...                          return_X_y=True)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     stack = Path(folder, "stack.mrc")
    ...     write_volume_stack(stack, X, voxel_size=10)
    ...     encoder = pretrain_encoder(
    ...         stack, pretrainer=default_pretrainer(max_epochs=1)
    ...     )
    >>> encoder.transform(X).shape
    (10, 256)
    """
    pretrainer = clone(pretrainer or default_pretrainer())
    if not is_main():
        output = None
    if output is not None:
        _check_model_output(pretrainer, Path(output), overwrite)
    particles = _read(source, reading)
    pretrainer.fit(particles.volumes)
    pretrainer.voxel_size_ = (
        None if particles.voxel_size is None else float(particles.voxel_size)
    )
    if output is not None:
        pretrainer.save(output)
    return pretrainer


class EmbeddedParticles(NamedTuple):
    """Embeddings of particles.

    Attributes
    ----------
    embeddings : ndarray of shape (n, n_embedding), float32
        One row a particle, in the order of the input; mapped from the file that was
        written, if there is one.
    names : ndarray of str, shape (n,)
        The particles' names.
    pretrainer : ContrastivePretrainer
        What embedded them.
    """

    embeddings: NDArray[np.float32]
    names: NDArray[np.str_]
    pretrainer: ContrastivePretrainer


def embed_particles(
    source: Source,
    *,
    encoder: PathLike | ContrastivePretrainer | None = None,
    pretrainer: ContrastivePretrainer | None = None,
    output: PathLike | None = None,
    overwrite: bool = False,
    **reading: Any,
) -> EmbeddedParticles:
    """Embed particles, with a saved encoder or one learned from themselves.

    Parameters
    ----------
    source : path, sequence of paths, or Subtomograms
        The particles: whatever :func:`~sksubtomo.io.read_volumes` reads, or what it
        returned.
    encoder : path or ContrastivePretrainer, default=None
        Folder of a saved pretrainer, or a fitted one. None pretrains on the particles
        first.
    pretrainer : ContrastivePretrainer, default=None
        What to fit if there is no `encoder`; it is cloned. None is
        `default_pretrainer`.
    output : path, default=None
        NumPy file (``.npy``) to write the embeddings to, one row a particle in the
        order of the input. The names go beside it, into a CSV file of the same name
        with the column ``particle``. None writes nothing.
    overwrite : bool, default=False
        Whether files that are there already may be replaced.
    **reading
        Further arguments of :func:`~sksubtomo.io.read_volumes`, such as `voxel_size`
        or `invert_contrast`.

    Returns
    -------
    EmbeddedParticles
        Embeddings, names, and the pretrainer.

    Raises
    ------
    ValueError
        If the particles, the encoder, the output or a parameter is not acceptable.
    FileExistsError
        If a file is there already and `overwrite` is False.

    Warns
    -----
    UserWarning
        If the particles differ in voxel size from those that the encoder was trained
        on by more than 1 %; or, if it normalises by their intensities, in mean by more
        than half their standard deviation or in standard deviation by more than a
        factor of 2.

    Examples
    --------
    >>> from sksubtomo import ContrastivePretrainer
    >>> from sksubtomo.datasets import make_subtomograms
    >>> from sksubtomo.io import Subtomograms
    >>> from sksubtomo.workflows import embed_particles
    >>> X, y = make_subtomograms(n_per_class=1, size=8, random_state=0,
    ...                          return_X_y=True)
    >>> encoder = ContrastivePretrainer(max_epochs=1, random_state=0).fit(X[:5])
    >>> particles = Subtomograms(X, voxel_size=10, names=y.astype(str))
    >>> embed_particles(particles, encoder=encoder).embeddings.shape
    (10, 256)
    """
    if encoder is not None and pretrainer is not None:
        raise ValueError(
            "encoder and pretrainer were both given; expected at most one of them."
        )
    if not is_main():
        output = None
    if output is not None:
        output = Path(output)
        if output.suffix != ".npy":
            raise ValueError(f"{output}: expected a name that ends in .npy.")
        _check_output(output, overwrite)
        _check_output(output.with_suffix(".csv"), overwrite)
    fitted = None if encoder is None else _fitted(encoder)
    particles = _read(source, reading)
    if fitted is not None:
        _check_encoder(particles, fitted)
    if output is not None and overwrite:
        _check_not_input(
            (output, output.with_suffix(".csv")), _files(source, particles, reading)
        )
    if fitted is None:
        fitted = pretrain_encoder(particles, pretrainer=pretrainer)
    if output is None:
        embeddings = fitted.transform(particles.volumes)
    else:
        embeddings = _write_embeddings(output, fitted, particles.volumes)
        _write_names(output.with_suffix(".csv"), particles.names)
    return EmbeddedParticles(embeddings, particles.names, fitted)


@dataclass(frozen=True)
class ClassifiedParticles:
    """Particles with the classes they were given.

    Attributes
    ----------
    names : ndarray of str, shape (n,)
        The particles' names, in the order of the input.
    labels : ndarray of object, shape (n,)
        The labels that were given; empty for unlabelled particles.
    classes : ndarray of object, shape (n,)
        The most probable class of each particle, labelled ones included.
    class_numbers : ndarray of int, shape (n,)
        Its number from 1, in the sorted order of the classes, as ``rlnClassNumber``
        has it.
    probabilities : ndarray of shape (n,)
        Its probability.
    classifier : SubtomogramClassifier
        The fitted classifier, whose ``predict_proba`` has the other classes'.
    embeddings : ndarray of shape (n, n_embedding) or None
        Embeddings by the pretrainer, before fine-tuning, if they were asked for.
    star : StarFile or None
        The STAR file with the classes in it, if the particles are from one.
    """

    names: NDArray[np.str_]
    labels: NDArray[np.object_]
    classes: NDArray[np.object_]
    class_numbers: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    classifier: SubtomogramClassifier
    embeddings: NDArray[np.float32] | None = None
    star: StarFile | None = None

    def summary(self) -> str:
        """Return a table of the classes.

        Returns
        -------
        str
            For each class its number, how many particles were labelled with it, how
            many were given it and their mean probability.
        """
        classes = self.classifier.classes_
        width = max(5, *(len(name) for name in classes))
        lines = [f"number  {'class':{width}}  labelled  assigned  mean probability"]
        for number, name in enumerate(classes, 1):
            chosen = self.class_numbers == number
            mean = f"{self.probabilities[chosen].mean():.2f}" if chosen.any() else "-"
            lines.append(
                f"{number:6}  {name:{width}}  {(self.labels == name).sum():8}  "
                f"{chosen.sum():8}  {mean:>16}"
            )
        return "\n".join(lines)


def classify_particles(
    source: Source,
    labels: PathLike | Sequence[str | None] | None = None,
    *,
    labels_column: str | None = None,
    classifier: SubtomogramClassifier | None = None,
    encoder: PathLike | ContrastivePretrainer | None = None,
    embeddings: bool = False,
    output: PathLike | None = None,
    model: PathLike | None = None,
    overwrite: bool = False,
    **reading: Any,
) -> ClassifiedParticles:
    """Classify particles of which a few are labelled.

    All particles are pretrained on (unless an encoder is given), the labelled ones are
    fine-tuned on, and all are given a class, the labelled ones included: theirs is
    what the classifier says, which may differ from the label.

    Parameters
    ----------
    source : path, sequence of paths, or Subtomograms
        The particles: whatever :func:`~sksubtomo.io.read_volumes` reads, or what it
        returned.
    labels : path or sequence of str, default=None
        A CSV file with the columns ``particle`` and ``label``, or a label for each
        particle. In the file, particles are called what the STAR file calls them
        (``rlnImageName``); from other sources ``000003@stack.mrc``, or the name of
        their file. A particle that is missing, or whose label is empty (None or NaN in
        a sequence), is unlabelled. Labels are text of at most 200 characters: "001" and
        "nan" are labels like others.
    labels_column : str, default=None
        The column that has the labels, if they are in a STAR file: in the one that is
        given as `labels`, or in the particles' own.
    classifier : SubtomogramClassifier, default=None
        What to fit; it is cloned. None is `default_classifier`.
    encoder : path or ContrastivePretrainer, default=None
        Folder of a saved pretrainer, or a fitted one, to start from. None pretrains as
        the classifier says.
    embeddings : bool, default=False
        Whether embeddings by the pretrainer are returned, and written as columns.
    output : path, default=None
        STAR file to write: that of the input with every block and column kept, or a
        new one for particles from other files, which are named as seen from its folder.
        Added are ``rlnClassNumber`` (an older
        one moves to ``sksubtomoPreviousClassNumber``), ``sksubtomoClass``,
        ``sksubtomoProbability`` (of that class) and, with `embeddings`,
        ``sksubtomoEmbedding1`` and so on. None writes nothing.
    model : path, default=None
        Folder to save the fitted classifier in.
    overwrite : bool, default=False
        Whether a file or model that is there already may be replaced. `output` may
        then be the STAR file of the input, but no other input.
    **reading
        Further arguments of :func:`~sksubtomo.io.read_volumes`, such as `voxel_size`
        or `invert_contrast`.

    Returns
    -------
    ClassifiedParticles
        Classes, probabilities, names and the fitted classifier.

    Raises
    ------
    ValueError
        If the particles, their labels, the encoder, the output or a parameter is not
        acceptable.
    FileExistsError
        If a file or model is there already and `overwrite` is False.

    Warns
    -----
    UserWarning
        If the STAR file's names of the volumes are relative, and not found from the
        folder of `output`; or if the particles are unlike those of the encoder, as
        `embed_particles` says.

    Examples
    --------
    >>> import numpy as np
    >>> from sksubtomo.datasets import make_subtomograms
    >>> from sksubtomo.io import Subtomograms
    >>> from sksubtomo.workflows import classify_particles, default_classifier
    >>> X, y = make_subtomograms(n_per_class=2, size=8, random_state=0,
    ...                          return_X_y=True)
    >>> particles = Subtomograms(X, voxel_size=10, names=np.arange(20).astype(str))
    >>> labels = ["proteasome", "ribosome"] + [None] * 18
    >>> classifier = default_classifier(max_epochs=1, pretrainer__max_epochs=1)
    >>> result = classify_particles(particles, labels, classifier=classifier)
    >>> result.classifier.classes_
    array(['proteasome', 'ribosome'], dtype=object)
    >>> len(result.classes), set(result.class_numbers) <= {1, 2}
    (20, True)
    """
    classifier = _prepare(classifier, encoder)
    if not is_main():
        output = model = None
    if embeddings and classifier.pretrainer is None:
        raise ValueError(
            "embeddings=True, but the classifier has no pretrainer, which would embed "
            "the particles."
        )
    if output is not None:
        _check_output(Path(output), overwrite)
    if model is not None:
        _check_model_output(classifier, Path(model), overwrite)
        _check_apart(output, Path(model))
    origin = "labels"
    if labels is None:
        labels = _own_labels(source, labels_column)
    elif isinstance(labels, (str, Path)):
        _check_labels_file(Path(labels))
        # One that has the particles as well may be replaced as the input may.
        if output is not None and not _is_same(labels, _star_of(source)):
            _check_not_input([Path(output)], [Path(labels)])
    if isinstance(labels, (str, Path)):
        origin = str(labels)
    # This may take minutes.
    particles = _read(source, reading)
    if output is not None:
        if overwrite:
            _check_not_input([Path(output)], _files(source, particles, reading))
        _warn_of_folder(particles, Path(output))
    y = _labels_of(particles, labels, labels_column)
    _check_classes(y, origin)
    if isinstance(classifier.pretrainer, FrozenEstimator):
        _check_encoder(particles, classifier.pretrainer.estimator)

    classifier.fit(particles.volumes, y)
    probabilities = classifier.predict_proba(particles.volumes)
    best = probabilities.argmax(axis=1)
    result = ClassifiedParticles(
        names=particles.names,
        labels=y,
        classes=classifier.classes_[best],
        class_numbers=best + 1,
        probabilities=probabilities.max(axis=1),
        classifier=classifier,
        embeddings=(
            classifier.pretrainer_.transform(particles.volumes) if embeddings else None
        ),
    )
    names: NDArray[Any] = result.names
    if output is not None:
        references = _references(source, particles, reading)
        if references is not None:
            names = _names_from(Path(output).parent, references)
    # What was asked for comes first, should the disk be full.
    result = _write_classes(particles, result, names, output)
    if model is not None:
        classifier.save(model)
    return result


def _read(source: Source, reading: dict[str, Any]) -> Subtomograms:
    if not isinstance(source, Subtomograms):
        return open_subtomograms(source, **reading)
    if reading:
        raise TypeError(
            f"{sorted(reading)} cannot be given with particles that are read already."
        )
    return source


def _fitted(encoder: PathLike | ContrastivePretrainer) -> ContrastivePretrainer:
    if not isinstance(encoder, ContrastivePretrainer):
        return ContrastivePretrainer.load(encoder)
    check_is_fitted(encoder)
    return encoder


def _prepare(
    classifier: SubtomogramClassifier | None,
    encoder: PathLike | ContrastivePretrainer | None,
) -> SubtomogramClassifier:
    """Return an unfitted classifier that knows the mark of unlabelled particles."""
    start = {} if encoder is None else {"pretrainer": FrozenEstimator(_fitted(encoder))}
    if classifier is None:
        classifier = default_classifier(**start)
    if not isinstance(classifier, SubtomogramClassifier):
        raise TypeError(
            f"classifier is of type {type(classifier).__name__}; expected a "
            "SubtomogramClassifier, such as RB3DClassifier."
        )
    return clone(classifier).set_params(unlabeled=_UNLABELED, **start)


def _star_of(source: Source) -> PathLike | None:
    """Return the STAR file that the particles come from, if they do."""
    if isinstance(source, Subtomograms):
        return None if source.particles is None else source.particles.path
    if isinstance(source, (str, Path)) and Path(source).suffix.lower() == ".star":
        return source
    return None


def _references(
    source: Source, particles: Subtomograms, reading: dict[str, Any]
) -> NDArray[np.str_] | None:
    """Return where the volumes are, unless a STAR file says so or it is not known."""
    if isinstance(source, Subtomograms) or particles.particles is not None:
        return None
    named = {"dataset", "allow_image_stacks"} & reading.keys()
    return list_references(source, **{name: reading[name] for name in named})


def _files(
    source: Source, particles: Subtomograms, reading: dict[str, Any]
) -> set[Path]:
    """Return the files that the volumes are in, as far as they are known."""
    references = _references(source, particles, reading)
    if references is not None:
        return {parse_reference(str(reference)).path for reference in references}
    if particles.particles is None:
        return set()
    folder = particles.particles.path.parent
    names = {name.partition("@")[2] or name for name in map(str, particles.names)}
    return {path for name in names if (path := find_image(name, folder)) is not None}


def _names_from(folder: Path, references: NDArray[np.str_]) -> NDArray[np.object_]:
    """Name volumes as they are seen from a folder."""
    folder = folder.resolve()

    @cache
    def name(path: Path) -> str:
        # A link may have another suffix than what it points to.
        path = path.parent.resolve() / path.name
        # On another drive there is no way from here to there.
        with suppress(ValueError):
            return os.path.relpath(path, folder)
        return str(path)

    names = np.empty(len(references), dtype=object)
    for i, reference in enumerate(map(parse_reference, map(str, references))):
        number = "" if reference.index is None else f"{reference.index + 1:06d}@"
        names[i] = number + name(reference.path)
    return names


def _check_encoder(particles: Subtomograms, encoder: ContrastivePretrainer) -> None:
    """Refuse particles of another shape; warn of another voxel size or intensity."""
    _check_shape(particles, encoder)
    known, found = getattr(encoder, "voxel_size_", None), particles.voxel_size
    if (
        known is not None
        and found is not None
        and abs(found / known - 1) > _VOXEL_SIZE_TOLERANCE
    ):
        warnings.warn(
            f"the encoder was trained at a voxel size of {known:g} angstroms, but the "
            f"particles have {found:g}; extract them at the same voxel size, or "
            "pretrain an encoder on them.",
            UserWarning,
            stacklevel=3,
        )
    if encoder.normalize != "dataset":
        return
    rows = np.linspace(0, len(particles) - 1, _MAX_INTENSITY_VOLUMES).round()
    sample = particles.volumes[np.unique(rows.astype(int))]
    old = encoder.normalizer_
    new = Normalizer.fit(sample, "dataset", "sphere" if old.mask else None)
    if abs(new.mean - old.mean) > old.scale / 2 or not (
        old.scale / 2 <= new.scale <= old.scale * 2
    ):
        warnings.warn(
            "the intensities of the particles are far from those the encoder was "
            f"trained on: mean {new.mean:.3g} and standard deviation {new.scale:.3g}, "
            f"not {old.mean:.3g} and {old.scale:.3g}. Bring them to the same scale, or "
            "pretrain an encoder on them or with normalize='volume'.",
            UserWarning,
            stacklevel=3,
        )


def _check_shape(particles: Subtomograms, encoder: ContrastivePretrainer) -> None:
    found = particles.volumes.shape[1:]
    if found != encoder.volume_shape_:
        raise ValueError(
            f"the encoder was trained on volumes of shape {encoder.volume_shape_}, but "
            f"the particles have shape {found}; extract them at the same size and "
            "voxel size, or pretrain an encoder on them."
        )


def _own_labels(source: Source, column: str | None) -> PathLike:
    """Return the STAR file of the particles, which has their labels."""
    if column is None:
        raise ValueError(
            "labels: there are none; expected a file (labels=, --labels), or a column "
            "of the STAR file (labels_column=, --labels-column)."
        )
    star = _star_of(source)
    if star is None:
        raise ValueError(
            f"labels_column={column!r} was given without labels, but the particles are "
            "not from a STAR file."
        )
    return star


def _check_labels_file(path: Path) -> None:
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; expected a CSV or STAR file of labels.")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file.")


def _labels_of(
    particles: Subtomograms, labels: PathLike | Sequence[str | None], column: str | None
) -> NDArray[np.object_]:
    """Return the label of each particle, empty if it has none."""
    if isinstance(labels, (str, Path)):
        found = _read_labels(particles, Path(labels), column)
    elif column is not None:
        raise ValueError(
            f"labels_column={column!r} was given with labels that are not in a file."
        )
    else:
        found = np.array(labels, dtype=object)
        if found.shape != particles.names.shape:
            raise ValueError(
                f"labels: has shape {found.shape}; expected {particles.names.shape}, "
                "one for each particle."
            )
    # Of objects: where all texts are as wide as the longest, they may fill the memory.
    y = np.full(len(found), _UNLABELED, dtype=object)
    for i, label in enumerate(found):
        if is_missing(label):
            continue
        if not isinstance(label, str):
            raise TypeError(
                f"labels: has {label!r} of type {type(label).__name__}; expected "
                "text, or None for an unlabelled particle."
            )
        if len(label) > _MAX_LABEL:
            raise ValueError(
                f"labels: has {shorten(label)} of {len(label)} characters; expected at "
                f"most {_MAX_LABEL}."
            )
        y[i] = str(label)
    return y


def _read_labels(
    particles: Subtomograms, path: Path, column: str | None
) -> NDArray[np.object_]:
    names = [str(name) for name in particles.names]
    try:
        return read_labels(path, names, labels_column=column)
    except ValueError:
        # Files that were found in a folder may be named without it.
        short = [Path(name).name for name in names]
        if particles.particles is not None or len(set(short)) < len(short):
            raise
        with suppress(ValueError):
            return read_labels(path, short, labels_column=column)
        raise


def _check_classes(y: NDArray[np.object_], origin: str) -> None:
    classes, counts = np.unique(y[y != _UNLABELED], return_counts=True)
    if len(classes) < 2:
        found = ", ".join(
            f"{shorten(name)} ({count})"
            for name, count in zip(classes, counts, strict=True)
        )
        raise ValueError(
            f"{origin}: has {counts.sum()} labelled particles of {len(y)}, of the "
            f"classes {found or '(none)'}; expected at least two classes."
        )
    # What no STAR file can hold, such as a label with a line end.
    format_values("sksubtomoClass", classes)


def _check_output(path: Path, overwrite: bool) -> None:
    # These do not stumble over names that cannot be, which are refused below.
    if os.path.isdir(path):
        raise ValueError(f"{path}: is a folder; expected the name of a file.")
    if os.path.exists(path) and not overwrite:
        raise already_there(path)
    if not os.path.isdir(path.parent):
        raise FileNotFoundError(f"{path.parent}: there is no such folder.")
    check_writable(path)


def _check_model_output(
    estimator: SavedModelMixin, folder: Path, overwrite: bool
) -> None:
    check_saveable(estimator, folder)
    if check_model_folder(folder) and not overwrite:
        raise already_there(folder)


def _check_apart(output: PathLike | None, model: Path) -> None:
    """Refuse to write the STAR file and the model into each other."""
    if output is None:
        return
    file, folder = Path(output).resolve(), model.resolve()
    if folder in (file, file.parent) or file in folder.parents:
        raise ValueError(
            f"{model}: is to be the folder of the model, but the output is {output}; "
            "expected two places."
        )


def _check_not_input(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    replaced = {output.resolve(): output for output in outputs if output.exists()}
    for file in inputs if replaced else ():
        output = replaced.get(file.resolve())
        if output is not None:
            raise ValueError(
                f"{output}: is an input, which would be lost; expected another name."
            )


def _is_same(one: PathLike, other: PathLike | None) -> bool:
    return other is not None and Path(one).resolve() == Path(other).resolve()


def _warn_of_folder(particles: Subtomograms, output: Path) -> None:
    """Warn if the names of the volumes will lead nowhere from the output's folder."""
    name = str(particles.names[0])
    file = name.partition("@")[2] or name
    if (
        particles.particles is not None
        and find_image(file, output.parent) is None
        and find_image(file, particles.particles.path.parent) is not None
    ):
        warnings.warn(
            f"{output}: will name its volumes as {particles.particles.path} does, such "
            f"as {name}, which is not found from its folder. Write it into the folder "
            f"{particles.particles.path.parent} to find them.",
            UserWarning,
            stacklevel=3,
        )


def _write_embeddings(
    path: Path, encoder: ContrastivePretrainer, volumes: Any
) -> NDArray[np.float32]:
    """Write embeddings block by block, and return them mapped from the file."""

    def write(beside: Path) -> None:
        shape = (len(volumes), len(encoder.get_feature_names_out()))
        embeddings = np.lib.format.open_memmap(beside, "w+", np.float32, shape)
        # Where nothing is left of the disk, writing into a map ends the process.
        if hasattr(os, "posix_fallocate"):
            with beside.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, beside.stat().st_size)
        encoder.transform(volumes, out=embeddings)
        embeddings.flush()

    write_atomically(path, write)
    embeddings: NDArray[np.float32] = np.load(path, mmap_mode="r")
    return embeddings


def _write_names(path: Path, names: NDArray[np.str_]) -> None:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["particle"])
    writer.writerows([name] for name in names)
    write_text(path, text.getvalue())


def _write_classes(
    particles: Subtomograms,
    result: ClassifiedParticles,
    names: NDArray[Any],
    output: PathLike | None,
) -> ClassifiedParticles:
    """Return the result with its STAR file, which is written if it has a name.

    `names` are those of the volumes in a STAR file that is not the input's.
    """
    if particles.particles is not None:
        star = particles.particles.with_classes(
            result.class_numbers,
            result.classes,
            result.probabilities,
            result.embeddings,
        )
        if output is not None:
            star.write(output)
        return replace(result, star=star)
    if output is not None:
        optics: dict[str, Any] = {"rlnImageSize": particles.volumes.shape[-1]}
        if particles.voxel_size is not None:
            optics["rlnImagePixelSize"] = particles.voxel_size
        columns: dict[str, Any] = {
            "rlnImageName": names,
            "rlnClassNumber": result.class_numbers,
            "sksubtomoClass": result.classes,
            "sksubtomoProbability": [f"{value:.6f}" for value in result.probabilities],
        }
        if result.embeddings is not None:
            for k, values in enumerate(result.embeddings.T, 1):
                columns[f"sksubtomoEmbedding{k}"] = values
        write_particles(output, columns, optics=optics)
    return result
