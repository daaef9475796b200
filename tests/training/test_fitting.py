import numpy as np
import pytest
import torch

from sksubtomo._training.batches import Normalizer
from sksubtomo._training.fitting import (
    ClassifierNetwork,
    TrainingOptions,
    WeightedCrossEntropy,
    fine_tune,
)
from sksubtomo.networks import RB3D

OPTIONS = {
    "max_epochs": 2,
    "batch_size": 4,
    "lr": 1e-3,
    "weight_decay": 0.0,
    "callbacks": None,
    "device": "cpu",
    "seed": 0,
    "verbose": 0,
}


def test_head_is_initialised_as_published():
    torch.manual_seed(0)
    network = ClassifierNetwork.build(RB3D(), (8, 8, 8), 40)
    assert network.head.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert (network.head.bias == 0).all()


def test_weighted_cross_entropy():
    torch.manual_seed(0)
    logits = torch.randn(5, 3, dtype=torch.float64)
    labels = torch.tensor([0, 2, 1, 1, 0])
    weights = torch.tensor([0.5, 2.0, 0.0], dtype=torch.float64)
    expected = np.mean(
        [
            weights[k].item() * -torch.log_softmax(row, 0)[k].item()
            for row, k in zip(logits, labels, strict=True)
        ]
    )
    assert WeightedCrossEntropy(weights)(logits, labels).item() == pytest.approx(
        expected
    )
    plain = torch.nn.functional.cross_entropy(logits, labels)
    assert WeightedCrossEntropy()(logits, labels).item() == plain.item()


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        ("adam", torch.optim.Adam),
        ("adamw", torch.optim.AdamW),
        ("sgd", torch.optim.SGD),
    ],
)
def test_optimiser_and_cosine(optimizer, expected):
    seen = []

    class Watch:
        def __getattr__(self, name):
            return lambda *args, **kwargs: None

        def initialize(self):
            return self

        def on_epoch_begin(self, net, **kwargs):
            seen.append((type(net.optimizer_), dict(net.optimizer_.param_groups[0])))

    options = TrainingOptions(
        **OPTIONS | {"max_epochs": 4, "callbacks": [("watch", Watch())]},
        optimizer=optimizer,
        cosine_decay=True,
    )
    volumes = np.zeros((6, 8, 8, 8), np.float32)
    fine_tune(
        volumes,
        np.arange(6) % 2,
        n_classes=2,
        encoder=RB3D(),
        pretrained=None,
        freeze_encoder=False,
        standardize_features=False,
        augmentation=None,
        class_weights=None,
        validation=None,
        normalizer=Normalizer(),
        options=options,
    )
    assert {kind for kind, _ in seen} == {expected}
    rates = [group["lr"] for _, group in seen]
    cosine = 1e-3 * (1 + np.cos(np.pi * np.arange(4) / 4)) / 2
    np.testing.assert_allclose(rates, cosine)
    if optimizer == "sgd":
        assert seen[0][1]["momentum"] == 0.9


def test_frozen_encoder_stays_in_evaluation_mode():
    network = ClassifierNetwork.build(RB3D(), (8, 8, 8), 2)
    network.freeze_encoder = True
    network.train()
    assert network.training
    assert not network.encoder.training
    assert network.head.training
