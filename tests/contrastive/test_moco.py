import math
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sksubtomo.contrastive import MoCo, info_nce_loss


def units(n, dim, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, dim, dtype=torch.float64, generator=generator)
    return F.normalize(rows, dim=1)


def volumes(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 1, 3, 3, 3, dtype=torch.float64, generator=generator)


def build(with_batch_norm=False, **parameters):
    parameters = {"queue_size": 6, "momentum": 0.7, "projection_dim": 4} | parameters
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [nn.Flatten(), nn.Linear(27, 5)]
        encoder = nn.Sequential(*layers, *[nn.BatchNorm1d(5)] * with_batch_norm)
        encoder.n_features = 5
        module = MoCo(hidden_dim=7, **parameters).build(encoder).double()
        # Otherwise keys and queries start equal, and a swap would go unnoticed.
        for parameter in module.encoder.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return module


@pytest.mark.parametrize("n_queue", [1, 7])
@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_equals_the_formula(n_queue, temperature):
    query, key, queue = units(5, 3), units(5, 3, seed=1), units(n_queue, 3, seed=2)
    total = 0.0
    for j in range(5):
        positive = math.exp(sum(query[j] * key[j]) / temperature)
        negatives = [math.exp(sum(query[j] * k) / temperature) for k in queue]
        total -= math.log(positive / (positive + sum(negatives)))
    loss = info_nce_loss(query, key, queue, temperature)
    assert loss.item() == pytest.approx(total / 5, abs=1e-12)


@pytest.mark.parametrize(("n", "n_queue"), [(1, 1), (5, 7), (32, 128)])
def test_equals_info_nce_pytorch(n, n_queue):
    info_nce = pytest.importorskip("info_nce", reason="an oracle that is not installed")
    query, key, queue = units(n, 6), units(n, 6, seed=1), units(n_queue, 6, seed=2)
    expected = info_nce.InfoNCE(temperature=0.3)(query, key, queue)
    found = info_nce_loss(query, key, queue, 0.3)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


def test_equal_vectors_give_the_logarithm_of_the_candidates():
    row = units(1, 4)
    loss = info_nce_loss(row.expand(3, 4), row.expand(3, 4), row.expand(9, 4), 0.2)
    assert loss.item() == pytest.approx(math.log(10), abs=1e-12)


def test_orthogonal_queue_and_equal_views():
    basis = torch.eye(6, dtype=torch.float64)
    loss = info_nce_loss(basis[:2], basis[:2], basis[2:], 0.5)
    assert loss.item() == pytest.approx(math.log(1 + 4 * math.exp(-2)), abs=1e-12)


def test_gradient():
    inputs = [units(n, 3, seed=n).requires_grad_() for n in (2, 2, 5)]
    inputs[1] = units(2, 3, seed=9).requires_grad_()
    assert torch.autograd.gradcheck(lambda *args: info_nce_loss(*args, 0.3), inputs)


def test_a_step_in_its_order():
    module = build(temperature=0.3)
    view_1, view_2 = volumes(4), volumes(4, seed=1)
    before = deepcopy(module)

    loss = module(view_1, view_2)

    pairs = [("encoder", "key_encoder"), ("head", "key_head")]
    for source, target in pairs:
        for theta_q, theta_k in zip(
            getattr(before, source).parameters(),
            getattr(before, target).parameters(),
            strict=True,
        ):
            theta_k.copy_(0.7 * theta_k + 0.3 * theta_q.detach())
        moved = getattr(module, target).state_dict()
        for name, expected in getattr(before, target).state_dict().items():
            torch.testing.assert_close(moved[name], expected, rtol=0, atol=1e-15)

    query = F.normalize(before.head(before.encoder(view_1)), dim=1)
    key = F.normalize(before.key_head(before.key_encoder(view_2)), dim=1)
    old_queue = before.queue.rows
    torch.testing.assert_close(loss, info_nce_loss(query, key, old_queue, 0.3))
    torch.testing.assert_close(module.queue.rows[:4], key.detach())
    assert torch.equal(module.queue.rows[4:], old_queue[4:])


def test_queries_do_not_move_in_forward():
    module = build()
    before = {k: v.clone() for k, v in module.encoder.state_dict().items()}
    module(volumes(4), volumes(4, seed=1))
    assert all(
        torch.equal(v, before[k]) for k, v in module.encoder.state_dict().items()
    )


@pytest.mark.parametrize(
    ("momentum", "source"), [(0.0, "encoder"), (1.0, "key_encoder")]
)
def test_momentum_at_its_limits(momentum, source):
    module = build(momentum=momentum)
    expected = deepcopy(getattr(module, source).state_dict())
    module(volumes(4), volumes(4, seed=1))
    for name, value in module.key_encoder.state_dict().items():
        assert torch.equal(value, expected[name])


def test_key_path_and_queue_get_no_gradient():
    module = build()
    view_1, view_2 = volumes(4).requires_grad_(), volumes(4, seed=1).requires_grad_()
    module(view_1, view_2).backward()
    assert view_1.grad.abs().max() > 0
    assert view_2.grad is None
    for part in (module.key_encoder, module.key_head):
        assert all(p.grad is None and not p.requires_grad for p in part.parameters())
    assert not module.queue.rows.requires_grad


def test_queue_wraps_around_and_is_never_duplicated_in_one_batch():
    module = build(queue_size=6)
    for seed in range(4):
        module(volumes(4, seed), volumes(4, seed + 50)).backward()
    assert module.queue.position == 16 % 6
    module(volumes(20), volumes(20, seed=1)).backward()
    with torch.no_grad():
        keys = F.normalize(module.key_head(module.key_encoder(volumes(20, 1))), dim=1)
    position = int(module.queue.position)
    oldest_first = module.queue.rows.roll(-position, dims=0)
    torch.testing.assert_close(oldest_first, keys[-6:])


def test_batch_norm_statistics_of_the_key_encoder_are_its_own():
    module = build(with_batch_norm=True)
    view_1, view_2 = volumes(8), volumes(8, seed=1) + 5
    module(view_1, view_2)
    linear, norm = module.key_encoder[1], module.key_encoder[2]
    expected = 0.1 * linear(view_2.flatten(1)).mean(dim=0)
    torch.testing.assert_close(norm.running_mean, expected)
    assert not torch.allclose(norm.running_mean, module.encoder[2].running_mean)
