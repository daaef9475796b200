import numpy as np
import pytest
import torch
from skorch.callbacks import Callback

from sksubtomo._training.batches import Normalizer
from sksubtomo._training.fitting import (
    ClassifierNetwork,
    TrainingOptions,
    WeightedCrossEntropy,
    fine_tune,
    warm_up_factor,
)
from sksubtomo.networks import RB3D, BatchNormCNN

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


def test_smoothed_labels_are_for_training_only():
    torch.manual_seed(0)
    logits = torch.randn(5, 3, dtype=torch.float64)
    labels = torch.tensor([0, 2, 1, 1, 0])
    weights = torch.tensor([0.5, 2.0, 0.3], dtype=torch.float64)
    smoothed = 0.7 * torch.eye(3)[labels] + 0.1
    losses = -(smoothed * logits.log_softmax(1)).sum(1)
    criterion = WeightedCrossEntropy(label_smoothing=0.3)
    assert criterion(logits, labels).item() == pytest.approx(losses.mean().item())
    weighted = WeightedCrossEntropy(weights, label_smoothing=0.3)
    expected = (weights[labels] * losses).mean().item()
    assert weighted(logits, labels).item() == pytest.approx(expected)
    plain = WeightedCrossEntropy(weights)(logits, labels)
    assert torch.equal(weighted.eval()(logits, labels), plain)


def test_soft_labels():
    torch.manual_seed(0)
    logits = torch.randn(5, 3, dtype=torch.float64)
    labels = torch.tensor([0, 2, 1, 1, 0])
    certain = torch.eye(3, dtype=torch.float64)[labels]
    for weights in (None, torch.tensor([0.5, 2.0, 0.0], dtype=torch.float64)):
        expected = WeightedCrossEntropy(weights)(logits, labels).item()
        criterion = WeightedCrossEntropy(weights, label_smoothing=0.3)
        assert criterion(logits, certain).item() == pytest.approx(expected)
        # The sum of a row is what its volume counts.
        assert criterion(logits, 2 * certain).item() == pytest.approx(2 * expected)


class Watch(Callback):
    """Keep learning rates, and weights after every step and epoch."""

    def __init__(self):
        self.groups, self.steps, self.epochs = [], [], []

    def on_epoch_begin(self, net, **kwargs):
        self.optimizer = type(net.optimizer_)
        self.groups.append([dict(group) for group in net.optimizer_.param_groups])

    def on_batch_end(self, net, training, **kwargs):
        if training:
            self.steps.append(_state(net.module_))
        self.last = _state(net.module_)

    def on_epoch_end(self, net, **kwargs):
        self.epochs.append(_state(net.module_))


def _state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def _fine_tune(n_volumes=6, encoder=RB3D(), labels=None, options=None, **parameters):  # noqa: B008
    """Fine-tune on noise of two classes, watched."""
    watch = Watch()
    volumes = np.random.default_rng(0).normal(size=(n_volumes, 4, 4, 4))
    defaults = {
        "n_classes": 2,
        "encoder": encoder,
        "pretrained": None,
        "freeze_encoder": False,
        "standardize_features": False,
        "augmentation": None,
        "class_weights": None,
        "validation": None,
        "normalizer": Normalizer(),
    }
    network, history = fine_tune(
        volumes.astype(np.float32),
        np.arange(n_volumes) % 2 if labels is None else labels,
        options=TrainingOptions(
            **OPTIONS | {"callbacks": [("watch", watch)]} | (options or {})
        ),
        **defaults | parameters,
    )
    return network, history, watch


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        ("adam", torch.optim.Adam),
        ("adamw", torch.optim.AdamW),
        ("sgd", torch.optim.SGD),
    ],
)
def test_optimisers(optimizer, expected):
    _, _, watch = _fine_tune(options={"optimizer": optimizer})
    assert watch.optimizer is expected
    (group,) = watch.groups[0]
    assert optimizer != "sgd" or group["momentum"] == 0.9


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ("constant", np.ones(21)),
        ("cosine", (1 + np.cos(np.pi * np.arange(21) / 21)) / 2),
        (
            "warmup_cosine",
            [1 / 3, 2 / 3, *(1 + np.cos(np.pi * np.arange(19) / 19)) / 2],
        ),
    ],
)
def test_schedules(schedule, factors):
    _, history, watch = _fine_tune(
        n_volumes=2, options={"max_epochs": 21, "schedule": schedule}, encoder_lr=1e-5
    )
    head, encoder = np.transpose([[g["lr"] for g in groups] for groups in watch.groups])
    np.testing.assert_allclose(head, 1e-3 * np.array(factors))
    np.testing.assert_allclose(encoder, 1e-5 * np.array(factors))
    if schedule == "constant":
        assert "event_lr" not in history[0]
    else:
        np.testing.assert_array_equal([epoch["event_lr"] for epoch in history], head)


def test_a_short_warm_up():
    assert [warm_up_factor(epoch, 10) for epoch in range(2)] == [0.5, 1.0]
    assert warm_up_factor(0, 9) == 1.0


def test_groups_hold_every_weight_once():
    network, _, watch = _fine_tune(encoder_lr=1e-9)
    head, encoder = watch.groups[0]
    assert {id(p) for p in head["params"]} == {id(p) for p in network.head.parameters()}
    assert len(encoder["params"]) == len(list(network.encoder.parameters()))
    _, _, plain = _fine_tune()
    (group,) = plain.groups[0]
    assert len(group["params"]) == len(list(network.parameters()))


def test_averaged_weights():
    decay = 0.2
    encoder = BatchNormCNN()
    network, history, watch = _fine_tune(
        encoder=encoder,
        options={"max_epochs": 3},
        average_weights=decay,
        validation=(np.ones((2, 4, 4, 4), np.float32), np.arange(2)),
    )
    plain, _, unaveraged = _fine_tune(encoder=encoder, options={"max_epochs": 3})
    average = dict(watch.steps[0])
    for n_steps, trained in enumerate(watch.steps):
        kept = min(decay, n_steps / (n_steps + 9))
        for name, value in trained.items():
            # The training itself is not changed.
            assert torch.equal(value, unaveraged.steps[n_steps][name])
            if value.is_floating_point():
                value = kept * average[name] + (1 - kept) * value
            average[name] = value
    assert n_steps > 3
    # The first epoch's average is validated with, and the last one's returned, unless
    # the first epoch was the best.
    best = min(history, key=lambda epoch: (-epoch["valid_acc"], epoch["valid_loss"]))
    chosen = watch.epochs[best["epoch"] - 1]
    for name, value in network.state_dict().items():
        assert torch.equal(value, chosen[name])
        torch.testing.assert_close(watch.last[name], watch.epochs[-1][name])
        torch.testing.assert_close(watch.epochs[-1][name], average[name])
    last = plain.state_dict()
    (name, *_) = [name for name in last if name.endswith("running_var")]
    assert not torch.equal(watch.epochs[-1][name], last[name])
    assert all(p.requires_grad for p in network.parameters())


def test_starting_from_a_whole_network():
    first, _, _ = _fine_tune(standardize_features=True)
    before = _state(first)
    again, _, watch = _fine_tune(
        options={"lr": 1e-30, "max_epochs": 1},
        start=first,
        standardize_features=True,
    )
    assert again is not first
    for name, value in before.items():
        torch.testing.assert_close(watch.steps[0][name], value)
        assert torch.equal(first.state_dict()[name], value)


def test_soft_labels_and_class_weights():
    """The weights of the classes average to one over all that is taught."""
    labels = np.arange(6) % 2
    certain = np.eye(2, dtype=np.float32)[labels]
    weights = np.array([3.0, 5.0])
    hard, _, _ = _fine_tune(class_weights=weights, labels=labels)
    soft, _, _ = _fine_tune(class_weights=weights, labels=certain)
    for one, other in zip(hard.parameters(), soft.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_frozen_encoder_stays_in_evaluation_mode():
    network = ClassifierNetwork.build(RB3D(), (8, 8, 8), 2)
    network.freeze_encoder = True
    network.train()
    assert network.training
    assert not network.encoder.training
    assert network.head.training
