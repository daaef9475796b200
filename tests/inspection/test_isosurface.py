import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

from sksubtomo.inspection.isosurface import IsosurfaceDisplay


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def ball(radius=3.0, centre=(5, 6, 7), shape=(10, 12, 14)):
    """Return a density that is 1 on a sphere around a voxel, more inside."""
    offsets = np.moveaxis(np.indices(shape), 0, -1) - centre
    return np.exp(1 - np.square(offsets / radius).sum(axis=-1))


def enclosed(surface):
    """Return the volume inside triangles that run counter-clockwise from outside."""
    vertices, triangles = surface
    a, b, c = np.moveaxis(vertices[triangles], 1, 0)
    return np.einsum("ij,ij->", a, np.cross(b, c)) / 6


@pytest.mark.parametrize("contrast", ["light", "dark"])
def test_surface_of_a_ball(contrast):
    sign = 1 if contrast == "light" else -1
    display = IsosurfaceDisplay.from_volumes(
        sign * ball(),
        level=sign * 1.0,
        level_unit="value",
        contrast=contrast,
        voxel_size=10.0,
    )
    ((vertices, triangles),) = display.surfaces
    # In angstroms around the central voxel, at the radius, and seen from outside.
    np.testing.assert_allclose(np.linalg.norm(vertices, axis=1), 30, rtol=0.05)
    assert enclosed((vertices, triangles)) == pytest.approx(
        4 / 3 * np.pi * 30**3, rel=0.1
    )
    assert display.levels == [sign * 1.0]
    assert len(display.surfaces_) == 1
    assert len(display.surfaces_[0].get_facecolor()) == len(triangles)


def test_axes_are_x_y_z_at_one_scale():
    off_centre = ball(1.5, centre=(3, 6, 11))
    display = IsosurfaceDisplay.from_volumes(off_centre, voxel_size=10.0)
    ((vertices, _),) = display.surfaces
    np.testing.assert_allclose(vertices.mean(axis=0), [40, 0, -20], atol=1)
    ax = display.axes_[0, 0]
    assert ax.get_xlabel() == "x (Å)"
    assert ax.get_zlabel() == "z (Å)"
    limits = [ax.get_xlim3d(), ax.get_ylim3d(), ax.get_zlim3d()]
    assert limits == [
        pytest.approx((-75, 65)),
        pytest.approx((-65, 55)),
        pytest.approx((-55, 45)),
    ]
    sides = np.diff(limits).ravel()
    np.testing.assert_allclose(ax._box_aspect / ax._box_aspect[0], sides / sides[0])
    assert "mean + 2 σ" in display.figure_.get_suptitle()


def test_level_is_in_sigmas_of_each_volume():
    volumes = np.stack([ball(), 5 + 3 * ball()])
    display = IsosurfaceDisplay.from_volumes(volumes, level=1.5)
    for level, volume in zip(display.levels, volumes, strict=True):
        assert level == pytest.approx(volume.mean() + 1.5 * volume.std())
    first, second = (vertices for vertices, _ in display.surfaces)
    np.testing.assert_allclose(first, second, atol=1e-4)
    dark = IsosurfaceDisplay.from_volumes(-volumes[1], level=1.5, contrast="dark")
    assert dark.levels[0] == pytest.approx(-display.levels[1])
    assert "mean − 1.5 σ" in dark.figure_.get_suptitle()


def test_particles_at_the_border_are_closed():
    display = IsosurfaceDisplay.from_volumes(
        ball(centre=(0, 6, 7)), level=1.0, level_unit="value"
    )
    # Half a ball, and what lies up to the border of its voxels.
    assert 0.5 < enclosed(display.surfaces[0]) / (4 / 3 * np.pi * 27) < 0.75
    assert display.axes_[0, 0].get_xlabel() == "x (voxels)"


def test_large_volumes_are_thinned():
    z, y, x = np.indices((70, 8, 8)) - np.array([35, 4, 4])[:, None, None, None]
    volume = np.exp(-(z**2) / 50 - (y**2 + x**2) / 4)
    ((vertices, triangles),) = IsosurfaceDisplay.from_volumes(volume).surfaces
    assert len(triangles) < 300
    np.testing.assert_allclose(vertices.mean(axis=0), 0, atol=0.3)


def test_several_volumes_in_a_grid():
    volumes = np.stack([ball()] * 3)
    display = IsosurfaceDisplay.from_volumes(volumes, titles=["a", "b", "c"])
    assert display.axes_.shape == (2, 2)
    assert [ax.get_title() for ax in display.axes_.flat] == ["a", "b", "c", ""]
    assert [ax.get_visible() for ax in display.axes_.flat] == [True, True, True, False]
    assert len(display.surfaces_) == 3


def test_display_draws_where_it_is_told_to():
    figure = Figure()
    ax = figure.add_subplot(projection="3d")
    display = IsosurfaceDisplay.from_volumes(ball(), ax=ax)
    assert display.axes_[0, 0] is ax
    flat = Figure().add_subplot()
    display = IsosurfaceDisplay.from_volumes(ball(), ax=flat)
    assert display.axes_[0, 0].name == "3d"
    assert not flat.axison
    with pytest.raises(TypeError, match="projection 'rectilinear'"):
        IsosurfaceDisplay.from_volumes(ball(), ax=np.array([flat]))
    assert plt.get_fignums() == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"volumes": np.zeros((4, 4))}, "volumes have shape"),
        ({"level": 50.0}, "level=50.0 in units of sigma: volume 0"),
        ({"level": 3.0, "level_unit": "value"}, "between 1.34e-05 and 2.72"),
        ({"volumes": np.zeros((1, 4, 4, 4))}, "volume 0 has no surface"),
        ({"level_unit": "percent"}, "level_unit='percent'"),
        ({"contrast": "grey"}, "contrast='grey'"),
        ({"voxel_size": 0}, "voxel_size=0"),
        ({"n_columns": 0}, "n_columns=0"),
        ({"n_columns": 2.5}, "n_columns=2.5; expected an integer"),
        ({"titles": ["a", "b"]}, r"titles has shape \(2,\)"),
    ],
)
def test_isosurface_rejects(changes, message):
    with pytest.raises(ValueError, match=message):
        IsosurfaceDisplay.from_volumes(**{"volumes": ball(), **changes})


def test_missing_scikit_image_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.measure", None)
    with pytest.raises(ImportError, match=r"scikit-image.*sksubtomo\[study\]"):
        IsosurfaceDisplay.from_volumes(ball())
