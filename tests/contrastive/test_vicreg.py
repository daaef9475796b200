import math

import pytest
import torch
from torch import nn

from sksubtomo.contrastive import VICReg, vicreg_loss


def randn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def views(n=6, seed=0):
    return randn(n, 1, 3, 3, 3, seed=seed), randn(n, 1, 3, 3, 3, seed=seed + 50)


def build(**parameters):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(27, 5))
        encoder.n_features = 5
        method = VICReg(projection_dim=4, hidden_dim=7, **parameters)
        return method.build(encoder).double()


def covariances(rows):
    n, width = len(rows), len(rows[0])
    means = [sum(row[j] for row in rows) / n for j in range(width)]
    return [
        [
            sum((row[j] - means[j]) * (row[k] - means[k]) for row in rows) / (n - 1)
            for k in range(width)
        ]
        for j in range(width)
    ]


def naive_vicreg(z_1, z_2, weights):
    z_1, z_2 = z_1.tolist(), z_2.tolist()
    n, width = len(z_1), len(z_1[0])
    squares = [
        (a - b) ** 2
        for row_1, row_2 in zip(z_1, z_2, strict=True)
        for a, b in zip(row_1, row_2, strict=True)
    ]
    invariance, variance, covariance = sum(squares) / (n * width), 0.0, 0.0
    for c in (covariances(z_1), covariances(z_2)):
        for j in range(width):
            variance += max(0, 1 - math.sqrt(c[j][j] + 1e-4)) / (2 * width)
            covariance += sum(c[j][k] ** 2 for k in range(width) if k != j) / width
    terms = (invariance, variance, covariance)
    return sum(weight * term for weight, term in zip(weights, terms, strict=True))


@pytest.mark.parametrize("n", [2, 5, 16])
@pytest.mark.parametrize("weights", [(25, 25, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_equals_the_formula(n, weights):
    # Some columns vary by less than 1, some by more.
    scale = torch.tensor([0.1, 0.5, 1.0, 2.0]).double()
    z_1, z_2 = 3 + scale * randn(n, 4, seed=n), scale * randn(n, 4, seed=n + 100)
    loss = vicreg_loss(z_1, z_2, *weights)
    assert loss.item() == pytest.approx(naive_vicreg(z_1, z_2, weights), abs=1e-11)


@pytest.mark.parametrize("n", [2, 7, 32])
def test_equals_pytorch_metric_learning(n):
    losses = pytest.importorskip(
        "pytorch_metric_learning.losses", reason="an oracle that is not installed"
    )
    z_1, z_2 = randn(n, 6), 0.3 * randn(n, 6, seed=1)
    oracle = losses.VICRegLoss(invariance_lambda=20, variance_mu=30, covariance_v=2)
    expected = oracle(z_1, ref_emb=z_2)
    found = vicreg_loss(z_1, z_2, 20, 30, 2)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)


def test_uncorrelated_embeddings_of_unit_variance_have_no_loss():
    z = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]).double()
    assert vicreg_loss(z, z) == 0
    assert vicreg_loss(z + 9, z + 9) == 0


def test_equal_embeddings_cost_their_variance():
    z = torch.ones(5, 3).double()
    assert vicreg_loss(z, z, 1, 10, 1).item() == pytest.approx(10 * (1 - 0.01))


def test_one_volume_has_its_invariance_only():
    z_1, z_2 = randn(1, 4), randn(1, 4, seed=1)
    loss = vicreg_loss(z_1, z_2, 3, 1, 1)
    torch.testing.assert_close(loss, 3 * (z_1 - z_2).square().mean())


def test_gradient():
    z_1 = randn(4, 3).requires_grad_()
    z_2 = 0.3 * randn(4, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(vicreg_loss, (z_1, z_2))


def test_gradient_of_equal_embeddings_is_finite():
    z = torch.ones(3, 4, requires_grad=True)
    vicreg_loss(z, torch.ones(3, 4)).backward()
    assert z.grad.isfinite().all()


def test_forward_equals_its_parts():
    module = build(invariance_weight=3.0, variance_weight=5.0, covariance_weight=7.0)
    view_1, view_2 = views()
    z_1, z_2 = module.head(module.encoder(view_1)), module.head(module.encoder(view_2))
    loss = module(view_1, view_2)
    torch.testing.assert_close(loss, vicreg_loss(z_1, z_2, 3, 5, 7))
    expected = 0.9 + 0.1 * z_1.detach().std(dim=0).mean()
    torch.testing.assert_close(module.spread, expected)
    module(*views(1))
    torch.testing.assert_close(module.spread, expected)


@pytest.mark.parametrize(("variance_weight", "collapses"), [(25.0, False), (0.0, True)])
def test_diagnose_recognises_a_collapse(variance_weight, collapses):
    module = build(variance_weight=variance_weight)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    for step in range(200):
        volumes = randn(16, 1, 3, 3, 3, seed=step)
        noise = 0.3 * randn(2, 16, 1, 3, 3, 3, seed=step + 1000)
        loss = module(volumes + noise[0], volumes + noise[1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    hint = module.diagnose(loss.item())
    assert (hint is not None) == collapses, module.spread
    assert not collapses or "variance_weight" in hint
