import numpy as np
import pytest

from sksubtomo._labels import draw_by_class, encode_labels


@pytest.mark.parametrize(
    ("wanted", "options", "expected"),
    [
        (0.5, {}, [10, 5, 2, 1]),
        (0.01, {}, [1, 1, 1, 1]),
        (1.0, {}, [20, 10, 3, 1]),
        (4, {"absolute": True}, [4, 4, 3, 1]),
        (1.0, {"keep_one": True}, [19, 9, 2, 0]),
        (0.2, {"keep_one": True}, [4, 2, 1, 0]),
    ],
)
def test_numbers_drawn(wanted, options, expected):
    labels = np.repeat(np.arange(4), [20, 10, 3, 1])
    drawn = draw_by_class(labels, wanted, np.random.default_rng(0), **options)
    assert list(np.bincount(labels[drawn], minlength=4)) == expected


def test_every_row_is_drawn_equally_often():
    labels = np.repeat([0, 1], [6, 4])
    times = sum(
        draw_by_class(labels, 0.5, np.random.default_rng(seed)).astype(int)
        for seed in range(600)
    )
    np.testing.assert_allclose(times / 600, 0.5, atol=0.08)


def test_encoding():
    classes = np.array(["a", "c", "d"])
    np.testing.assert_array_equal(encode_labels(["d", "a"], classes, 2, "y"), [2, 0])
    with pytest.raises(ValueError, match="y_val has the label 'b'"):
        encode_labels(["b"], classes, 1, "y_val")
    with pytest.raises(ValueError, match=r"shape \(2,\); expected \(3,\)"):
        encode_labels(["a", "c"], classes, 3, "y_val")
