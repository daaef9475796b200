"""What HTML pages share: escaping, pictures as data URIs, the page around them."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["STYLE", "escape", "figure_data_uri", "html_page", "png", "png_data_uri"]

STYLE = """
:root { color-scheme: light; }
body { margin: 1.5rem auto; max-width: 60rem; padding: 0 1rem;
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, Helvetica, Arial, sans-serif;
  color: #1a1a1a; background: #fff; }
h1 { font-size: 1.5rem; margin: 0 0 .75rem; }
h2 { font-size: 1.2rem; margin: 1.75rem 0 .5rem; }
table { border-collapse: collapse; margin: .5rem 0; }
th, td { padding: .2rem .7rem; border-bottom: 1px solid #d0d0d0; text-align: left; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
img { max-width: 100%; }
figure { margin: 1rem 0; }
figcaption { color: #444; }
"""
"""The style of a page of text, tables and figures."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def png(image: npt.NDArray[np.uint8]) -> bytes:
    """Write a grey image as PNG.

    Parameters
    ----------
    image : ndarray of uint8 of shape (height, width)
        Grey values, the first row at the top.

    Returns
    -------
    bytes
        The contents of the file.

    Raises
    ------
    ValueError
        If the image has another dtype or number of dimensions, or no pixel.

    References
    ----------
    .. [1] W3C, "Portable Network Graphics (PNG) Specification (Third Edition)", 2025.
    """
    if image.dtype != np.uint8 or image.ndim != 2 or not image.size:
        raise ValueError(
            f"image has dtype {image.dtype} and shape {image.shape}; expected uint8 "
            "and (height, width), at least one pixel."
        )
    height, width = image.shape
    # Each line begins with the number of its filter: 0, none.
    lines = np.zeros((height, width + 1), dtype=np.uint8)
    lines[:, 1:] = image
    # Eight bits of grey, not interlaced.
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    # Noise hardly shrinks: more effort than this buys one per cent.
    data = zlib.compress(lines.tobytes(), 4)
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    return _PNG_SIGNATURE + b"".join(
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )


def png_data_uri(image: npt.NDArray[np.uint8]) -> str:
    """Return a grey image as the source of an ``img`` of a page.

    Parameters
    ----------
    image : ndarray of uint8 of shape (height, width)
        Grey values, the first row at the top.

    Returns
    -------
    str
        A data URI of a PNG.

    Raises
    ------
    ValueError
        If the image has another dtype or number of dimensions, or no pixel.

    Examples
    --------
    >>> import numpy as np
    >>> from sksubtomo.inspection._html import png_data_uri
    >>> png_data_uri(np.zeros((2, 2), dtype=np.uint8))[:22]
    'data:image/png;base64,'
    """
    return _data_uri(png(image))


def figure_data_uri(figure: Figure, **options: Any) -> str:
    """Return a figure of matplotlib as the source of an ``img`` of a page.

    Parameters
    ----------
    figure : matplotlib Figure
        The figure, which stays open.
    **options : dict
        Options of its ``savefig``, such as ``dpi``.

    Returns
    -------
    str
        A data URI of a PNG. The same figure always gives the same text.
    """
    buffer = io.BytesIO()
    # The version of matplotlib is left out of the file.
    figure.savefig(buffer, format="png", metadata={"Software": None}, **options)
    return _data_uri(buffer.getvalue())


def html_page(title: str, body: str, style: str = STYLE) -> str:
    """Put the body of a page into a page.

    Parameters
    ----------
    title : str
        Title of the page, as plain text: it is escaped.
    body : str
        HTML of the body, in which all text is escaped already.
    style : str, default=STYLE
        The style sheet.

    Returns
    -------
    str
        The page, which asks for nothing from a network.

    Examples
    --------
    >>> from sksubtomo.inspection._html import escape, html_page
    >>> page = html_page("a < b", f"<p>{escape('<x>')}</p>")
    >>> "<title>a &lt; b</title>" in page, "<p>&lt;x&gt;</p>" in page
    (True, True)
    """
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # Without it browsers ask for /favicon.ico.
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style.strip()}\n</style>\n"
        f"</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _data_uri(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}"
