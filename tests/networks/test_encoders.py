"""What every encoder has to do."""

import pytest
import torch
from sklearn.base import clone
from torch import nn

from sksubtomo import SubtomogramClassifier
from sksubtomo.networks import (
    CB3D,
    DSRF3D,
    ENCODERS,
    RB3D,
    BatchNormCNN,
    ResNet3D,
)

VARIANTS = [
    RB3D(),
    RB3D(norm="group"),
    RB3D(variant="che2018"),
    RB3D(norm="group", variant="che2018"),
    DSRF3D(),
    CB3D(),
    BatchNormCNN(),
    ResNet3D(),
    ResNet3D(norm="group"),
    ResNet3D(widths=(8, 8), n_blocks=2),
]
LIGHT = [encoder for encoder in VARIANTS if not isinstance(encoder, CB3D)]

# Those of scikit-learn's checks, and odd and unequal ones.
SHAPES = [(1, 1, 1), (1, 1, 2), (1, 1, 3), (1, 1, 10), (3, 3, 3), (5, 6, 7)]
CASES = [(encoder, shape) for encoder in LIGHT for shape in SHAPES]
# Its dense layers take a second to draw.
CASES += [(CB3D(), (1, 2, 3))]

encoders = pytest.mark.parametrize("encoder", VARIANTS, ids=repr)
light_encoders = pytest.mark.parametrize("encoder", LIGHT, ids=repr)


def test_all_have_a_name():
    assert {type(encoder) for encoder in VARIANTS} == set(ENCODERS.values())


@pytest.mark.parametrize(("encoder", "shape"), CASES, ids=repr)
def test_any_shape(encoder, shape):
    torch.manual_seed(0)
    network = encoder.build(shape)
    assert type(network.n_features) is int
    for n in (1, 3):
        network.zero_grad()
        features = network(torch.randn(n, 1, *shape))
        assert features.shape == (n, network.n_features)
        assert torch.isfinite(features).all()
        features.sum().backward()
        for name, parameter in network.named_parameters():
            assert torch.isfinite(parameter.grad).all(), name
    # The scale of the input is kept, whatever part of the kernels is in the padding.
    features = network.eval()(torch.randn(32, 1, *shape))
    assert 0.02 < features.square().mean().sqrt() < 5


@light_encoders
def test_output_does_not_depend_on_the_batch(encoder):
    torch.manual_seed(0)
    network = encoder.build((8, 8, 8)).double()
    volumes = torch.randn(4, 1, 8, 8, 8, dtype=torch.float64)
    network(volumes)
    network.eval()
    torch.testing.assert_close(
        network(volumes)[1:2], network(volumes[1:2]), rtol=1e-9, atol=1e-12
    )


@light_encoders
def test_drawn_from_the_global_generator(encoder):
    def draw(seed):
        torch.manual_seed(seed)
        return encoder.build((1, 2, 2)).state_dict()

    first, again, other = draw(0), draw(0), draw(1)
    for name, value in first.items():
        assert torch.equal(value, again[name])
        if name.endswith("weight") and value.ndim > 1:
            assert not torch.equal(value, other[name]), name
    state = torch.get_rng_state()
    with torch.device("meta"):
        encoder.build((8, 8, 8))
    assert torch.equal(torch.get_rng_state(), state)


@encoders
def test_is_a_parameter_object(encoder):
    assert clone(encoder).get_params() == encoder.get_params()
    assert not [
        value for value in vars(encoder).values() if isinstance(value, nn.Module)
    ]


@pytest.mark.parametrize("encoder", [RB3D(variant="che2018"), DSRF3D(), ResNet3D()])
def test_saved_classifier_predicts_the_same(encoder, tmp_path):
    torch.manual_seed(0)
    X = torch.randn(5, 4, 4, 4).numpy()
    # The last batch has one volume.
    classifier = SubtomogramClassifier(
        encoder=encoder, batch_size=2, max_epochs=1, random_state=0
    ).fit(X, [0, 0, 1, 1, 1])
    classifier.save(tmp_path / "model")
    loaded = SubtomogramClassifier.load(tmp_path / "model")
    assert (loaded.predict_proba(X) == classifier.predict_proba(X)).all()
    assert loaded.encoder.get_params() == encoder.get_params()
