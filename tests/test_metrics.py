"""Scores by hand, and SSIM against skimage."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import structural_similarity
from torchmetrics.functional.image import structural_similarity_index_measure

from peak_nerf import metrics as module
from peak_nerf.metrics import psnr, scores, view_scores

EVERYWHERE = np.ones((16, 16), dtype=bool)
HALF = EVERYWHERE.copy()
HALF[:8] = False


def test_psnr_by_hand() -> None:
    truth = np.full((16, 16, 1), 0.5, np.float32)
    off = truth.copy()
    off[:8] += 0.1  # the missing half; mse 0.01 there, 0.005 on the whole
    result = scores(off, truth, HALF)
    assert result["psnr_missing"] == pytest.approx(20.0, abs=1e-4)
    assert result["psnr"] == pytest.approx(23.0103, abs=1e-4)


def test_unknown_pixels_do_not_count() -> None:
    truth = np.full((16, 16, 3), 0.5, np.float32)
    off = truth.copy()
    off[:8] += 0.1
    off[:2] = np.nan
    truth[:2] = 7.0
    known = EVERYWHERE.copy()
    known[:2] = False
    result = scores(off, truth, HALF, known)
    assert result["psnr_missing"] == pytest.approx(20.0, abs=1e-4)
    assert result["psnr"] == pytest.approx(-10 * np.log10(0.01 * 6 / 14), abs=1e-4)
    assert "psnr_missing" not in scores(off, truth, known, known)  # all that is missing is unknown


def test_equal_pictures() -> None:
    truth = np.random.default_rng(0).random((16, 16, 3)).astype(np.float32)
    result = scores(truth, truth, HALF)
    assert result == {"psnr": 100.0, "psnr_missing": 100.0, "ssim": pytest.approx(1.0, abs=1e-9)}
    assert psnr(1e-10) == 100.0
    assert psnr(1e-11) == 100.0
    assert psnr(1e-9) == pytest.approx(90.0)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), n_channels=st.sampled_from([1, 3]), h=st.integers(4, 20), share=st.floats(0, 1))
def test_scores_are_strict_json(seed: int, n_channels: int, h: int, share: float) -> None:
    random = np.random.default_rng(seed)
    a, b = random.random((2, h, 14, n_channels)).astype(np.float32)
    observed = random.random((h, 14)) < share
    result = scores(a, b, observed)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert all(type(value) is float for value in result.values())
    assert ("ssim" in result) == (h >= 11)
    assert ("psnr_missing" in result) == (not observed.all())


@pytest.mark.parametrize("n_channels", [1, 3])
def test_ssim_against_skimage(n_channels: int) -> None:
    random = np.random.default_rng(0)
    truth = random.random((40, 50, n_channels))
    near = np.clip(truth + 0.1 * random.standard_normal(truth.shape), 0, 1)
    expected = structural_similarity(
        near, truth, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0, channel_axis=2
    )
    result = scores(near, truth, np.ones((40, 50), dtype=bool))
    assert result["ssim"] == pytest.approx(expected, abs=1e-6)


def test_ssim_leaves_unknown_pixels_out() -> None:
    """Noise on the left, whose map reaches five pixels further; with the left unknown, and a margin, SSIM is 1."""
    random = np.random.default_rng(0)
    truth = random.random((30, 60, 1))
    noisy = truth.copy()
    noisy[:, :30] = random.random((30, 30, 1))
    known = np.zeros((30, 60), dtype=bool)
    known[:, 30:] = True
    assert scores(noisy, truth, known, known)["ssim"] == pytest.approx(1.0, abs=1e-9)
    assert scores(noisy, truth, known)["ssim"] < 0.7
    # Where both are set to 0 the map is 1, which must not enter the mean.
    other = random.random((30, 60, 1))
    _, ssim_map = structural_similarity(
        *(np.where(known, image[..., 0], 0) for image in (other, truth)),
        gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0, full=True,
    )  # fmt: skip
    expected = ssim_map[5:-5, 30:-5].mean()
    assert scores(other, truth, known, known)["ssim"] == pytest.approx(expected, abs=1e-6)
    known[:] = False
    known[0] = True  # in the border, where torchmetrics does not look either
    assert "ssim" not in scores(noisy, truth, known, known)


@pytest.mark.parametrize("band", [1, 97, 40 * 31])
def test_scores_in_bands_are_those_at_once(band: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    a, b = rng.random((2, 40, 31, 3)).astype(np.float32)
    known, observed = rng.random((2, 40, 31)) > 0.3
    b[~known] = np.nan
    at_once = scores(a, b, observed, known)
    monkeypatch.setattr("peak_nerf.metrics.BAND", band)
    assert scores(a, b, observed, known) == pytest.approx(at_once, abs=1e-9)


def test_lpips_only_with_weights(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    truth = np.random.default_rng(0).random((64, 64, 1)).astype(np.float32)
    observed = np.ones((64, 64), dtype=bool)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert "lpips" not in scores(truth, truth, observed)

    seen = []

    def network(rgb: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        seen.append((rgb.shape, rgb.dtype))
        return (rgb - other).abs().mean()

    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / module.LPIPS_BACKBONE).touch()
    monkeypatch.setattr(module, "_lpips_network", lambda: network)
    assert scores(truth, truth * 0, observed)["lpips"] == pytest.approx(float(truth.mean()), abs=1e-6)
    assert seen == [((1, 3, 64, 64), torch.float32)]  # grey is repeated
    assert "lpips" not in scores(truth[:63], truth[:63], observed[:63])


def test_scores_need_no_nerfstudio() -> None:
    code = "import sys, peak_nerf.metrics;assert not any(name.split('.')[0] == 'nerfstudio' for name in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_callers_mistakes() -> None:
    good = np.zeros((16, 16, 1))
    for a, b, observed, known in (
        (good[1:], good, EVERYWHERE, EVERYWHERE),
        (good[..., 0], good[..., 0], EVERYWHERE, EVERYWHERE),
        (good, good, EVERYWHERE[1:], EVERYWHERE),
        (good, good, EVERYWHERE, EVERYWHERE[1:]),
        (good, good, EVERYWHERE, ~EVERYWHERE),
        (good * np.nan, good, EVERYWHERE, EVERYWHERE),
    ):
        with pytest.raises(ValueError, match=r"must be|no truth"):
            scores(a, b, observed, known)


def test_scores_of_a_view_by_hand() -> None:
    black = np.zeros((16, 16, 3), np.float32)
    assert view_scores(black + np.float32(0.5), black) == {
        "psnr": pytest.approx(6.0206, abs=1e-4),
        "ssim": pytest.approx(0.0004, abs=1e-4),  # C1 / (0.25 + C1) with C1 = 0.01^2
    }
    assert view_scores(black, black) == {"psnr": 100.0, "ssim": pytest.approx(1.0, abs=1e-5)}
    assert set(view_scores(black[:8], black[:8])) == {"psnr"}  # smaller than SSIM's window


def test_the_ssim_of_a_view_takes_in_its_border() -> None:
    """As torchmetrics' own mean, which nerfstudio reports; `scores` leaves 5 pixels out on each side."""
    rng = np.random.default_rng(0)
    truth = np.ones((40, 40, 3), np.float32)
    rendering = truth.copy()
    rendering[10:30, 10:30] = rng.random((20, 20, 3), dtype=np.float32)
    a, b = (torch.from_numpy(image).permute(2, 0, 1)[None] for image in (rendering, truth))
    expected = float(structural_similarity_index_measure(a, b, data_range=1.0))
    assert view_scores(rendering, truth)["ssim"] == pytest.approx(expected, abs=1e-6)
    inner = scores(rendering, truth, np.ones((40, 40), dtype=bool))["ssim"]
    assert expected > inner + 0.05  # the border is all white, and right


def test_lpips_weights_are_found_and_never_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert module.lpips_weights() is None
    assert "lpips" not in view_scores(np.zeros((64, 64, 3)), np.zeros((64, 64, 3)))
    (tmp_path / "checkpoints").mkdir()
    weights = tmp_path / "checkpoints" / module.LPIPS_BACKBONE
    weights.touch()
    assert module.lpips_weights() == weights
