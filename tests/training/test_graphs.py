import operator
from contextlib import suppress

import numpy as np
import pytest
import torch
from torch import nn

from sksubtomo._training.batches import Normalizer, Part, VolumeDataset
from sksubtomo._training.checkpoints import optimizer_state
from sksubtomo._training.fitting import TrainingOptions, warm_up_factor
from sksubtomo._training.graphs import GraphedStep, LearningRates, optimizer_settings
from sksubtomo._training.nets import ContrastiveNet
from sksubtomo.augmentation import RotateShiftNoise
from sksubtomo.contrastive import METHODS
from sksubtomo.networks import RB3D

CPU = torch.device("cpu")
CUDA = torch.device("cuda")


class StandIn:
    """Does the step where a graph would replay it, from inputs of its own."""

    log = []

    def __init__(self, step, view_1, view_2):
        self.step = step
        self.views = (view_1.clone(), view_2.clone())
        self.log.append("record")

    def replay(self, view_1, view_2):
        for recorded, view in zip(self.views, (view_1, view_2), strict=True):
            recorded.copy_(view)
        self.log.append("replay")
        return self.step(*self.views).detach().clone()

    @staticmethod
    def warm_up(step, view_1, view_2):
        StandIn.log.append("warm up")
        return step(view_1, view_2).detach()


@pytest.fixture
def log(monkeypatch):
    monkeypatch.setattr(StandIn, "log", [])
    return StandIn.log


class Training:
    """A module, its optimiser, and what a step does with them."""

    def __init__(self, method, device, *, graphed):
        torch.manual_seed(0)
        self.module = METHODS[method]().build(RB3D().build((8, 8, 8))).to(device)
        settings = optimizer_settings(torch.optim.Adam, device, graphed=graphed)
        self.optimizer = torch.optim.Adam(
            self.module.parameters(), lr=1e-3, weight_decay=1e-4, **settings
        )

    def step(self, view_1, view_2):
        self.optimizer.zero_grad()
        loss = self.module(view_1, view_2)
        loss.backward()
        self.optimizer.step()
        return loss


def _views(sizes, device):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, n, 1, 8, 8, 8, generator=generator).to(device) for n in sizes
    ]


def _train(step, training, batches, n_epochs):
    losses = []
    for epoch in range(n_epochs):
        training.module.start_epoch(epoch)
        losses += [step(*views, epoch == 0) for views in batches]
    return torch.stack(losses).detach().cpu(), training.module.state_dict()


@pytest.fixture(autouse=True)
def _same_generator():
    with torch.random.fork_rng():
        yield


def test_every_call_is_one_step(log):
    batches = _views([4, 4, 3, 4, 4], CPU)
    plain, graphed = (Training("moco", CPU, graphed=False) for _ in range(2))
    expected = _train(lambda a, b, key: plain.step(a, b), plain, batches, 2)
    step = GraphedStep(graphed.step, warm_up=2, capture=StandIn)
    found = _train(lambda a, b, key: step(a, b), graphed, batches, 2)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    # Eight steps of the first shape; the two of the other one are in no record.
    assert log == ["warm up"] * 2 + ["record"] + ["replay"] * 6


def test_another_key_is_recorded_anew(log):
    batches = _views([4] * 5, CPU)
    plain, graphed = (Training("swav", CPU, graphed=False) for _ in range(2))
    expected = _train(lambda a, b, key: plain.step(a, b), plain, batches, 2)
    step = GraphedStep(graphed.step, warm_up=1, capture=StandIn)
    found = _train(step, graphed, batches, 2)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert log == (["warm up", "record"] + ["replay"] * 4) * 2


@pytest.mark.usefixtures("log")
def test_losses_are_kept_apart_and_have_no_gradient():
    training = Training("simclr", CPU, graphed=False)
    step = GraphedStep(training.step, warm_up=1, capture=StandIn)
    losses = [step(*views) for views in _views([4, 4, 4, 2], CPU)]
    assert len({loss.data_ptr() for loss in losses}) == 4
    assert not any(loss.requires_grad for loss in losses)


def _net(method, *, graphed, optimizer="adam", schedule="constant"):
    torch.manual_seed(0)
    module = METHODS[method]().build(RB3D().build((4, 4, 4)))
    options = TrainingOptions(
        max_epochs=10,
        batch_size=4,
        lr=1e-3,
        weight_decay=1e-4,
        callbacks=None,
        device="cpu",
        seed=0,
        verbose=0,
        optimizer=optimizer,
        schedule=schedule,
    )
    return ContrastiveNet(
        module,
        view=RotateShiftNoise().build(0),
        parallel=lambda view_1, view_2, n: module(view_1, view_2),
        graphed=graphed,
        normalizer=Normalizer(),
        seed=0,
        **options.net_parameters("", CPU),
    )


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_schedule_is_no_reason_to_record_anew(log, optimizer):
    volumes = np.random.default_rng(0).normal(size=(18, 4, 4, 4)).astype(np.float32)
    net = _net("simclr", graphed=True, optimizer=optimizer, schedule="warmup_cosine")
    read = []

    def step(view_1, view_2):
        (group,) = net.optimizer_.param_groups
        read.append(group["lr"])
        rates.append(group["lr"].item())
        return net._learn(view_1, view_2)

    rates = []
    net.graphed_step = GraphedStep(step, capture=StandIn)
    history = net.train(VolumeDataset(volumes))
    # Four whole batches an epoch; the fifth one is in no record.
    assert log == ["warm up"] * 3 + ["record"] + ["replay"] * 37
    assert all(rate is read[0] for rate in read)
    expected = [1e-3 * warm_up_factor(epoch, 10) for epoch in range(10)]
    np.testing.assert_allclose(rates, np.repeat(expected, 5), rtol=1e-6)
    # Everyone else has numbers, as without recordings.
    assert [epoch["event_lr"] for epoch in history] == pytest.approx(expected)
    assert all(type(epoch["event_lr"]) is float for epoch in history)
    (saved,) = optimizer_state(net.optimizer_).values["optimizer"]
    assert (saved["lr"], saved["initial_lr"]) == (0, 1e-3)


def test_recorded_steps_read_learning_rates_where_they_are():
    weights = [nn.Parameter(torch.ones(2)) for _ in range(3)]
    optimizer = torch.optim.SGD([{"params": [w], "lr": 0.5} for w in weights[:2]])
    rates = LearningRates()
    with rates.on_device(optimizer):
        recorded = [group["lr"] for group in optimizer.param_groups]
        assert [rate.item() for rate in recorded] == [0.5, 0.5]
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5]
    optimizer.param_groups[1]["lr"] = 0.25
    optimizer.add_param_group({"params": [weights[2]], "lr": 0.125})
    with rates.on_device(optimizer):
        again = [group["lr"] for group in optimizer.param_groups]
        assert all(map(operator.is_, again, recorded))
        assert [rate.item() for rate in again] == [0.5, 0.25, 0.125]
    with suppress(RuntimeError), rates.on_device(optimizer):
        raise RuntimeError
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.25, 0.125]


def test_what_is_recorded_anew():
    net = _net("swav", graphed=True).initialize()
    module = net.module_
    keys = []

    def take_step():
        """Return whether the step depends on what the one before did not."""
        net.train_step((Part(torch.zeros(4, 1, 4, 4, 4), 0, 4), None))
        return len(keys) == 1 or keys[-1] != keys[-2]

    net.graphed_step = lambda view_1, view_2, key: keys.append(key)
    (group,) = net.optimizer_.param_groups
    assert take_step()
    # What is on the device is read at every replay.
    group["lr"] = 0.2
    group["initial_lr"] = 0.1
    assert not take_step()
    for name, value in {"betas": (0.8, 0.9), "weight_decay": 0.1}.items():
        group[name] = value
        assert take_step(), name
    module.start_epoch(module.frozen_epochs)
    assert take_step()
    module.encoder.requires_grad_(False)
    assert take_step()
    assert not take_step()


def test_optimizer_settings():
    for kind in (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD):
        assert optimizer_settings(kind, CPU, graphed=True) == {}
        assert optimizer_settings(kind, CUDA, graphed=False) == {"fused": True}
        kind(nn.Linear(2, 2).parameters(), fused=True)
    both = {"fused": True, "capturable": True}
    assert optimizer_settings(torch.optim.AdamW, CUDA, graphed=True) == both
    assert optimizer_settings(torch.optim.SGD, CUDA, graphed=True) == {"fused": True}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("method", METHODS)
def test_a_cuda_graph_is_the_same_training(method):
    batches = _views([4] * 6 + [3] + [4] * 6, CUDA)
    plain = Training(method, CUDA, graphed=False)
    expected = _train(lambda a, b, key: plain.step(a, b), plain, batches, 2)
    graphed = Training(method, CUDA, graphed=True)
    found = _train(GraphedStep(graphed.step), graphed, batches, 2)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_step_that_waits_for_the_device_is_refused():
    def step(view_1, view_2):
        return (view_1 - view_2).mean() * view_1.mean().item()

    graphed = GraphedStep(step, warm_up=1)
    (views,) = _views([4], CUDA)
    graphed(*views)
    with pytest.raises(RuntimeError, match="compile='step' could not record"):
        graphed(*views)
