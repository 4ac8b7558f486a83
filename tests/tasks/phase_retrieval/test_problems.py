"""Net-ADM's updates by hand, Net-GD's loss, and what is held out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from peak_nerf.metrics import psnr
from peak_nerf.tasks.image_field import ImageField
from peak_nerf.tasks.phase_retrieval.measurements import Measurements, simulate
from peak_nerf.tasks.phase_retrieval.problems import (
    MIN_PREFIT,
    NetADM,
    NetGD,
    Splitting,
    distil,
    held_out_mask,
)
from peak_nerf.tasks.phase_retrieval.settings import PhaseSettings, settings_for
from tests.tasks.phase_retrieval.pictures import scene

N = 16
TRUTH = scene(N)


def make(kind: type, method: str = "hash", **changes: object) -> NetGD:
    problem = "fourier" if kind is NetADM else "gaussian"
    measurements = simulate(TRUTH, problem, 1.9 if kind is NetADM else 0.9)  # type: ignore[arg-type]
    settings = settings_for(method, problem, N)  # type: ignore[arg-type]
    for name, value in changes.items():
        setattr(settings, name, value)
    torch.manual_seed(0)
    start = torch.full((N, N), 0.5)
    module = Splitting(ImageField(settings, (N, N, 1)), start)
    generator = torch.Generator().manual_seed(0)
    problem_object: NetGD = kind(module, settings, measurements, start, held_out_mask(measurements, generator))
    return problem_object


def past_prefit(problem: NetGD) -> None:
    problem.module.steps += MIN_PREFIT + 5 - (MIN_PREFIT % 5)


def test_held_out_are_few_and_never_the_largest() -> None:
    for kind in ("fourier", "gaussian"):
        measurements = simulate(scene(48), kind, 1.9 if kind == "fourier" else 0.9)  # type: ignore[arg-type]
        fit_mask = held_out_mask(measurements, torch.Generator().manual_seed(0))
        assert 0.005 < float((~fit_mask).float().mean()) < 0.035
        if kind == "fourier":
            assert bool(fit_mask.flatten()[measurements.magnitudes.flatten().topk(64).indices].all())


def test_first_the_field_is_fitted_to_the_start_alone() -> None:
    problem = make(NetGD)
    expected = (problem.picture() - 0.5).square().mean()
    assert float(problem.loss(0.0, False, torch.Generator())) == pytest.approx(float(expected), rel=1e-5)
    # However far the budget's clock is, a few steps go to the start.
    assert problem.fits_start(0.9)
    past_prefit(problem)
    assert not problem.fits_start(0.9)


def test_distil_fits_f_to_a_picture_and_leaves_g_alone() -> None:
    settings = settings_for("peak", "gaussian", N)
    field = ImageField(settings, (N, N, 1))
    assert field.kar is not None
    g = [p.clone() for p in field.kar.parameters()]
    picture = torch.from_numpy(TRUTH)
    before = distil(field, picture, 1e-2, max_steps=0)
    assert before < 20 < 50 < distil(field, picture, 1e-2)
    assert all(torch.equal(a, b) for a, b in zip(g, field.kar.parameters(), strict=True))


def test_net_gd_descends_the_amplitude_loss_of_the_fitted_magnitudes() -> None:
    problem = make(NetGD, sigma_start=1e-6, sigma_end=1e-6)
    past_prefit(problem)
    with torch.no_grad():
        z = problem.measurements.operator.apply(problem.picture())
    error = (z.abs() - problem.measurements.magnitudes).square()
    partly, wholly = (float(problem.loss(0.5, everything, torch.Generator())) for everything in (False, True))
    assert wholly == pytest.approx(float(error.sum()) / N**2, rel=1e-4)
    assert partly == pytest.approx(float(error[problem.fit_mask].sum()) / N**2, rel=1e-4)


def test_net_adm_updates_are_those_of_the_paper() -> None:
    problem = make(NetADM)
    with torch.no_grad():
        f = problem.picture()
    module = problem.module
    module.z.fill_(0.4)
    module.u.fill_(-0.3)
    problem.update()  # type: ignore[attr-defined]
    u = -0.3 + 0.4 - f
    torch.testing.assert_close(module.u, u)
    torch.testing.assert_close(module.z, (f - u).clamp(0, 1))


def test_net_adm_updates_z_and_u_every_inner_steps_after_the_start() -> None:
    problem = make(NetADM)
    before = problem.module.z.clone()
    problem.loss(0.0, False, torch.Generator())
    assert torch.equal(problem.module.z, before)
    problem.module.steps += MIN_PREFIT
    changes = []
    for _ in range(12):
        before = problem.module.u.clone()
        problem.loss(0.5, False, torch.Generator())
        changes.append(not torch.equal(before, problem.module.u))
    first = changes.index(True)
    assert first < problem.settings.inner_steps
    assert changes == [i % problem.settings.inner_steps == first for i in range(12)]


def test_net_adm_descends_the_augmented_lagrangian(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = make(NetADM, sigma_start=1e-6, sigma_end=1e-6, rho=3.0)
    past_prefit(problem)
    problem.module.u.fill_(0.2)
    f = torch.rand(N, N, generator=torch.Generator().manual_seed(1)).requires_grad_()
    monkeypatch.setattr(problem, "picture", lambda: f)
    (ours,) = torch.autograd.grad(problem.loss(0.5, True, torch.Generator()), f)

    y = torch.fft.fft2(torch.from_numpy(TRUTH), s=(30, 30)).abs()
    size = (torch.fft.fft2(f, s=(30, 30)).abs() ** 2 + 1e-3).sqrt()
    data = (size - (y**2 + 1e-3).sqrt()).square().sum() / (2 * 900)
    penalty = 3 / 2 * (problem.module.z - f + problem.module.u).square().sum()
    (theirs,) = torch.autograd.grad(data + penalty, f)
    torch.testing.assert_close(ours * N**2, theirs, atol=1e-4, rtol=1e-4)


def test_kar_of_a_constant_picture_is_its_kl_alone() -> None:
    problem = make(NetGD, method="peak")
    settings = problem.settings.kar
    assert settings is not None
    settings.window = N
    flat, steps = (
        float(problem.kar_loss(picture, 0.0, torch.Generator())) / settings.weight
        for picture in (torch.full((N, N), 0.3), torch.from_numpy(TRUTH))
    )
    assert 0 <= flat < 1e-3
    assert steps > flat + 1e-3


def test_the_weight_of_kar_falls() -> None:
    problem = make(NetGD, method="peak")
    picture = torch.from_numpy(TRUTH)
    early, late = (float(problem.kar_loss(picture, late, torch.Generator().manual_seed(0))) for late in (0.0, 1.0))
    assert late == pytest.approx(early * problem.kar_fall, rel=1e-5)


def test_validation_is_the_error_of_the_held_out_magnitudes() -> None:
    for kind in (NetGD, NetADM):
        problem = make(kind)
        measurements: Measurements = problem.measurements
        with torch.no_grad():
            error = measurements.operator.apply(problem.picture()).abs() - measurements.magnitudes
            counts = measurements.weights.expand(error.shape).numpy()
            held = ~problem.fit_mask.numpy()
            mean = np.average(error.numpy()[held] ** 2, weights=counts[held])
            assert problem.validation_psnr() == pytest.approx(psnr(float(mean)), rel=1e-5)
        assert problem.test_psnr() is None


def test_settings_name_every_method() -> None:
    for method in ("peak", "mlp", "fourier", "siren", "hash"):
        assert isinstance(settings_for(method, "fourier", 32), PhaseSettings)
        assert (settings_for(method, "gaussian", 32).kar is not None) == (method == "peak")
