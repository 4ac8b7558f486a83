import math

import pytest
import torch

from peak_nerf.core.kernels.alignment import centered_kernel_alignment
from peak_nerf.core.kernels.ntk import empirical_ntk
from peak_nerf.tasks.kernels import figure2 as task


def test_the_optimal_kernel_is_the_outer_product_of_the_signal() -> None:
    grid, k = task.grid_and_optimal_kernel(9)
    f = (4 * math.pi * grid.double()).sin()
    torch.testing.assert_close(k, f @ f.T)
    assert int(torch.linalg.matrix_rank(k)) == 1


@pytest.mark.parametrize("method", task.METHODS)
def test_a_course_starts_before_training_and_ends_with_the_fitted_field(method: str) -> None:
    fractions: list[float] = []
    course = task.run_alignment(method, 0, steps=20, n_train=16, n_grid=12, on_progress=fractions.append)
    assert course.steps[0] == 0
    assert course.steps == sorted(course.steps)
    assert len(course.steps) == len(course.cka) > 10
    assert all(0 <= cka <= 1 for cka in course.cka)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)
    _, target = task.grid_and_optimal_kernel(12)
    assert course.cka[-1] == centered_kernel_alignment(course.kernel, target)
    # The first is the kernel of the untrained field of that seed.
    torch.manual_seed(0)
    module, _ = task.build_field(task.candidates(method)[task.BEST[method]])
    k = empirical_ntk(module, torch.linspace(-1, 1, 12)[:, None]).double()
    assert course.cka[0] == pytest.approx(centered_kernel_alignment(k, target), abs=1e-6)


def test_the_same_seed_gives_the_same_course_and_another_one_another() -> None:
    first, second, other = (task.run_alignment("peak", seed, 12, 16, 10) for seed in (3, 3, 4))
    assert first.cka == second.cka
    assert first.cka != other.cka


def test_only_peak_has_kar_and_learned_coefficients_and_all_share_a_backbone() -> None:
    fields = {method: task.build_field(task.candidates(method)[task.BEST[method]]) for method in task.METHODS}
    assert [method for method, (_, kar) in fields.items() if kar is not None] == ["peak"]
    assert [method for method, (field, _) in fields.items() if field.polynomial is not None] == ["peak"]
    assert {(len(f.backbone.hidden), f.backbone.output.in_features) for f, _ in fields.values()} == {(3, 128)}
    assert {len(task.candidates(method)) for method in task.METHODS} == {9}


def test_peak_passes_once_round_the_circle() -> None:
    field, _ = task.build_field(task.candidates("peak")[0])
    torch.testing.assert_close(field.normalise(torch.tensor([[-1.0], [1.0]])), torch.tensor([[-math.pi], [math.pi]]))


def test_tuning_takes_the_best_mean_of_its_own_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = [0.1, 0.5, 0.3, 0.7, 0.2, 0.1, 0.1, 0.1, 0.1]
    seeds = []

    def fake(
        method: str, seed: int, steps: int, n_train: int, n_grid: int, settings: task.AlignmentSettings
    ) -> task.Course:
        seeds.append(seed)
        i = next(i for i, other in enumerate(task.candidates(method)) if other == settings)
        return task.Course(method, seed, [0], [scores[i]])

    monkeypatch.setattr(task, "run_alignment", fake)
    assert task.tune("fourier", 10, 16, 10) == 3
    assert set(seeds) == set(task.TUNING_SEEDS)
    assert not set(seeds) & set(range(5))


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="method must be of"):
        task.run_alignment("siren", 0)
    with pytest.raises(ValueError, match="n_train must be at least 8"):
        task.run_alignment("mlp", 0, n_train=4)
    with pytest.raises(ValueError, match="at least 2 points"):
        task.run_alignment("mlp", 0, n_grid=1)
