import torch
from scipy import stats

from sksubtomo.augmentation import Elastic


def test_displacements_are_uniform_inside_and_none_at_the_borders():
    drawn = Elastic(max_displacement=0.2, n_control_points=7).build(0)._draw(60)
    assert drawn.shape == (60, 3, 7, 7, 7)
    inside = drawn[..., 2:5, 2:5, 2:5]
    assert inside.count_nonzero() == drawn.count_nonzero() == inside.numel()
    uniform = stats.uniform(-0.2, 0.4)
    assert stats.kstest(inside.flatten().numpy(), uniform.cdf).pvalue > 1e-3


def test_a_ramp_shows_the_displacement_of_each_axis():
    """Linear interpolation of a ramp gives the position that was read."""
    sides = (12, 16, 20)
    for axis, side in enumerate(sides):
        ramp = torch.arange(side, dtype=torch.float64)
        ramp = ramp.view([-1 if i == axis else 1 for i in range(3)])
        volumes = ramp.expand(30, 1, *sides)
        views = Elastic(p=1, max_displacement=0.06).build(0)(volumes)
        moved = (views - volumes)[..., 2:-2, 2:-2, 2:-2]
        assert moved.abs().amax(dim=(1, 2, 3, 4)).max() <= 0.06 * side
        assert moved.std() > 0.1 * 0.06 * side
        # Smooth: neighbours move nearly alike.
        for dim in (2, 3, 4):
            assert moved.diff(dim=dim).abs().max() < 0.5


def test_volumes_do_not_fold_over_by_default():
    ramp = torch.arange(24, dtype=torch.float64).expand(40, 1, 24, 24, 24)
    views = Elastic(p=1).build(0)(ramp)
    assert views[..., 2:-2].diff(dim=4).min() > 0
