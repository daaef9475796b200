import torch
from scipy import stats

from sksubtomo.augmentation import Gamma


def test_exponents_are_log_uniform():
    log_gamma = Gamma(max_log_gamma=0.4).build(0)._draw(2000)
    uniform = stats.uniform(-0.4, 0.8)
    assert stats.kstest(log_gamma.numpy(), uniform.cdf).pvalue > 1e-3


def test_views_keep_mean_spread_and_order_of_signed_data():
    volumes = torch.randn(20, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    volumes = (2 * volumes - 1).double()
    views = Gamma(p=1, max_log_gamma=0.8).build(0)(volumes)
    dims = (1, 2, 3, 4)
    torch.testing.assert_close(views.mean(dim=dims), volumes.mean(dim=dims))
    torch.testing.assert_close(views.std(dim=dims), volumes.std(dim=dims))
    ranks, expected = (v.flatten(1).argsort(dim=1) for v in (views, volumes))
    assert torch.equal(ranks, expected)
    # Exponents above 1 lengthen the upper tail, those below 1 the lower one.
    skew = torch.from_numpy(stats.skew(views.flatten(1).numpy(), axis=1))
    drawn = Gamma(max_log_gamma=0.8).build(0)
    drawn._uniform(20)
    assert torch.corrcoef(torch.stack([skew, drawn._draw(20)]))[0, 1] > 0.9
