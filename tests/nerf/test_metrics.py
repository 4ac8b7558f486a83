"""Metrics against values worked out by hand; LPIPS stays away when its weights do."""

import pytest
import torch

from peak_nerf.nerf import metrics
from peak_nerf.nerf.metrics import ImageMetrics


def test_psnr_by_hand() -> None:
    black = torch.zeros(16, 16, 3)
    assert ImageMetrics()(black + 0.1, black)["psnr"] == pytest.approx(20.0, abs=1e-4)
    assert ImageMetrics()(black + 0.5, black)["psnr"] == pytest.approx(6.0206, abs=1e-4)


def test_equal_images() -> None:
    image = torch.rand(16, 16, 3)
    result = ImageMetrics()(image, image)
    assert result == {"psnr": pytest.approx(100.0), "ssim": pytest.approx(1.0, abs=1e-5)}


def test_ssim_needs_a_window() -> None:
    assert set(ImageMetrics()(torch.rand(8, 8, 3), torch.rand(8, 8, 3))) == {"psnr"}


def test_lpips_is_absent_without_weights(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert metrics.lpips_weights() is None
    assert "lpips" not in ImageMetrics()(torch.rand(64, 64, 3), torch.rand(64, 64, 3))
    (tmp_path / "checkpoints").mkdir()
    weights = tmp_path / "checkpoints" / metrics.LPIPS_BACKBONE
    weights.touch()
    assert metrics.lpips_weights() == weights
