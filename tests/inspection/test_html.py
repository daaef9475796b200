import base64
import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

from sksubtomo.inspection._html import (
    figure_data_uri,
    html_page,
    png,
    png_data_uri,
)

PREFIX = "data:image/png;base64,"


def decode(uri):
    assert uri.startswith(PREFIX)
    return plt.imread(io.BytesIO(base64.b64decode(uri.removeprefix(PREFIX))))


@pytest.mark.parametrize("shape", [(1, 1), (7, 11), (300, 2)])
def test_png_is_read_back(shape):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    # matplotlib gives parts of 255.
    np.testing.assert_array_equal(np.round(decode(png_data_uri(image)) * 255), image)


@pytest.mark.parametrize(
    "image", [np.zeros((2, 2)), np.zeros(4, np.uint8), np.zeros((0, 3), np.uint8)]
)
def test_png_rejects(image):
    with pytest.raises(ValueError, match="image has dtype"):
        png(image)


def test_figure_is_a_picture_and_the_same_every_time():
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([0, 1])
    uri = figure_data_uri(figure, dpi=50)
    assert decode(uri).shape == (50, 100, 4)
    assert figure_data_uri(figure, dpi=50) == uri


def test_title_of_a_page_is_escaped():
    page = html_page("</title><script>", "<p>body</p>", style="p { color: red; }")
    assert "<script>" not in page
    assert "<title>&lt;/title&gt;&lt;script&gt;</title>" in page
    assert "<p>body</p>" in page
    assert "p { color: red; }" in page
