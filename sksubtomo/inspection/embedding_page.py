"""The map of an embedding as a page for the browser."""

from __future__ import annotations

import base64
import json
import math
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.resources import files
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numpy.typing import NDArray

from sksubtomo._files import write_atomically
from sksubtomo._labels import is_missing
from sksubtomo._stored import StoredVolumes, is_stored
from sksubtomo.inspection._arrays import as_column, principal_plane
from sksubtomo.inspection._html import escape, png
from sksubtomo.inspection._matplotlib import CLASS_COLORS
from sksubtomo.io._outputs import already_there
from sksubtomo.io.particles import ParticleTable, read_particles
from sksubtomo.io.star import format_values

# Up to this many particles the default pictures are large.
_MANY = 20_000
_LARGE, _SMALL = 32, 16

# Pictures are decoded an atlas of about this width and height at a time.
_ATLAS_SIDE = 1024

# Volumes that are read at a time where only whole ones can be.
_BLOCK_BYTES = 1 << 25

# Columns that the exported CSV has already.
_OWN_COLUMNS = ("index", "name", "class", "x", "y")

_NO_STAR = "No STAR file can be saved: this page was made without names and STAR file."


def write_embedding_page(
    path: str | Path,
    embedding: npt.ArrayLike,
    *,
    projection: str | npt.ArrayLike = "pca",
    volumes: Any = None,
    labels: Sequence[Any] | npt.ArrayLike | None = None,
    values: Mapping[str, Any] | None = None,
    names: Sequence[str] | npt.ArrayLike | None = None,
    star: str | Path | None = None,
    title: str = "Map of the embedding",
    thumbnail_size: int | None = None,
    max_thumbnails: int = 100_000,
    percentiles: tuple[float, float] = (1.0, 99.0),
    overwrite: bool = False,
) -> None:
    """Write the map of an embedding as one HTML file, to look at and select from.

    The file holds all that it shows, and opens in any browser of 2023 or later without
    a network. It pans and zooms; shows the name, the values and a picture of the
    particle under the mouse; colours by class or by another column and hides classes;
    selects by rectangle, lasso or name; and saves the selection as CSV or STAR.

    Parameters
    ----------
    path : str or Path
        The file to make. Its folder has to exist.
    embedding : array-like of shape (n, n_features)
        Embeddings of at least two particles, at least two features. Two features are
        drawn as they are.
    projection : "pca" or array-like of shape (n, 2), default="pca"
        How more features become a map: their two principal components, or the places
        that another method, such as UMAP, has given the particles.
    volumes : array-like of shape (n, depth, height, width), default=None
        The particles. Their central z slices become the pictures, with y pointing up.
        A memory map and arrays of h5py and Zarr are read in pieces, of a memory map
        only those slices. None means no pictures.
    labels : array-like of shape (n,), default=None
        The class of each particle. None and NaN in it, and empty text, mean that it is
        not known. Colours and shapes are those of :class:`EmbeddingDisplay`.
    values : mapping of str to array-like of shape (n,), default=None
        Further columns by their names, such as a probability or the tomogram; a data
        frame of pandas is one. Integers and floats are numbers and have a colour bar;
        all else is text, and has a legend as the classes have. A column that is
        None, such as the tomograms of particles whose file names none, is left out.
    names : array-like of shape (n,), default=None
        The particles' names. None takes ``rlnImageName``, or else
        ``rlnTomoParticleName``, of `star`.
    star : str or Path, default=None
        The STAR file whose particles these are, in its order. It is put into the page,
        which saves a selection as this file without the rows of the other particles;
        everything else in it is kept to the byte. None lets it save a new STAR file
        of names only, ``rlnImageName``.
    title : str, default="Map of the embedding"
        Title of the page.
    thumbnail_size : int, default=None
        Longest side of a picture in pixels. Larger slices are averaged down to it,
        smaller ones are taken as they are. None means 32 for up to 20,000 particles and
        16 for more.
    max_thumbnails : int, default=100_000
        Most pictures. If there are more particles, only as many, evenly spaced, have
        one.
    percentiles : tuple of float, default=(1.0, 99.0)
        Percentiles of each picture that become black and white, so that brightness
        cannot be compared between pictures.
    overwrite : bool, default=False
        Whether a file that is there already may be replaced.

    Raises
    ------
    FileExistsError
        If there is such a file already and `overwrite` is False.
    FileNotFoundError
        If there is no such STAR file, or no folder for the page.
    ValueError
        If lengths do not fit, or a value of `embedding` or `volumes` is not finite.

    See Also
    --------
    sksubtomo.workflows.embed_particles : Makes embeddings of particles in files.
    EmbeddingDisplay : Draws a figure.

    Notes
    -----
    A picture of 16 x 16 pixels takes about a third of a kilobyte, and one of 32 x 32
    about 1.3 kB: noise can hardly be compressed. Coordinates are kept in single
    precision.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from sksubtomo.inspection import write_embedding_page
    >>> rng = np.random.default_rng(0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     page = Path(folder, "map.html")
    ...     write_embedding_page(
    ...         page,
    ...         rng.normal(size=(20, 5)),
    ...         volumes=rng.normal(size=(20, 8, 8, 8)),
    ...         labels=["ribosome", "proteasome"] * 10,
    ...         values={"probability": rng.uniform(size=20)},
    ...     )
    ...     page.read_text("utf-8").startswith("<!DOCTYPE html>")
    True
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise already_there(path)
    places, axes = _project(embedding, projection)
    n = len(places)
    table = None if star is None else _read_star(star, n)
    if names is None and table is not None:
        names = _names_of(table)
    pictures = None
    if volumes is not None:
        pictures = _Pictures(volumes, n, thumbnail_size, max_thumbnails, percentiles)
    texts = None if names is None else _as_texts("names", names, n)
    data = _Data()
    content = {
        "count": n,
        "file": path.stem,
        "axes": axes,
        "colors": CLASS_COLORS,
        "places": [data.add(column) for column in places.T],
        "names": texts,
        "columns": _columns(labels, values, n, data),
        "pictures": None if pictures is None else pictures.describe(data),
        "star": _describe_star(table, texts, data),
    }
    parts: dict[str, Callable[[], Iterator[str]]] = {
        "title": lambda: iter([escape(str(title))]),
        "style": lambda: iter([_template("page.css")]),
        "script": lambda: iter([_template("page.js")]),
        "data": lambda: iter([data.pack(content)]),
        "atlases": lambda: iter(()) if pictures is None else pictures.scripts(),
    }
    # Names in braces by turns with the text between them.
    pieces = re.split(r"\{\{(\w+)\}\}", _template("page.html"))

    def write(beside: Path) -> None:
        with beside.open("w", encoding="utf-8", newline="\n") as file:
            for k, piece in enumerate(pieces):
                file.writelines(parts[piece]() if k % 2 else [piece])

    write_atomically(path, write)


def _template(name: str) -> str:
    return (files("sksubtomo.inspection") / "_page" / name).read_text("utf-8").rstrip()


def _project(
    embedding: npt.ArrayLike, projection: str | npt.ArrayLike
) -> tuple[NDArray[np.float32], list[str]]:
    """Return the place of each particle on the map, and the names of the axes."""
    features = np.asarray(embedding)
    if features.ndim != 2 or features.shape[1] < 2 or len(features) < 2:
        raise ValueError(
            f"embedding: has shape {features.shape}; expected (n, n_features) with at "
            "least two rows and two features."
        )
    if not isinstance(projection, str):
        places = np.asarray(projection)
        if places.shape != (len(features), 2):
            raise ValueError(
                f"projection: has shape {places.shape}; expected "
                f"({len(features)}, 2), a place for each row of embedding, or 'pca'."
            )
        return _single("projection", places), ["Dimension 1", "Dimension 2"]
    if projection != "pca":
        raise ValueError(
            f"projection: is {projection!r}; expected 'pca' or an array of shape "
            "(n, 2)."
        )
    _single("embedding", features)
    places, axes = principal_plane(features)
    return _single("embedding", places), list(axes)


def _single(parameter: str, array: NDArray[Any]) -> NDArray[np.float32]:
    """Return numbers in the precision of the page."""
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{parameter}: has dtype {array.dtype}; expected numbers.")
    with np.errstate(over="ignore"):
        single = array.astype(np.float32)
    if not np.isfinite(single).all():
        raise ValueError(
            f"{parameter}: holds NaN, infinity or values beyond single precision; "
            "expected finite values."
        )
    return single


class _Data:
    """Arrays one after another, as the page reads them."""

    def __init__(self) -> None:
        self._arrays: list[bytes] = []
        self._length = 0

    def add(self, array: NDArray[Any]) -> tuple[str, int, int]:
        """Append an array, and return how the page finds it."""
        little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        content = little.tobytes()
        # What a browser reads as numbers begins at a multiple of their size.
        content += bytes(-len(content) % 8)
        place = (little.dtype.str[1:], self._length, little.size)
        self._arrays.append(content)
        self._length += len(content)
        return place

    def pack(self, header: Mapping[str, Any]) -> str:
        """Return a header and the arrays, compressed, as text."""
        # The code of half a surrogate pair, which UTF-8 has not, is JSON's.
        content = json.dumps(header).encode("ascii")
        length = len(content).to_bytes(4, "little")
        content += bytes(-(len(content) + 4) % 8)
        packed = zlib.compress(b"".join([length, content, *self._arrays]), 6)
        return base64.b64encode(packed).decode("ascii")


def _as_texts(parameter: str, column: Any, n: int) -> list[str]:
    """Return the values of a column as text, empty where there is none."""
    return [
        "" if is_missing(value) else str(value)
        for value in _as_column(parameter, column, n).tolist()
    ]


def _as_column(parameter: str, column: Any, n: int) -> NDArray[Any]:
    array = as_column(column)
    if array.shape != (n,):
        raise ValueError(
            f"{parameter}: has shape {array.shape}; expected ({n},), one value for "
            "each row of embedding."
        )
    return array


def _columns(
    labels: Any, values: Mapping[str, Any] | None, n: int, data: _Data
) -> list[dict[str, Any]]:
    """Describe the class and the further columns of the particles."""
    columns = []
    if labels is not None:
        columns.append(_text_column("class", _as_column("labels", labels, n), data))
    # A data frame is no Mapping, but has the names and columns of one.
    if values is not None and not hasattr(values, "items"):
        raise ValueError(
            f"values: is a {type(values).__name__}; expected a mapping of names to "
            "columns."
        )
    for name, column in (values or {}).items():
        if column is None:
            continue
        name = str(name)
        if name in _OWN_COLUMNS:
            raise ValueError(
                f"values: has a column {name!r}; expected another name, for the "
                f"exported CSV has columns {', '.join(_OWN_COLUMNS)} of its own."
            )
        array = _as_column(f"values[{name!r}]", column, n)
        if array.dtype.kind in "iuf":
            columns.append({"name": name, "array": data.add(_compact(array))})
        else:
            columns.append(_text_column(name, array, data))
    return columns


def _text_column(name: str, array: NDArray[Any], data: _Data) -> dict[str, Any]:
    """Describe a column of texts by the different ones, sorted, and their codes."""
    texts = _as_texts(name, array, len(array))
    if array.dtype.kind in "iuf":
        # In the order of the numbers, with what is none at the end.
        order = [str(value) for value in np.unique(array).tolist() if value == value]
        order += [""] if "" in texts else []
    else:
        # What is none comes last, and leaves the colours of the others as they are.
        order = sorted(set(texts), key=lambda text: (text == "", text))
    codes = {text: code for code, text in enumerate(order)}
    coded = np.array([codes[text] for text in texts])
    return {"name": name, "texts": order, "array": data.add(_compact(coded))}


def _compact(array: NDArray[Any]) -> NDArray[Any]:
    """Return the same numbers in the smallest type that the page reads."""
    if array.dtype.kind == "f":
        is_single = array.dtype.itemsize <= 4
        return array.astype(np.float32 if is_single else np.float64)
    for dtype in (np.uint8, np.uint16, np.uint32, np.int32):
        limits = np.iinfo(dtype)
        if limits.min <= array.min() and array.max() <= limits.max:
            return array.astype(dtype)
    return array.astype(np.float64)


class _Pictures:
    """Central slices of the particles, side by side in atlases."""

    def __init__(
        self,
        volumes: Any,
        n: int,
        size: int | None,
        max_thumbnails: int,
        percentiles: tuple[float, float],
    ) -> None:
        if is_stored(volumes) and not isinstance(volumes, (np.ndarray, StoredVolumes)):
            volumes = StoredVolumes(volumes, tuple(volumes.shape[1:]))
        elif not isinstance(volumes, StoredVolumes):
            # Slices of the class memmap are slow to make.
            volumes = np.asarray(volumes)
        shape = volumes.shape
        if len(shape) != 4 or len(volumes) != n or 0 in shape:
            raise ValueError(
                f"volumes: have shape {shape}; expected ({n}, depth, height, width), "
                "one for each row of embedding."
            )
        if size is None:
            size = _LARGE if n <= _MANY else _SMALL
        for name, value in (
            ("thumbnail_size", size),
            ("max_thumbnails", max_thumbnails),
        ):
            if not isinstance(value, Integral) or value < 1:
                raise ValueError(
                    f"{name}: is {value!r}; expected an integer of at least 1."
                )
        low, high = percentiles
        if not 0 <= low < high <= 100:
            raise ValueError(
                f"percentiles: is {percentiles}; expected two numbers from 0 to 100, "
                "the smaller one first."
            )
        self._volumes = volumes
        self._percentiles = percentiles
        shrink = min(1.0, size / max(shape[2:]))
        self._shape = tuple(max(1, round(side * shrink)) for side in shape[2:])
        self._rows = np.arange(n)
        if n > max_thumbnails:
            self._rows = np.linspace(0, n - 1, max_thumbnails).round().astype(np.intp)
        self._across = max(1, _ATLAS_SIDE // self._shape[1])
        self._per_atlas = self._across * max(1, _ATLAS_SIDE // self._shape[0])

    def describe(self, data: _Data) -> dict[str, Any]:
        """Describe where the picture of a particle is."""
        is_complete = len(self._rows) == len(self._volumes)
        return {
            "height": self._shape[0],
            "width": self._shape[1],
            "across": self._across,
            "perAtlas": self._per_atlas,
            "rows": None if is_complete else data.add(_compact(self._rows)),
        }

    def scripts(self) -> Iterator[str]:
        """Yield the atlases as elements of the page."""
        for start in range(0, len(self._rows), self._per_atlas):
            rows = self._rows[start : start + self._per_atlas]
            content = base64.b64encode(png(self._atlas(rows))).decode("ascii")
            number = start // self._per_atlas
            yield f'<script type="text/plain" id="atlas{number}">{content}</script>\n'

    def _atlas(self, rows: NDArray[np.intp]) -> NDArray[np.uint8]:
        height, width = self._shape
        down = math.ceil(len(rows) / self._across)
        pictures = np.zeros((down * self._across, height, width), np.uint8)
        step = max(1, _BLOCK_BYTES // (4 * math.prod(self._volumes.shape[1:])))
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            pictures[start : start + len(part)] = self._pictures(part)
        tiles = pictures.reshape(down, self._across, height, width)
        return tiles.transpose(0, 2, 1, 3).reshape(down * height, -1)

    def _pictures(self, rows: NDArray[np.intp]) -> NDArray[np.uint8]:
        """Return grey pictures of volumes, the first row at the top."""
        middle = self._volumes.shape[1] // 2
        if isinstance(self._volumes, StoredVolumes):
            found = self._volumes.take(rows)[:, middle]
        else:
            found = self._volumes[rows, middle]
        slices = torch.from_numpy(np.asarray(found, np.float32))
        is_finite = slices.isfinite().flatten(1).all(1)
        if not is_finite.all():
            first = rows[int(is_finite.int().argmin())]
            raise ValueError(
                f"volumes: volume {first} has NaN or infinity in its central slice; "
                "expected finite values."
            )
        # Along y, the bottom of a volume is its first row.
        small = torch.nn.functional.interpolate(
            slices[:, None].flip(2), size=self._shape, mode="area"
        )[:, 0].numpy()
        low, high = np.percentile(small, self._percentiles, axis=(1, 2), keepdims=True)
        scale = np.where(high > low, high - low, 1)
        grey = np.where(high > low, (small - low) / scale, 0.5)
        return (255 * np.clip(grey, 0, 1)).round().astype(np.uint8)


def _read_star(star: str | Path, n: int) -> ParticleTable:
    table = read_particles(star)
    if len(table) != n:
        raise ValueError(
            f"star: {table.path} has {len(table)} particles, but embedding has {n} "
            "rows; expected one for each particle, in the file's order."
        )
    return table


def _names_of(table: ParticleTable) -> list[str] | None:
    for tag in ("rlnImageName", "rlnTomoParticleName"):
        if tag in table.loop:
            return table.loop.column(tag)
    return None


def _describe_star(
    table: ParticleTable | None, names: list[str] | None, data: _Data
) -> dict[str, Any]:
    """Describe the text of a STAR file, and which parts of it are the particles.

    Each particle has the number of bytes that it takes, and of those between it and the
    one before it.
    """
    if table is not None:
        chunks = list(_star_chunks(table))
    elif names is None:
        return {"note": _NO_STAR}
    else:
        try:
            tokens = format_values("rlnImageName", names)
        except ValueError as error:
            return {"note": f"No STAR file can be saved: {error}"}
        head = "\n# version 50001\n\ndata_particles\n\nloop_\n_rlnImageName #1\n"
        chunks = [(head, False), *((f"{token}\n", True) for token in tokens)]
    gaps, rows, gap = [], [], 0
    for chunk, is_row in chunks:
        # Most of a file is ASCII.
        length = len(chunk) if chunk.isascii() else len(chunk.encode("utf-8"))
        gap += length
        if is_row:
            rows.append(length)
            gaps.append(gap - length)
            gap = 0
    text = "".join(chunk for chunk, _ in chunks).encode("utf-8")
    return {
        "note": "",
        "text": data.add(np.frombuffer(text, np.uint8)),
        "gaps": data.add(_compact(np.array(gaps))),
        "rows": data.add(_compact(np.array(rows))),
    }


def _star_chunks(table: ParticleTable) -> Iterator[tuple[str, bool]]:
    """Yield the text of a file in parts, and whether each is a particle."""
    text, loop = table.star._text, table.loop
    yield text[: loop._tags_end], False
    for chunk, spans in loop._chunks():
        yield chunk, spans != []
    yield text[loop._rows_end :], False
