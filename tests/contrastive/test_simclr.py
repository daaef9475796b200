import math

import pytest
import torch
from torch import nn

from sksubtomo.contrastive import SimCLR, nt_xent_loss


def randn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def naive_nt_xent(z_1, z_2, temperature, decoupled=False):
    z = z_1.tolist() + z_2.tolist()
    n = len(z_1)
    total = 0.0
    for i in range(2 * n):
        partner = (i + n) % (2 * n)
        exps = {
            k: math.exp(cosine(z[i], z[k]) / temperature)
            for k in range(2 * n)
            if k != i
        }
        candidates = sum(exps.values()) - (exps[partner] if decoupled else 0)
        total -= math.log(exps[partner] / candidates)
    return total / (2 * n)


@pytest.mark.parametrize("n", [1, 2, 5, 16])
@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_equals_the_formula(n, temperature):
    z_1, z_2 = randn(n, 6, seed=n), 3 * randn(n, 6, seed=n + 100)
    loss = nt_xent_loss(z_1, z_2, temperature)
    assert loss.item() == pytest.approx(naive_nt_xent(z_1, z_2, temperature), abs=1e-12)


@pytest.mark.parametrize("n", [2, 5, 16])
@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_decoupled_equals_the_formula(n, temperature):
    z_1, z_2 = randn(n, 6, seed=n), 3 * randn(n, 6, seed=n + 100)
    loss = nt_xent_loss(z_1, z_2, temperature, decoupled=True)
    expected = naive_nt_xent(z_1, z_2, temperature, decoupled=True)
    assert loss.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("n", [1, 2, 7, 32])
def test_equals_pytorch_metric_learning(n):
    losses = pytest.importorskip(
        "pytorch_metric_learning.losses", reason="an oracle that is not installed"
    )
    oracle = losses.SelfSupervisedLoss(losses.NTXentLoss(temperature=0.3))
    z_1, z_2 = randn(n, 6), 3 * randn(n, 6, seed=1)
    found = nt_xent_loss(z_1, z_2, 0.3)
    torch.testing.assert_close(found, oracle(z_1, z_2), rtol=0, atol=1e-14)


@pytest.mark.parametrize("n", [1, 3, 8])
def test_equal_projections_give_the_logarithm_of_the_candidates(n):
    z = torch.ones(n, 4, dtype=torch.float64)
    loss = nt_xent_loss(z, 5 * z, 0.3)
    assert loss.item() == pytest.approx(math.log(2 * n - 1), abs=1e-12)


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_orthogonal_volumes_with_equal_views(temperature):
    z = torch.eye(6, dtype=torch.float64)
    expected = math.log(1 + 10 * math.exp(-1 / temperature))
    assert nt_xent_loss(z, z, temperature).item() == pytest.approx(expected, abs=1e-12)


def test_is_symmetric_in_the_views_and_ignores_length():
    z_1, z_2 = randn(4, 3), randn(4, 3, seed=1)
    loss = nt_xent_loss(z_1, z_2, 0.5)
    torch.testing.assert_close(nt_xent_loss(z_2, z_1, 0.5), loss)
    torch.testing.assert_close(nt_xent_loss(7 * z_1, 0.1 * z_2, 0.5), loss)


@pytest.mark.parametrize("decoupled", [False, True])
def test_gradient(decoupled):
    z_1 = randn(3, 4).requires_grad_()
    z_2 = randn(3, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda a, b: nt_xent_loss(a, b, 0.5, decoupled), (z_1, z_2)
    )


def test_gradient_of_a_pair_that_is_alike_lasts_where_the_loss_is_decoupled():
    norms = []
    for decoupled in (False, True):
        z_1 = torch.eye(4, dtype=torch.float64).requires_grad_()
        z_2 = torch.eye(4, dtype=torch.float64) + 0.1 * randn(4, 4)
        nt_xent_loss(z_1, z_2, 0.1, decoupled).backward()
        norms.append(z_1.grad.norm())
    assert norms[0] < 0.01 * norms[1]


@pytest.mark.parametrize("decoupled", [False, True])
def test_zero_for_one_volume(decoupled):
    z_1 = randn(1, 4).requires_grad_()
    loss = nt_xent_loss(z_1, randn(1, 4, seed=1), 0.5, decoupled)
    loss.backward()
    assert loss == 0
    assert not z_1.grad.any()


@pytest.mark.parametrize("decoupled", [False, True])
def test_zero_projections_are_finite(decoupled):
    z_1 = torch.zeros(3, 4, requires_grad=True)
    loss = nt_xent_loss(z_1, torch.ones(3, 4), 0.5, decoupled)
    loss.backward()
    assert loss.isfinite()
    assert z_1.grad.isfinite().all()


def test_module_passes_its_parameters_on():
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(27, 5))
    encoder.n_features = 5
    for decoupled in (False, True):
        method = SimCLR(temperature=0.3, decoupled=decoupled)
        module = method.build(encoder).double()
        views = randn(4, 1, 3, 3, 3), randn(4, 1, 3, 3, 3, seed=1)
        z = [module.head(encoder(view)) for view in views]
        expected = nt_xent_loss(*z, 0.3, decoupled)
        torch.testing.assert_close(module(*views), expected)
