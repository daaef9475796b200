import sys

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from torch import nn
from torch.nn import functional

from sksubtomo import LabelFractionClassifier, RB3DClassifier, SubtomogramClassifier
from sksubtomo.inspection.grad_cam import GradCAMDisplay, attention_width, grad_cam
from sksubtomo.networks import ENCODERS, RB3D, BatchNormCNN
from sksubtomo.uncertainty import TemperatureScaledClassifier

SIDE = 8
rng = np.random.default_rng(0)
X = rng.normal(size=(12, SIDE, SIDE, SIDE)).astype(np.float32)
Y = np.array(["b", "a", "c"] * 4)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def classifier():
    # One whose encoder and normalisation have statistics.
    return RB3DClassifier(max_epochs=2, mask="sphere", random_state=0).fit(X, Y)


class Signs(BaseEstimator):
    """Two channels, the positive and the negative part, pooled by `pooling`."""

    def __init__(self, pooling=1):
        self.pooling = pooling

    def build(self, volume_shape):
        return SignsNetwork(self.pooling)


class SignsNetwork(nn.Module):
    n_features = 2

    def __init__(self, pooling):
        super().__init__()
        self.convolution = nn.Conv3d(1, 2, 1, bias=False)
        self.pooling = nn.MaxPool3d(pooling, ceil_mode=True)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, volumes):
        features = self.relu(self.pooling(self.convolution(volumes)))
        return features.mean((2, 3, 4))


def signs_classifier(side, pooling=1, weights=((3.0, -1.0), (-2.0, 4.0))):
    """Return a classifier whose logits are known: no training is in them."""
    classifier = SubtomogramClassifier(
        encoder=Signs(pooling),
        normalize=None,
        standardize_features=False,
        max_epochs=1,
        random_state=0,
    ).fit(np.zeros((2, side, side, side)), [0, 1])
    network = classifier.network_
    with torch.no_grad():
        network.encoder.convolution.weight[:, 0, 0, 0, 0] = torch.tensor([1.0, -1.0])
        network.head.weight[:] = torch.tensor(weights)
        network.head.bias[:] = 0.0
    return classifier


def test_known_network_has_the_map_in_closed_form():
    # d score / d activation is weight / number of voxels, at every voxel.
    classifier = signs_classifier(SIDE)
    positive, negative = np.maximum(X, 0), np.maximum(-X, 0)
    for target, weights in enumerate(((3.0, -1.0), (-2.0, 4.0))):
        expected = np.maximum(weights[0] * positive + weights[1] * negative, 0)
        maps = grad_cam(classifier, X, target)
        np.testing.assert_allclose(maps, expected / SIDE**3, atol=1e-8)
    # Before the ReLU, channels have both signs, and gradients only where it is open.
    open_part = np.stack([(X > 0).mean((1, 2, 3)), (X < 0).mean((1, 2, 3))], 1)
    means = (np.array([3.0, -1.0]) * open_part)[:, :, None, None, None]
    expected = np.maximum(means[:, 0] * X - means[:, 1] * X, 0) / SIDE**3
    maps = grad_cam(classifier, X, 0, layer="encoder.convolution")
    np.testing.assert_allclose(maps, expected, atol=1e-8)


def naive_maps(classifier, layer, targets):
    """Compute Grad-CAM volume by volume and channel by channel, with hooks."""
    network = classifier.network_
    maps = []
    for volume, target in zip(X, targets, strict=True):
        kept = []
        hook = layer.register_forward_hook(
            lambda module, inputs, output, kept=kept: kept.append(output)
        )
        batch = classifier.normalizer_(torch.from_numpy(volume)[None, None])
        scores = network(batch)
        hook.remove()
        (gradient,) = torch.autograd.grad(scores[0, target], kept[0])
        total = torch.zeros(kept[0].shape[2:])
        for channel in range(kept[0].shape[1]):
            weight = gradient[0, channel].mean()
            total += weight * kept[0][0, channel].detach()
        maps.append(total.clamp(min=0))
    # The layer has half the volume's resolution, where this is right.
    return functional.interpolate(
        torch.stack(maps)[:, None], scale_factor=2, mode="trilinear"
    )[:, 0].numpy()


@pytest.mark.parametrize("name", ["encoder.blocks", "encoder.blocks.1"])
def test_maps_are_those_of_a_naive_computation(classifier, name):
    layer = classifier.network_.get_submodule(name)
    predicted = classifier.predict_proba(X).argmax(axis=1)
    expected = naive_maps(classifier, layer, predicted)
    maps = grad_cam(classifier, X, layer=layer)
    assert maps.dtype == np.float32
    assert expected.max() > 0
    np.testing.assert_allclose(maps, expected, rtol=1e-4, atol=1e-6 * expected.max())
    np.testing.assert_array_equal(maps, grad_cam(classifier, X, layer=name))


def test_the_layer_is_the_last_block_by_default(classifier):
    np.testing.assert_array_equal(
        grad_cam(classifier, X), grad_cam(classifier, X, layer="encoder.blocks")
    )


def test_target_is_a_class_or_one_for_each_volume(classifier):
    by_class = {label: grad_cam(classifier, X, label) for label in "abc"}
    assert not np.array_equal(by_class["a"], by_class["b"])
    expected = np.stack([by_class[label][row] for row, label in enumerate(Y)])
    np.testing.assert_array_equal(grad_cam(classifier, X, Y), expected)
    predicted = classifier.predict(X)
    np.testing.assert_array_equal(
        grad_cam(classifier, X), grad_cam(classifier, X, predicted)
    )


def test_a_map_does_not_depend_on_the_other_volumes(classifier):
    maps = grad_cam(classifier, X, "a")
    for rows in ([0], [3], [5, 2, 7], [11, 0]):
        np.testing.assert_array_equal(grad_cam(classifier, X[rows], "a"), maps[rows])


def test_flat_rows_and_volumes_on_disk(classifier, tmp_path):
    maps = grad_cam(classifier, X)
    np.testing.assert_array_equal(grad_cam(classifier, X.reshape(12, -1)), maps)
    np.save(tmp_path / "X.npy", X)
    stored = np.load(tmp_path / "X.npy", mmap_mode="r")
    np.testing.assert_array_equal(grad_cam(classifier, stored), maps)
    broken = X.copy()
    broken[7, 0, 0, 1] = np.nan
    np.save(tmp_path / "X.npy", broken)
    stored = np.load(tmp_path / "X.npy", mmap_mode="r")
    with pytest.raises(ValueError, match="volume 7 at voxel"):
        grad_cam(classifier, stored, "a")


@pytest.mark.parametrize("name", [*ENCODERS, "che2018"])
def test_all_encoders_have_maps(name):
    encoder = RB3D(variant="che2018") if name == "che2018" else name
    classifier = SubtomogramClassifier(encoder=encoder, max_epochs=1, random_state=1)
    classifier.fit(X[:6], Y[:6])
    maps = np.stack([grad_cam(classifier, X[:4], label) for label in "abc"])
    assert maps.shape == (3, 4, SIDE, SIDE, SIDE)
    assert np.isfinite(maps).all()
    assert maps.min() >= 0
    assert maps.max() > 0


def blob(side, centre, width=1.0):
    distance = [np.arange(side) - place for place in centre]
    squared = sum(np.square(d) for d in np.ix_(*distance))
    return np.exp(-squared / (2 * width**2)).astype(np.float32)


def centre_of_mass(volume):
    return [
        np.average(np.arange(volume.shape[axis]), weights=volume.sum(others))
        for axis, others in enumerate([(1, 2), (0, 2), (0, 1)])
    ]


@pytest.mark.parametrize("pooling", [1, 2, 3])
@pytest.mark.parametrize("side", [11, 12, 13])
def test_maps_lie_where_the_evidence_is(side, pooling):
    classifier = signs_classifier(side, pooling)
    last = side - 1
    # The middles of corners, faces and the volume, at all phases of the pooling.
    for centre in [(2, 2, 2), (last - 2,) * 3, (2, 6, last - 3), (5, 4, 3)]:
        (found,) = grad_cam(classifier, blob(side, centre)[None], 0)
        # The pooled blob is wider and reaches the border sooner.
        np.testing.assert_allclose(centre_of_mass(found), centre, atol=0.7)
    for corner in [(0, 0, 0), (last, last, last), (0, last, 0)]:
        volume = np.zeros((1, side, side, side), np.float32)
        volume[0][corner] = 1.0
        (found,) = grad_cam(classifier, volume, 0)
        assert found[corner] == found.max() > 0
        away = np.abs(np.subtract(np.argwhere(found > 0), corner)).max()
        assert away < 2 * pooling


def test_maps_of_a_trained_network_follow_a_moved_blob():
    side, n = 12, 40
    generator = np.random.default_rng(1)
    volumes = generator.normal(scale=0.2, size=(n, side, side, side))
    has_blob = np.arange(n) % 2
    for row in np.flatnonzero(has_blob):
        volumes[row] += 2 * blob(side, generator.integers(1, side - 1, 3))
    classifier = SubtomogramClassifier(
        encoder="bn_cnn", max_epochs=8, random_state=0
    ).fit(volumes, has_blob)
    centres = [(2, 2, 2), (9, 9, 9), (2, 8, 2), (9, 2, 2), (1, 10, 6)]
    moved = np.stack([2 * blob(side, centre) for centre in centres])
    moved += generator.normal(scale=0.2, size=moved.shape)
    # A quarter of the resolution.
    maps = grad_cam(classifier, moved, 1, layer="encoder.convolutions.7")
    for found, centre in zip(maps, centres, strict=True):
        peak = np.unravel_index(found.argmax(), found.shape)
        assert np.abs(np.subtract(peak, centre)).max() <= 2


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_nothing_is_changed(classifier):
    network = classifier.network_
    network.train()
    network.encoder.blocks[1].eval()
    network.zero_grad(set_to_none=True)
    network.head.bias.requires_grad_(False)
    modes = [module.training for module in network.modules()]
    weights, attributes = state(network), set(vars(classifier))
    generators = torch.get_rng_state(), np.random.get_state()[1].copy()
    rc = dict(mpl.rcParams)
    with torch.no_grad():
        grad_cam(classifier, X[:3])
        assert not torch.is_grad_enabled()
    with torch.inference_mode():
        in_inference = grad_cam(classifier, X[:3])
    np.testing.assert_array_equal(in_inference, grad_cam(classifier, X[:3]))
    assert torch.is_grad_enabled()
    assert [module.training for module in network.modules()] == modes
    assert set(vars(classifier)) == attributes
    assert all(torch.equal(value, weights[n]) for n, value in state(network).items())
    for name, parameter in network.named_parameters():
        assert parameter.grad is None
        assert parameter.requires_grad == (name != "head.bias")
    for module in network.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert torch.equal(torch.get_rng_state(), generators[0])
    np.testing.assert_array_equal(np.random.get_state()[1], generators[1])
    assert dict(mpl.rcParams) == rc
    network.head.bias.requires_grad_(True)


def test_modes_come_back_after_an_error(classifier):
    classifier.network_.train()
    with pytest.raises(ValueError, match="layer='head'"):
        grad_cam(classifier, X, layer="head")
    assert classifier.network_.training
    assert classifier.network_.encoder.training


def test_a_frozen_encoder_has_maps():
    # None of its weights asks for a gradient.
    frozen = RB3DClassifier(freeze_encoder=True, max_epochs=1, random_state=0)
    frozen.fit(X, Y)
    frozen.network_.encoder.requires_grad_(False)
    assert grad_cam(frozen, X, "a").max() > 0


def test_layers_that_are_run_in_parts_have_maps():
    # On the CPU, larger batches go through the first convolution in several parts.
    volumes = np.random.default_rng(0).normal(size=(3, 32, 32, 32))
    classifier = RB3DClassifier(encoder="rb3d", max_epochs=1, random_state=0)
    classifier.fit(volumes, [0, 1, 0])
    maps = grad_cam(classifier, volumes, 0, layer="encoder.stem")
    assert maps.shape == volumes.shape


def test_precision_is_that_of_prediction(classifier, monkeypatch):
    exact = grad_cam(classifier, X[:2], "a")
    seen = set()
    hook = classifier.network_.encoder.blocks.register_forward_hook(
        lambda module, inputs, output: seen.add(output.dtype)
    )
    monkeypatch.setattr("sksubtomo._training.precision._has_bf16", lambda device: True)
    monkeypatch.setattr(classifier, "precision", "bf16")
    rounded = grad_cam(classifier, X[:2], "a")
    hook.remove()
    assert seen == {torch.bfloat16}
    assert rounded.dtype == np.float32
    assert not np.array_equal(rounded, exact)
    np.testing.assert_allclose(rounded, exact, atol=0.05 * exact.max())


def test_wrapped_classifiers(classifier):
    expected = grad_cam(classifier, X, "a")
    np.testing.assert_array_equal(
        grad_cam(FrozenEstimator(classifier), X, "a"), expected
    )
    halved = make_pipeline(
        FunctionTransformer(lambda volumes: volumes / 2, check_inverse=False),
        FrozenEstimator(classifier),
    ).fit(X, Y)
    np.testing.assert_array_equal(grad_cam(halved, 2 * X, "a"), expected)
    search = GridSearchCV(
        RB3DClassifier(max_epochs=1, random_state=0), {"lr": [1e-3]}, cv=2
    ).fit(X, Y)
    np.testing.assert_array_equal(
        grad_cam(search, X), grad_cam(search.best_estimator_, X)
    )
    calibrated = TemperatureScaledClassifier(FrozenEstimator(classifier)).fit(X, Y)
    np.testing.assert_array_equal(grad_cam(calibrated, X, "a"), expected)


def test_labels_are_those_of_the_outer_classifier():
    fractions = LabelFractionClassifier(
        RB3DClassifier(max_epochs=1), labels_per_class=2, random_state=0
    ).fit(X, Y)
    for number, label in enumerate("abc"):
        np.testing.assert_array_equal(
            grad_cam(fractions, X, label), grad_cam(fractions.estimator_, X, number)
        )
    with pytest.raises(ValueError, match="target has the label 0"):
        grad_cam(fractions, X, 0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"X": X[:, 0]}, ValueError, "3 axes"),
        ({"X": X[:, :4]}, ValueError, r"volumes of shape \(4, 8, 8\)"),
        ({"target": "d"}, ValueError, "target has the label 'd'"),
        ({"target": ["a", "b"]}, ValueError, r"target have shape \(2,\)"),
        ({"layer": "blocks"}, ValueError, "layer='blocks', which is no part.*blocks.0"),
        ({"layer": nn.ReLU()}, ValueError, "layer is a ReLU, which is no part"),
        ({"layer": "head"}, ValueError, "layer='head' has no output of shape"),
        ({"layer": 3}, TypeError, "layer is a int"),
        ({"classifier": LogisticRegression()}, TypeError, "LogisticRegression"),
        ({"classifier": RB3DClassifier()}, NotFittedError, "not fitted"),
        (
            {"classifier": LabelFractionClassifier(RB3DClassifier())},
            NotFittedError,
            "not fitted",
        ),
    ],
)
def test_grad_cam_rejects(classifier, arguments, error, message):
    with pytest.raises(error, match=message):
        grad_cam(**{"classifier": classifier, "X": X, **arguments})


def test_missing_captum_names_the_extra(classifier, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(ImportError, match=r"sksubtomo\[explain\]"):
        grad_cam(classifier, X)


def ball(side, radius):
    away = np.square(np.ix_(*[np.arange(side) - (side - 1) / 2] * 3)[0])
    squared = away + away.reshape(1, -1, 1) + away.reshape(1, 1, -1)
    return (squared <= radius**2).astype(float)


def test_width_in_closed_form():
    two = np.zeros((9, 10, 11))
    two[4, 5, 2] = two[4, 5, 8] = 0.3
    uneven = np.zeros((9, 10, 11))
    uneven[1, 1, 1], uneven[4, 5, 1] = 3.0, 1.0  # 5 voxels apart
    point = np.zeros((9, 10, 11))
    point[0, 9, 3] = 1e-30
    maps = np.stack([two, uneven, point, np.zeros_like(two), np.ones_like(two)])
    even = np.sqrt((9**2 + 10**2 + 11**2 - 3) / 12)
    expected = [3.0, 5 * np.sqrt(3 / 16), 0.0, np.nan, even]
    np.testing.assert_allclose(attention_width(maps), expected, atol=1e-12)
    np.testing.assert_allclose(
        attention_width(maps, voxel_size=13.6), 13.6 * np.array(expected), atol=1e-12
    )
    # One of the two of the uneven map is below half of the maximum.
    expected = np.cbrt(3 * np.array([2, 1, 1, np.nan, 990]) / (4 * np.pi))
    np.testing.assert_allclose(attention_width(maps, measure="half_maximum"), expected)


def test_width_of_a_ball():
    maps = np.stack([ball(41, 8.0), ball(41, 16.0)])
    np.testing.assert_allclose(
        attention_width(maps, measure="half_maximum"), [8, 16], rtol=0.02
    )
    np.testing.assert_allclose(
        attention_width(maps), np.sqrt(3 / 5) * np.array([8, 16]), rtol=0.02
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"maps": np.ones((4, 4, 4))}, r"maps have shape \(4, 4, 4\)"),
        ({"maps": -np.ones((1, 4, 4, 4))}, "negative"),
        ({"maps": np.full((1, 4, 4, 4), np.nan)}, "NaN"),
        ({"voxel_size": 0.0}, "voxel_size=0.0"),
        ({"measure": "fwhm"}, "measure='fwhm'"),
    ],
)
def test_width_rejects(arguments, message):
    with pytest.raises(ValueError, match=message):
        attention_width(**{"maps": np.ones((1, 4, 4, 4)), **arguments})


VOLUMES = rng.normal(size=(2, 6, 7, 8))
MAPS = {"pretrained": rng.random((2, 6, 7, 8)), "random": np.zeros((2, 6, 7, 8))}


def test_display_draws_planes_of_volumes_and_maps():
    display = GradCAMDisplay(VOLUMES, MAPS, labels=["x", "y"], voxel_size=10.0)
    assert display.plot(positions=(1, 2, 3)) is display
    assert display.axes_.shape == (2, 6)
    for row in range(2):
        grey = VOLUMES[row]
        part = MAPS["pretrained"][row] / MAPS["pretrained"][row].max()
        for column, index in enumerate([(1,), (slice(None), 2), (..., 3)]):
            drawn = [i.get_array() for i in display.axes_[row, column].images]
            np.testing.assert_array_equal(drawn[0], grey[index])
            np.testing.assert_allclose(drawn[1], part[index])
            of_random = display.axes_[row, 3 + column].images
            np.testing.assert_array_equal(of_random[0].get_array(), grey[index])
            assert not of_random[1].get_array().any()
        assert display.axes_[row, 0].get_ylabel() == "xy"[row]
    colors = display.axes_[0, 0].images[1].cmap
    assert colors(0.0)[3] == 0.0
    assert colors(1.0)[3] > colors(0.5)[3] > 0.3
    titles = [ax.get_title() for ax in display.axes_[0]]
    assert titles == ["xy", "pretrained\nxz", "yz", "xy", "random\nxz", "yz"]
    assert display.axes_[-1, 0].get_xlabel() == "50 Å"
    display.figure_.canvas.draw()


def test_display_from_estimators_explains_what_each_one_predicts(classifier):
    other = RB3DClassifier(max_epochs=1, random_state=1).fit(X, Y)
    both = {"one": classifier, "other": other}
    display = GradCAMDisplay.from_estimators(both, X[:2].reshape(2, -1), y=Y[:2])
    for name, fitted in both.items():
        np.testing.assert_array_equal(display.maps[name], grad_cam(fitted, X[:2]))
        np.testing.assert_array_equal(display.targets[name], fitted.predict(X[:2]))
    np.testing.assert_array_equal(display.volumes, X[:2])
    assert display.axes_.shape == (2, 6)
    assert display.axes_[1, 5].get_xlabel() == other.predict(X[1:2])[0]
    same = GradCAMDisplay.from_estimators(both, X[:2], target="c")
    np.testing.assert_array_equal(same.maps["one"], grad_cam(classifier, X[:2], "c"))
    assert set(same.targets["other"]) == {"c"}


def test_display_from_estimator_draws_into_given_axes(classifier):
    figure, axes = plt.subplots(1, 3)
    display = GradCAMDisplay.from_estimator(
        classifier, X[:1], layer="encoder.blocks.0", ax=axes, title="Where"
    )
    assert display.figure_ is figure
    np.testing.assert_array_equal(display.axes_[0], axes)
    expected = grad_cam(classifier, X[:1], layer="encoder.blocks.0")
    np.testing.assert_array_equal(display.maps[""], expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"volumes": np.zeros((2, 6))}, "volumes have shape"),
        ({"maps": {}}, "maps is empty"),
        ({"maps": {"a": np.zeros((1, 6, 7, 8))}}, r"maps\['a'\] have shape"),
        ({"labels": ["x"]}, r"labels have shape \(1,\)"),
        ({"targets": {"a": ["x", "y"]}}, r"targets has the names \['a'\]"),
        ({"voxel_size": -1.0}, "voxel_size=-1.0"),
    ],
)
def test_display_rejects(arguments, message):
    with pytest.raises(ValueError, match=message):
        GradCAMDisplay(**{"volumes": VOLUMES, "maps": MAPS, **arguments})


def test_display_rejects_positions_outside():
    with pytest.raises(ValueError, match=r"positions=\(6, 0, 0\)"):
        GradCAMDisplay(VOLUMES, MAPS).plot(positions=(6, 0, 0))


def test_missing_matplotlib_names_the_extra(monkeypatch):
    display = GradCAMDisplay(VOLUMES, MAPS)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"sksubtomo\[study\]"):
        display.plot()


def test_batch_statistics_do_not_move():
    classifier = SubtomogramClassifier(
        encoder=BatchNormCNN(), max_epochs=1, random_state=0
    ).fit(X, Y)
    classifier.network_.train()
    before = state(classifier.network_)
    grad_cam(classifier, X)
    after = state(classifier.network_)
    assert all(torch.equal(before[name], after[name]) for name in before)
