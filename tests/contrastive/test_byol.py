import math
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sksubtomo.contrastive import BYOL, bootstrap_loss


def randn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def views(n=5, seed=0):
    return randn(n, 1, 3, 3, 3, seed=seed), randn(n, 1, 3, 3, 3, seed=seed + 50)


def build(with_batch_norm=False, **parameters):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [nn.Flatten(), nn.Linear(27, 5)]
        encoder = nn.Sequential(*layers, *[nn.BatchNorm1d(5)] * with_batch_norm)
        encoder.n_features = 5
        method = BYOL(**{"momentum": 0.7} | parameters, projection_dim=4, hidden_dim=7)
        module = method.build(encoder).double()
        # Otherwise both networks start equal, and a swap would go unnoticed.
        for parameter in [*module.encoder.parameters(), *module.head.parameters()]:
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return module


def cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


@pytest.mark.parametrize("n", [1, 2, 7])
def test_equals_the_formula(n):
    p_1, p_2, z_1, z_2 = (randn(n, 3, seed=seed) for seed in range(4))
    total = sum(
        2 - 2 * cosine(p, z)
        for rows, others in ((p_1, z_2), (p_2, z_1))
        for p, z in zip(rows.tolist(), others.tolist(), strict=True)
    )
    loss = bootstrap_loss(p_1, p_2, z_1, z_2)
    assert loss.item() == pytest.approx(total / (2 * n), abs=1e-12)


def test_limits_of_the_loss():
    z = randn(4, 3)
    assert bootstrap_loss(z, 3 * z, 0.1 * z, z) < 1e-15
    assert bootstrap_loss(-z, -z, z, z).item() == pytest.approx(4)


def test_gradient():
    inputs = [randn(3, 4, seed=seed).requires_grad_() for seed in range(4)]
    assert torch.autograd.gradcheck(bootstrap_loss, inputs)


def test_zero_projections_are_finite():
    p = torch.zeros(3, 4, requires_grad=True)
    loss = bootstrap_loss(p, p, torch.ones(3, 4), torch.zeros(3, 4))
    loss.backward()
    assert loss.isfinite()
    assert p.grad.isfinite().all()


def test_a_step_in_its_order():
    module = build()
    view_1, view_2 = views()
    before = deepcopy(module)

    loss = module(view_1, view_2)

    for name in ("encoder", "head"):
        for theta, xi in zip(
            getattr(before, name).parameters(),
            getattr(before, f"target_{name}").parameters(),
            strict=True,
        ):
            xi.copy_(0.7 * xi + 0.3 * theta.detach())
        for theta, xi in zip(
            getattr(before, f"target_{name}").parameters(),
            getattr(module, f"target_{name}").parameters(),
            strict=True,
        ):
            torch.testing.assert_close(xi, theta, rtol=0, atol=1e-15)

    predictions = [
        before.predictor(before.head(before.encoder(view))) for view in (view_1, view_2)
    ]
    targets = [
        before.target_head(before.target_encoder(view)) for view in (view_1, view_2)
    ]
    torch.testing.assert_close(loss, bootstrap_loss(*predictions, *targets))


@pytest.mark.parametrize(
    ("momentum", "source"), [(0.0, "encoder"), (1.0, "target_encoder")]
)
def test_momentum_at_its_limits(momentum, source):
    module = build(momentum=momentum)
    expected = deepcopy(getattr(module, source).state_dict())
    module(*views())
    for name, value in module.target_encoder.state_dict().items():
        assert torch.equal(value, expected[name])


def test_target_gets_no_gradient():
    module = build()
    module(*views()).backward()
    for part in (module.target_encoder, module.target_head):
        assert all(p.grad is None and not p.requires_grad for p in part.parameters())
    for part in (module.encoder, module.head, module.predictor):
        assert all(p.grad.any() for p in part.parameters())


def test_statistics_of_the_target():
    module = build(with_batch_norm=True)
    view_1, view_2 = views(8)
    module(view_1, view_2 + 5)
    # The encoder's are of what it saw, the head's are those of the online head.
    linear, norm = module.target_encoder[1], module.target_encoder[2]
    seen = [linear(view.flatten(1)).mean(dim=0) for view in (view_1, view_2 + 5)]
    expected = 0.9 * 0.1 * seen[0] + 0.1 * seen[1]
    torch.testing.assert_close(norm.running_mean, expected)
    module(view_1, view_2)
    kept = module.target_head[1].running_mean
    assert kept.abs().max() > 0
    torch.testing.assert_close(kept, module.head[1].running_mean)


def train(module, n_steps, lr):
    optimizer = torch.optim.Adam(module.parameters(), lr=lr)
    for step in range(n_steps):
        volumes = randn(16, 1, 3, 3, 3, seed=step)
        noise = 0.1 * randn(2, 16, 1, 3, 3, 3, seed=step + 1000)
        loss = module(volumes + noise[0], volumes + noise[1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


def test_does_not_collapse_at_a_small_batch():
    module = build(momentum=0.9)
    loss = train(module, 200, lr=3e-3)
    assert loss < 0.3
    assert module.spread > 0.5
    assert module.diagnose(loss) is None


def test_spread_is_the_mean_distance_of_different_volumes():
    module = build(momentum=1.0)
    module(*views())
    rows = F.normalize(module.target_head(module.target_encoder(views()[0])), dim=1)
    rows = rows.detach()
    distances = [1 - rows[i] @ rows[j] for i in range(5) for j in range(5) if i != j]
    expected = 0.9 + 0.1 * torch.stack(distances).mean()
    torch.testing.assert_close(module.spread, expected)
    module(*views(1))
    torch.testing.assert_close(module.spread, expected)


def test_diagnose_recognises_a_collapse():
    # Without a predictor and a slow target, equal projections are the easiest answer.
    module = build(momentum=0.0)
    module.predictor = nn.Identity()
    loss = train(module, 200, lr=1e-2)
    assert loss < 0.01
    hint = module.diagnose(loss)
    assert "BYOL has collapsed" in hint
    assert f"{module.spread.item():.2g}" in hint
