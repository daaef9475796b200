import math

import torch
from scipy import stats

from sksubtomo.augmentation import BiasField


def test_coefficients_are_uniform_and_one_a_term():
    for order in (0, 2, 3):
        coefficients = BiasField(order=order).build(0)._draw(500)
        assert coefficients.shape == (500, math.comb(order + 3, 3))
        uniform = stats.uniform(-0.5, 1)
        assert stats.kstest(coefficients.flatten().numpy(), uniform.cdf).pvalue > 1e-3


def test_views_are_the_volumes_times_a_smooth_positive_field():
    volumes = torch.randn(10, 1, 8, 9, 10, generator=torch.Generator().manual_seed(0))
    views = BiasField(p=1).build(0)(volumes)
    fields = BiasField(p=1).build(0)(torch.ones_like(volumes))
    torch.testing.assert_close(views, volumes * fields)
    assert fields.min() > 0
    assert fields.log().diff(dim=4).abs().max() < 1.5
    # A polynomial of order 3 has no fourth difference.
    for dim in (2, 3, 4):
        logs = BiasField(p=1).build(0)(torch.ones_like(volumes).double()).log()
        assert logs.diff(n=4, dim=dim).abs().max() < 1e-10
        assert logs.diff(n=3, dim=dim).abs().max() > 1e-3
