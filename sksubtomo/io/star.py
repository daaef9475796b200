"""STAR files, read and written without loss."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import compress, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sksubtomo._files import write_atomically

# gemmi.cif is too strict for what the field writes: it refuses folders called data_*,
# UTF-8 outside quotes, byte order marks and two blocks of one name, calls a nameless
# block " ", and drops comments and white space. So the text itself is kept, with the
# places of the loops in it, and only the lines that change are made anew.

_BLANK = " \t\r\n"
# A comment, a quoted value (a quote in it ends it only before white space), or a bare
# one.
_TOKEN = re.compile(
    r"""\#[^\n]*+
    |'[^'\n]*(?:'(?![ \t\r\n]|\Z)[^'\n]*)*'(?=[ \t\r\n]|\Z)
    |"[^"\n]*(?:"(?![ \t\r\n]|\Z)[^"\n]*)*"(?=[ \t\r\n]|\Z)
    |[^ \t\r\n]++""",
    re.VERBOSE,
)
# Lines of text between two that begin with ";". Possessive groups would match the same,
# but go wrong before Python 3.11.5.
_FIELD = re.compile(r";[^\n]*+(?:\n(?!;)[^\n]*+)*\n;(?=[ \t\r\n]|\Z)")
_BARE = re.compile(r"[^ \t\r\n]+")
_GAP = re.compile(r"([ \t\r\n]+)")
_RESERVED = re.compile(r"(?i:data_|loop_|save_|global_|stop_)|_(?=[^ \t\r\n])")
# What a reader of CIF takes without quotes; "#" is left out for readers that end a
# line at the first one.
_NEEDS_NO_QUOTES = re.compile(r"[^\x00-\x20\x7f\s'\"#$_;][^\x00-\x20\x7f\s'\"#]*")
_CONTROL = bytes({*range(32), 127} - {9, 10, 13})


def quote(value: str) -> str:
    """Write a value as STAR wants it, in quotes if it needs them.

    Parameters
    ----------
    value : str
        The value.

    Returns
    -------
    str
        The value as it stands in a file. Double quotes are preferred, which every
        reader knows.

    Raises
    ------
    ValueError
        If the value has a line end or another control character, or no kind of quotes
        can hold it.

    Examples
    --------
    >>> from sksubtomo.io.star import quote
    >>> print(quote("ribosome"), quote("20S proteasome"), quote(""))
    ribosome "20S proteasome" ""
    """
    if (
        _NEEDS_NO_QUOTES.fullmatch(value)
        and value not in (".", "?")
        and not _RESERVED.match(value)
    ):
        return value
    if any((c < " " and c != "\t") or c == "\x7f" for c in value):
        raise ValueError(
            f"value {value!r}: has a line end or another control character; expected "
            "one line of text."
        )
    for mark in ('"', "'"):
        if mark not in value:
            return f"{mark}{value}{mark}"
    # A quote inside ends the value only before white space.
    for mark in ('"', "'"):
        if not re.search(rf"{mark}([ \t]|\Z)", value):
            return f"{mark}{value}{mark}"
    raise ValueError(
        f"value {value!r}: cannot be quoted in a STAR file, because both kinds of "
        "quotes in it stand before a space or at its end."
    )


def unquote(token: str) -> str:
    """Return the value of a token.

    Parameters
    ----------
    token : str
        A value as it stands in a file.

    Returns
    -------
    str
        The value without its quotes, or the lines between the two ";".
    """
    if token[0] in "'\"":
        return token[1:-1]
    if token[0] == ";" and "\n" in token:
        return token[1:-1].removesuffix("\n").removesuffix("\r").replace("\r\n", "\n")
    return token


def _is_plain(line: str, after: str) -> bool:
    """Tell whether white space alone separates the values of a line.

    Parameters
    ----------
    line : str
        The line.
    after : str
        First character of the next one, which may begin a text field.

    Returns
    -------
    bool
        Whether there are no quotes, comments and text fields.
    """
    return not (
        '"' in line or "'" in line or "#" in line or line[0] == ";" or after == ";"
    )


def _words(line: str, n_columns: int) -> list[str]:
    """Split a plain line at the white space of STAR, which is ASCII.

    Values beyond the columns are not told apart, so that a damaged file of one long
    line does not fill the memory.
    """
    if line.isascii():
        return line.split(None, n_columns)
    return [match[0] for match in islice(_BARE.finditer(line), n_columns + 1)]


def format_values(tag: str, values: Iterable[Any]) -> list[str]:
    """Write the values of a column as STAR wants them.

    Parameters
    ----------
    tag : str
        Name of the column, without the leading underscore.
    values : iterable
        Strings, which are quoted where they need it, or numbers: floats as the shortest
        text that gives them back, booleans as 0 and 1. None is an empty string.

    Returns
    -------
    list of str
        The values as they stand in a file.

    Raises
    ------
    ValueError
        If a value cannot be written.

    Examples
    --------
    >>> import numpy as np
    >>> from sksubtomo.io.star import format_values
    >>> format_values("rlnAngleRot", np.float32([0.1, -90]))
    ['0.1', '-90.0']
    """
    tokens = []
    for value in values:
        if isinstance(value, (float, np.floating)):
            tokens.append(str(value))
            continue
        if isinstance(value, (bool, np.bool_)):
            value = int(value)
        try:
            tokens.append(quote("" if value is None else str(value)))
        except ValueError as error:
            raise ValueError(f"column {tag}: {error}") from None
    return tokens


def check_tag(tag: str) -> None:
    """Refuse a tag that readers of STAR would not take.

    Parameters
    ----------
    tag : str
        Name of a column, without the leading underscore.

    Raises
    ------
    ValueError
        If there are other characters than printable ASCII, or ``#``, or an underscore
        at its start.
    """
    if not re.fullmatch(r"[!-~]+", tag) or "#" in tag or tag.startswith("_"):
        raise ValueError(
            f"tag {tag!r}: expected printable ASCII without white space or '#', and "
            "without the leading underscore."
        )


class Loop:  # numpydoc ignore=PR01
    """A table of a STAR file.

    Made by `read_star`.

    Attributes
    ----------
    tags : list of str
        Names of the columns in their order, without the leading underscore.
    line : int
        Line of the file at which the loop starts, from 1.
    """

    def __init__(self, source: str, text: str, start: int) -> None:
        self._source = source
        self._text = text
        self._start = start
        self.tags: list[str] = []
        # Lines of the tags in the text, and which of these each column has.
        self._tag_lines: list[tuple[int, int]] = []
        self._places: dict[str, int] = {}
        self._n_rows = 0
        # Ends of the tags and of the rows in the text; the rows begin where the tags
        # end, blank lines and comments included.
        self._tags_end = self._rows_end = start
        # Columns that differ from the text, as tokens.
        self._changed: dict[str, list[str]] = {}
        # Which rows of the text there are; None means all.
        self._kept: NDArray[np.bool_] | None = None

    @property
    def line(self) -> int:  # numpydoc ignore=RT01,SS05
        """Line of the file at which the loop starts, from 1."""
        return self._text.count("\n", 0, self._start) + 1

    def __len__(self) -> int:
        return self._n_rows

    def __contains__(self, tag: object) -> bool:
        return tag in self.tags

    def columns(self, tags: Iterable[str]) -> dict[str, list[str]]:
        """Return some columns, in one pass over the table.

        Parameters
        ----------
        tags : iterable of str
            Names of columns, without the leading underscore.

        Returns
        -------
        dict of str to list of str
            The values of each, without quotes.

        Raises
        ------
        ValueError
            If there is no such column.
        """
        tags = list(tags)
        for tag in tags:
            if tag not in self.tags:
                raise ValueError(
                    f"{self._source}, line {self.line}: the loop has no column {tag}; "
                    f"its columns are {', '.join(self.tags)}."
                )
        found = {
            tag: [unquote(token) for token in self._changed[tag]]
            for tag in tags
            if tag in self._changed
        }
        stored = [(self._places[tag], tag) for tag in tags if tag not in found]
        values: list[list[str]] = [[] for _ in stored]
        places = [index for index, _ in stored]
        if stored:
            for chunk, spans in self._chunks():
                if spans is None:
                    words = _words(chunk, len(self._tag_lines))
                    for column, place in zip(values, places, strict=True):
                        column.append(words[place])
                elif spans:
                    for column, place in zip(values, places, strict=True):
                        start, end = spans[place]
                        column.append(unquote(chunk[start:end]))
        found.update(
            {tag: column for (_, tag), column in zip(stored, values, strict=True)}
        )
        return {tag: found[tag] for tag in tags}

    def column(self, tag: str) -> list[str]:
        """Return one column.

        Parameters
        ----------
        tag : str
            Name of the column, without the leading underscore.

        Returns
        -------
        list of str
            Its values, without quotes.

        Raises
        ------
        ValueError
            If there is no such column.
        """
        return self.columns([tag])[tag]

    def set_column(self, tag: str, values: Sequence[Any]) -> None:
        """Replace a column, or append one after the last.

        Parameters
        ----------
        tag : str
            Name of the column, without the leading underscore.
        values : sequence
            One value a row: strings, which are quoted where they need it, or numbers.
            None is written as an empty string.

        Raises
        ------
        ValueError
            If the number of values is not that of rows, or the tag or a value cannot be
            written.
        """
        if tag not in self.tags:
            check_tag(tag)
        tokens = format_values(tag, values)
        if len(tokens) != self._n_rows:
            raise ValueError(
                f"column {tag}: has {len(tokens)} values; the loop at line {self.line} "
                f"of {self._source} has {self._n_rows} rows."
            )
        if tag not in self.tags:
            self.tags.append(tag)
        self._changed[tag] = tokens

    def remove_column(self, tag: str) -> None:
        """Leave a column out.

        Parameters
        ----------
        tag : str
            Name of the column, without the leading underscore.

        Raises
        ------
        ValueError
            If there is no such column, or no other.
        """
        if tag not in self.tags or len(self.tags) == 1:
            raise ValueError(
                f"column {tag}: cannot be removed from the loop at line {self.line} of "
                f"{self._source}, whose columns are {', '.join(self.tags)}."
            )
        self.tags.remove(tag)
        self._places.pop(tag, None)
        self._changed.pop(tag, None)

    def select_rows(self, rows: ArrayLike) -> None:
        """Leave all other rows out.

        Blank lines and comments between the rows stay.

        Parameters
        ----------
        rows : array-like of int or of bool
            Positions from 0 of the rows to keep, or for each row whether it is kept.
            Rows stay in the order of the file.

        Raises
        ------
        ValueError
            If a position is out of range or stands twice, or the mask has another
            length.
        """
        array = np.asarray(rows)
        chosen = np.zeros(self._n_rows, dtype=bool)
        if array.dtype == bool and array.shape == chosen.shape:
            chosen = array.copy()
        elif array.ndim == 1 and (array.dtype.kind in "iu" or not array.size):
            positions = array.astype(np.intp)
            if len(positions) and not (
                positions.min() >= 0 and positions.max() < self._n_rows
            ):
                raise ValueError(
                    f"rows: has positions from {positions.min()} to {positions.max()}; "
                    f"expected 0 to {self._n_rows - 1}."
                )
            chosen[positions] = True
            if chosen.sum() < len(positions):
                raise ValueError("rows: has a position twice; expected each once.")
        else:
            raise ValueError(
                f"rows: has shape {array.shape} and dtype {array.dtype}; expected "
                f"positions, or a mask of shape {chosen.shape}."
            )
        self._changed = {
            tag: list(compress(tokens, chosen)) for tag, tokens in self._changed.items()
        }
        if self._kept is None:
            self._kept = chosen
        else:
            kept = self._kept.copy()
            kept[self._kept] = chosen
            self._kept = kept
        self._n_rows = int(chosen.sum())

    def _copy(self) -> Loop:
        copied = Loop(self._source, self._text, self._start)
        copied.__dict__.update(self.__dict__)
        copied.tags = list(self.tags)
        copied._places = dict(self._places)
        copied._changed = dict(self._changed)
        return copied

    def _chunks(self) -> Iterator[tuple[str, list[tuple[int, int]] | None]]:
        """Yield the text of the rows: each with the spans of its values.

        None stands for a row whose values white space alone separates, an empty list
        for blank lines and comments.
        """
        if self._kept is None:
            yield from self._stored_chunks()
            return
        kept = iter(self._kept.tolist())
        for chunk, spans in self._stored_chunks():
            if spans == [] or next(kept):
                yield chunk, spans

    def _stored_chunks(self) -> Iterator[tuple[str, list[tuple[int, int]] | None]]:
        """Yield `_chunks` of all rows of the text."""
        position = self._tags_end
        while position < self._rows_end:
            end = _next_line(self._text, position)
            chunk = self._text[position:end]
            if _is_plain(chunk, self._text[end : end + 1]):
                yield chunk, None if chunk.strip(_BLANK) else []
                position = end
                continue
            spans, end = _spans(self._text, position, len(self._tag_lines))
            yield (
                self._text[position:end],
                [(start - position, stop - position) for start, stop in spans],
            )
            position = end

    def _pieces(self) -> Iterator[str]:
        """Yield the text of the loop from ``loop_`` to its last row."""
        yield from self._changed_pieces()
        if self._kept is not None and not self._n_rows:
            # A name with a value would look like another column.
            end = _next_line(self._text, self._rows_end)
            if self._text[self._rows_end : end].lstrip(_BLANK).startswith("_"):
                yield "\n"

    def _changed_pieces(self) -> Iterator[str]:
        """Yield `_pieces`, but for what an empty loop needs at its end."""
        text = self._text
        n_stored = len(self._tag_lines)
        if not self._changed and len(self._places) == n_stored:
            if self._kept is None:
                yield text[self._start : self._rows_end]
            else:
                yield text[self._start : self._tags_end]
                yield from (chunk for chunk, _ in self._chunks())
            return
        yield from self._head()
        appended = [self._changed[tag] for tag in self.tags if tag not in self._places]
        # The columns in the text that change, by their places.
        nothing = [""] * self._n_rows
        edits = dict.fromkeys(
            set(range(n_stored)) - set(self._places.values()), nothing
        )
        edits.update(
            (place, self._changed[tag])
            for tag, place in self._places.items()
            if tag in self._changed
        )
        row = 0
        for chunk, spans in self._chunks():
            if spans == []:
                yield chunk
                continue
            parts: list[str] = []
            if spans is None and not edits:
                parts = [chunk.rstrip(_BLANK)]
                parts.append(chunk[len(parts[0]) :])
                end = 1
            elif spans is None:
                # Values and the gaps between them by turns.
                parts = _GAP.split(chunk)
                first = 0 if parts[0] else 2
                for place, column in edits.items():
                    parts[first + 2 * place] = column[row]
                end = first + 2 * n_stored - 1
            else:
                position = 0
                for place, span in enumerate(spans):
                    gap, token = chunk[position : span[0]], chunk[slice(*span)]
                    is_kept = place not in edits
                    if "\n" in gap and not (is_kept and _is_field(chunk, span)):
                        # Beside a text field; but what is none stands on the line.
                        gap = " "
                    parts += [gap, token if is_kept else edits[place][row]]
                    position = span[1]
                end = len(parts)
                # A comment, perhaps.
                parts.append(chunk[position:])
            parts[end:end] = [f" {column[row]}" for column in appended]
            yield "".join(parts)
            row += 1

    def _head(self) -> Iterator[str]:
        """Yield the text of the loop from ``loop_`` to its last tag."""
        text = self._text
        stored = text[self._start : self._tags_end]
        line_end = "\r\n" if "\r\n" in stored else "\n"
        is_numbered = "#" in stored
        kept = sorted(self._places.values())
        position = self._start
        for place, (start, end) in enumerate(self._tag_lines):
            yield text[position:start]
            position = end
            if place not in self._places.values():
                continue
            line = text[start:end]
            if len(kept) < len(self._tag_lines):
                line = re.sub(
                    r"(?<=[ \t])#\d+", f"#{kept.index(place) + 1}", line, count=1
                )
            yield line
        if not stored.endswith("\n"):
            yield line_end
        added = [tag for tag in self.tags if tag not in self._places]
        for number, tag in enumerate(added, len(kept) + 1):
            # RELION cuts a tag two characters before the "#".
            yield f"_{tag} #{number}{line_end}" if is_numbered else f"_{tag}{line_end}"


class Block:  # numpydoc ignore=PR01
    """A block of a STAR file: what stands after ``data_NAME``.

    Made by `read_star`.

    Attributes
    ----------
    name : str
        Its name without ``data_``; empty if it has none.
    pairs : dict of str to str
        Single values by their names, without the leading underscore and quotes.
    loops : list of Loop
        Its tables.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.pairs: dict[str, str] = {}
        self.loops: list[Loop] = []
        # Where in the text the values of pairs are, with what comes before another
        # value in their place; and the values that differ, as tokens.
        self._pair_places: dict[str, tuple[int, int, str]] = {}
        self._changed: dict[str, str] = {}

    def set_pair(self, tag: str, value: Any) -> None:
        """Replace a single value.

        Parameters
        ----------
        tag : str
            Its name, without the leading underscore.
        value : object
            A string, which is quoted where it needs it, or a number.

        Raises
        ------
        ValueError
            If the block has no such name, or the value cannot be written.
        """
        if tag not in self._pair_places:
            raise ValueError(
                f"data_{self.name}: has no single value {tag}; it has "
                f"{', '.join(self.pairs) or 'none'}."
            )
        (token,) = format_values(tag, [value])
        self._changed[tag] = token
        self.pairs[tag] = unquote(token)

    def _edits(self) -> Iterator[tuple[int, int, Iterable[str]]]:
        """Yield what stands in place of the text between two positions."""
        for tag, token in self._changed.items():
            start, end, gap = self._pair_places[tag]
            yield start, end, [gap, token]
        for loop in self.loops:
            yield loop._start, loop._rows_end, loop._pieces()

    def _copy(self) -> Block:
        copied = Block(self.name)
        copied.pairs = dict(self.pairs)
        copied._pair_places = self._pair_places
        copied._changed = dict(self._changed)
        copied.loops = [loop._copy() for loop in self.loops]
        return copied


class StarFile:  # numpydoc ignore=PR01
    """A STAR file with everything that stands in it.

    Made by `read_star`. Written without changes it is the same file, but for a byte
    order mark; with changed columns, all the rest is the same, white space, comments
    and line ends included.

    Attributes
    ----------
    path : Path
        Where it was read from.
    blocks : list of Block
        Its blocks in their order. Several may have one name.
    """

    def __init__(self, path: Path, text: str, blocks: list[Block]) -> None:
        self.path = path
        self.blocks = blocks
        self._text = text

    def block(self, name: str) -> Block | None:
        """Return the block of a name.

        Parameters
        ----------
        name : str
            Name without ``data_``.

        Returns
        -------
        Block or None
            The block; None if there is none.

        Raises
        ------
        ValueError
            If several blocks have this name.
        """
        found = [block for block in self.blocks if block.name == name]
        if len(found) > 1:
            raise ValueError(
                f"{self.path}: has {len(found)} blocks data_{name}; expected one."
            )
        return found[0] if found else None

    def copy(self) -> StarFile:
        """Return a copy whose columns can be changed without changing this one.

        Returns
        -------
        StarFile
            The copy, which shares the text.
        """
        return StarFile(self.path, self._text, [block._copy() for block in self.blocks])

    def write(self, path: str | Path) -> None:
        """Write the file atomically.

        Parameters
        ----------
        path : str or Path
            The file to make or replace, which may be the one it was read from. Its
            folder has to exist.
        """

        def write(beside: Path) -> None:
            with beside.open("w", encoding="utf-8", newline="") as file:
                file.writelines(self._pieces())

        write_atomically(Path(path), write)

    def _pieces(self) -> Iterator[str]:
        position = 0
        edits = [edit for block in self.blocks for edit in block._edits()]
        for start, end, pieces in sorted(edits, key=itemgetter(0)):
            yield self._text[position:start]
            yield from pieces
            position = end
        yield self._text[position:]


def _next_line(text: str, position: int) -> int:
    """Return where the line after the one at a position starts."""
    return text.find("\n", position) + 1 or len(text)


def _spans(
    text: str, position: int, n_columns: int
) -> tuple[list[tuple[int, int]], int]:
    """Find the values of a line, and of those after it if some are text fields.

    Parameters
    ----------
    text : str
        The text.
    position : int
        Start of the line.
    n_columns : int
        How many values there should be: a text field on the next line, and what comes
        after one, are taken while there are fewer. At most one more is found.

    Returns
    -------
    spans : list of tuple of int
        Start and end of each value in the text. One that is never closed is there as
        a bare value that begins with its quote.
    end : int
        Where the next line starts.
    """
    spans: list[tuple[int, int]] = []
    while True:
        field = _FIELD.match(text, position) if text[position] == ";" else None
        found = []
        if field is not None:
            found.append(field.span())
            position = field.end()
        end = _next_line(text, position)
        tokens = (
            match.span()
            for match in _TOKEN.finditer(text, position, end)
            if text[match.start()] != "#"
        )
        found += islice(tokens, n_columns + 1 - len(spans))
        spans += found
        if len(found) < 1 or len(spans) >= n_columns or end == len(text):
            return spans, end
        # A text field begins a line, and what comes after one may do so, too.
        if text[end] != ";" and not (
            _is_field(text, spans[-1]) and not _RESERVED.match(text, end)
        ):
            return spans, end
        position = end


def _is_field(text: str, span: tuple[int, int]) -> bool:
    """Tell whether a value is a text field."""
    return text[span[0]] == ";" and text.find("\n", *span) != -1


def read_star(path: str | Path) -> StarFile:
    r"""Read a STAR file so that nothing of it is lost.

    All that RELION, Warp, M, starfile and gemmi write is read: any number of blocks,
    nameless ones, empty loops, quoted values, text fields of several lines, comments,
    and line ends of either kind. A row of a loop stands on one line, but for text
    fields.

    Parameters
    ----------
    path : str or Path
        The file, in UTF-8.

    Returns
    -------
    StarFile
        Its blocks and their tables.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no STAR file, or a damaged one: a row with too few or too many values,
        a quote that is never closed, a name without a value, bytes that are not UTF-8.
        The message names the line.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from sksubtomo.io import read_star
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "particles.star")
    ...     _ = path.write_text(
    ...         "data_particles\n\nloop_\n_rlnTomoName #1\n_rlnClassNumber #2\n"
    ...         "001  3\n'my tomo'  4\n"
    ...     )
    ...     star = read_star(path)
    ...     loop = star.block("particles").loops[0]
    ...     print(loop.tags, loop.column("rlnTomoName"))
    ...     loop.set_column("rlnClassNumber", [1, 2])
    ...     star.write(path)
    ...     print(path.read_text())
    ['rlnTomoName', 'rlnClassNumber'] ['001', 'my tomo']
    data_particles
    <BLANKLINE>
    loop_
    _rlnTomoName #1
    _rlnClassNumber #2
    001  1
    'my tomo'  2
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file.")
    data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    n_control = len(data) - len(data.translate(None, _CONTROL))
    if n_control:
        raise ValueError(
            f"{path}: holds {n_control} control characters (such as the byte 0); "
            "expected a STAR file, which is text."
        )
    if data.count(b"\r") != data.count(b"\r\n"):
        raise ValueError(
            f"{path}: has a carriage return within a line; expected lines that end "
            "with a line feed, or with both."
        )
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}, line {line}: the byte {data[error.start]:#04x} is not UTF-8; "
            "expected text in UTF-8 or ASCII."
        ) from None
    del data
    return StarFile(path, text, _Parser(str(path), text).parse())


class _Parser:
    """Find the blocks, names and loops of a text."""

    def __init__(self, source: str, text: str) -> None:
        self.source = source
        self.text = text

    def error(self, position: int, message: str) -> ValueError:
        line = self.text.count("\n", 0, position) + 1
        return ValueError(f"{self.source}, line {line}: {message}")

    def parse(self) -> list[Block]:
        text = self.text
        blocks: list[Block] = []
        position = 0
        while position < len(text):
            spans, end = _spans(text, position, 2)
            if not spans:
                position = end
                continue
            tokens = self.tokens(spans)
            first = tokens[0].lower()
            if first.startswith("data_"):
                if len(tokens) > 1:
                    raise self.error(
                        position,
                        f"{tokens[0]} is followed by {_short(tokens[1])}; "
                        "expected a block's name alone on its line.",
                    )
                blocks.append(Block(tokens[0][len("data_") :]))
            elif not blocks:
                raise self.error(
                    position,
                    f"found {_short(tokens[0])}; expected data_, the start "
                    "of a block, as a STAR file begins.",
                )
            elif first == "loop_":
                if len(tokens) > 1:
                    raise self.error(
                        position,
                        f"loop_ is followed by {_short(tokens[1])}; expected "
                        "it alone on its line.",
                    )
                loop = self.loop(position, end)
                blocks[-1].loops.append(loop)
                end = loop._rows_end
            elif first.startswith("_") and first != "_":
                self.pair(spans, tokens, blocks[-1])
            else:
                raise self.error(
                    position,
                    f"found {_short(tokens[0])} outside of a loop; expected "
                    "a name that begins with an underscore, loop_ or data_.",
                )
            position = end
        if not blocks:
            raise ValueError(
                f"{self.source}: has no block; expected a STAR file, with a line that "
                "begins with data_."
            )
        return blocks

    def pair(
        self, spans: list[tuple[int, int]], tokens: list[str], block: Block
    ) -> None:
        """Keep a name with its value."""
        position = spans[0][0]
        tag = tokens[0][1:]
        if len(tokens) != 2:
            count = "no value" if len(tokens) == 1 else "more than one value"
            raise self.error(
                position,
                f"_{tag} has {count}; expected one, with quotes if there is a space "
                "in it.",
            )
        if tag in block.pairs or any(tag in loop._places for loop in block.loops):
            raise self.error(
                position, f"_{tag} stands twice in data_{block.name}; expected once."
            )
        block.pairs[tag] = unquote(tokens[1])
        start, end = spans[1]
        # A text field begins a line, but what replaces it stands on that of its name.
        is_field = _is_field(self.text, spans[1])
        block._pair_places[tag] = (
            (spans[0][1], end, " ") if is_field else (start, end, "")
        )

    def tokens(self, spans: list[tuple[int, int]]) -> list[str]:
        """Return the text of spans, refusing a quote that is never closed."""
        tokens = []
        for start, end in spans:
            token = self.text[start:end]
            if token[0] in "'\"":
                is_open = len(token) == 1 or token[-1] != token[0]
            else:
                # Elsewhere than at the start of a line, ";" is like other characters.
                is_open = (
                    token[0] == ";"
                    and self.text[start - 1] == "\n"
                    and not _is_field(self.text, (start, end))
                )
            if is_open:
                raise self.error(
                    start, f"{_short(token)} opens a quoted text that is not closed."
                )
            tokens.append(token)
        return tokens

    def loop(self, start: int, position: int) -> Loop:
        """Find the tags and rows of a loop.

        Parameters
        ----------
        start : int
            Where its line ``loop_`` starts.
        position : int
            Where the next line starts.

        Returns
        -------
        Loop
            The loop.
        """
        text = self.text
        loop = Loop(self.source, text, start)
        loop._tags_end = position
        while position < len(text):
            spans, end = _spans(text, position, 1)
            if spans:
                token = text[slice(*spans[0])]
                if not token.startswith("_") or token == "_":
                    break
                if len(spans) > 1:
                    spans, _ = _spans(text, position, len(loop.tags))
                    is_row = 2 < len(spans) == len(loop.tags)
                    if loop._tags_end == position and not is_row:
                        raise self.error(
                            position,
                            f"{_short(token)} has a value; expected the name of a "
                            "column alone (or an empty line after the loop's).",
                        )
                    break
                if token[1:] in loop._places:
                    raise self.error(
                        position, f"{token} stands twice in the loop; expected once."
                    )
                loop._places[token[1:]] = len(loop.tags)
                loop.tags.append(token[1:])
                loop._tag_lines.append((position, end))
                loop._tags_end = end
            position = end
        if not loop.tags:
            raise self.error(
                start,
                "loop_ has no columns; expected lines that begin with an "
                "underscore after it.",
            )
        n_columns = len(loop.tags)
        loop._rows_end = position = loop._tags_end
        while position < len(text):
            end = _next_line(text, position)
            line = text[position:end]
            if _is_plain(line, text[end : end + 1]):
                words = _words(line, n_columns)
                n_words = len(words)
                if n_words == n_columns and words[0][0] not in "_dDlLsSgG":
                    loop._n_rows += 1
                    loop._rows_end = position = end
                    continue
            else:
                spans, end = _spans(text, position, n_columns)
                words = self.tokens(spans)
                n_words = len(words)
            if n_words:
                if _RESERVED.match(words[0]) and self.ends_loop(words, n_columns):
                    break
                if n_words != n_columns:
                    count = n_words if n_words < n_columns else f"more than {n_columns}"
                    raise self.error(
                        position,
                        f"the row has {count} values; the loop has {n_columns} "
                        "columns. Expected a row a line, and quotes around a value "
                        "with a space in it.",
                    )
                loop._n_rows += 1
                loop._rows_end = end
            position = end
        return loop

    @staticmethod
    def ends_loop(words: list[str], n_columns: int) -> bool:
        """Tell whether a line that begins with a reserved word ends a loop.

        RELION does not quote a path such as data_2021/tomogram.mrc, so a line that is
        as long as a row is one, if what ends a loop is shorter.
        """
        usual = 2 if words[0][0] == "_" else 1
        return len(words) != n_columns or n_columns <= usual


def _short(token: str) -> str:
    return repr(token if len(token) <= 40 else f"{token[:37]}...")
