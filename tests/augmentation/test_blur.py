import numpy as np
import torch
from scipy import ndimage, stats

from sksubtomo.augmentation import Blur


def test_deviations_are_uniform_and_of_each_axis():
    std = Blur(max_std=1.5).build(0)._draw(2000)
    assert std.shape == (2000, 3)
    for axis in range(3):
        uniform = stats.uniform(0, 1.5)
        assert stats.kstest(std[:, axis].numpy(), uniform.cdf).pvalue > 1e-3
    assert (torch.corrcoef(std.T) - torch.eye(3)).abs().max() < 0.08


def test_views_are_blurred_by_what_was_drawn():
    volumes = torch.randn(4, 1, 9, 10, 11, generator=torch.Generator().manual_seed(0))
    sampler = Blur(p=1).build(3)
    views = sampler(volumes)
    again = Blur(p=1).build(3)
    again._uniform(4)  # which volumes are changed
    for volume, std, view in zip(volumes, again._draw(4), views, strict=True):
        expected = ndimage.gaussian_filter(volume[0].numpy(), std.numpy(), truncate=7)
        np.testing.assert_allclose(view[0], expected, atol=1e-5)


def test_views_are_smoother_and_keep_a_constant():
    volumes = torch.randn(8, 1, 12, 12, 12, generator=torch.Generator().manual_seed(0))
    views = Blur(p=1).build(0)(volumes)
    assert views.std(dim=(1, 2, 3, 4)).max() < 0.97
    constant = torch.full((2, 1, 5, 6, 7), 4.0)
    torch.testing.assert_close(Blur(p=1).build(0)(constant), constant)
