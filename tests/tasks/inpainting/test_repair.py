"""`peak inpaint` with a mask's file: only holes change, at the picture's size, depth and kind."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from peak_nerf.images import original
from peak_nerf.images.original import Original, read_original
from peak_nerf.images.write import write_original
from peak_nerf.metrics import psnr
from peak_nerf.tasks.inpainting import classical, command, fits, repair
from peak_nerf.tasks.inpainting.command import InpaintOptions, run_inpainting
from peak_nerf.tasks.inpainting.crops import plan_crops, whole_picture
from peak_nerf.tasks.inpainting.repair import Length, fit_crops
from peak_nerf.tasks.inpainting.settings import settings_for
from tests.images.pictures import scenery
from tests.tasks.inpainting.runs import names, peak, read_metrics, refused, size_of

H, W = 60, 80
PHOTO = scenery(5, H, W)
HOLE = np.zeros((H, W), dtype=bool)
HOLE[20:24, 10:70] = True
SCRATCHED = np.where(HOLE[..., None], 255, PHOTO).astype(np.uint8)


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    path = tmp_path / "mask.png"
    Image.fromarray(np.where(HOLE, 0, 255).astype(np.uint8)).save(path)
    return path


@pytest.fixture
def scratched(tmp_path: Path) -> Path:
    Image.fromarray(SCRATCHED).save(tmp_path / "scratched.png")
    return tmp_path / "scratched.png"


# ---------------------------------------------------------------------------------------------------------- the file


@pytest.mark.parametrize(
    ("dtype", "kind", "n_channels"),
    [
        (dtype, kind, n_channels)
        for dtype in (np.uint8, np.uint16)
        for kind in ("png", "tif", "npy")
        for n_channels in (1, 2, 3, 4)
        if (dtype, kind, n_channels) != (np.uint16, "tif", 2)  # no library reads it, so nobody brings one
    ],
)
def test_known_pixels_are_bit_identical(dtype: type, kind: str, n_channels: int, mask: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(1, np.iinfo(dtype).max + 1, (H, W, n_channels), dtype=dtype)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() if kind != "npy" else None
    path = write_original(tmp_path / "picture", Original(pixels, kind, icc_profile=profile))
    given = read_original(path)
    metrics = run_inpainting(InpaintOptions(path, mask=str(mask), method="telea"), tmp_path / "out")
    result = read_original(tmp_path / "out" / f"reconstruction.{kind}")
    assert result.pixels.dtype == dtype
    assert result.pixels.shape == given.pixels.shape
    np.testing.assert_array_equal(result.pixels[~HOLE], given.pixels[~HOLE])
    assert (result.colours[HOLE] != given.colours[HOLE]).any(axis=1).mean() > 0.9
    if given.alpha is not None and result.alpha is not None:
        np.testing.assert_array_equal(result.alpha, given.alpha)
    assert result.icc_profile == profile
    assert metrics["missing_fraction"] == pytest.approx(HOLE.mean())


def test_a_field_changes_the_hole_alone_and_its_own_picture_is_another_file(
    mask: Path, scratched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert peak("inpaint", scratched, "--mask", mask, "--steps", 30, "--out", out) == 0
    result, own = (np.asarray(Image.open(out / name)) for name in ("reconstruction.png", "field.png"))
    np.testing.assert_array_equal(result[~HOLE], SCRATCHED[~HOLE])
    weights = read_metrics(out)["crops"][0]["weights"]
    assert set(weights) == {"field", "biharmonic", "patches"}
    assert sum(weights.values()) == pytest.approx(1)
    assert (result[HOLE] != own[HOLE]).mean() > 0.5
    alone = tmp_path / "alone"
    assert peak("inpaint", scratched, "--mask", mask, "--steps", 30, "--no-combine", "--out", alone) == 0
    result_alone, own_alone = (np.asarray(Image.open(alone / n)) for n in ("reconstruction.png", "field.png"))
    np.testing.assert_array_equal(result_alone[HOLE], own_alone[HOLE])
    assert read_metrics(alone)["crops"][0]["weights"] == {"field": 1}
    assert (own[~HOLE] != SCRATCHED[~HOLE]).mean() > 0.1
    assert size_of(out / "comparison.png") == (3 * W + 4, H)  # before, mask, after
    before = np.asarray(Image.open(out / "comparison.png"))[:, :W]
    np.testing.assert_array_equal(before, SCRATCHED)
    assert "5.0 % missing, black is the hole" in capsys.readouterr().out


def test_without_a_truth_there_is_no_psnr_but_that_on_held_out_pixels(
    mask: Path, scratched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(PHOTO).save(tmp_path / "truth.png")
    for method in ("telea", "peak"):
        options = InpaintOptions(scratched, mask=str(mask), method=method, steps=30)
        metrics = run_inpainting(options, tmp_path / "out")
        assert not {"psnr", "psnr_missing", "ssim", "lpips"} & set(metrics)
        assert 10 < metrics["psnr_validation"] < 60
        assert all("psnr" not in p for p in metrics["history"])
        assert "residual.png" not in names(tmp_path / "out")
        scored = run_inpainting(replace(options, truth=tmp_path / "truth.png"), tmp_path / "out")
        result = np.asarray(Image.open(tmp_path / "out" / "reconstruction.png")).astype(float)
        by_hand = psnr(float(np.mean(((result - PHOTO)[HOLE] / 255) ** 2)))
        assert scored["psnr_missing"] == pytest.approx(by_hand, abs=0.05)
        assert scored["psnr"] == pytest.approx(by_hand - 10 * np.log10(HOLE.mean()), abs=0.05)
    assert peak("inpaint", scratched, "--mask", mask, "--method", "telea", "--out", tmp_path / "out") == 0
    assert "dB on held-out pixels around the holes" in capsys.readouterr().out
    Image.fromarray(PHOTO[:50]).save(tmp_path / "cut.png")
    line = refused(capsys, "inpaint", scratched, "--mask", mask, "--truth", tmp_path / "cut.png")
    assert "cut.png: is 80 x 50 pixels and the picture 80 x 60; give the same picture" in line


def test_a_picture_that_is_its_own_truth_is_an_experiment(mask: Path, tmp_path: Path) -> None:
    Image.fromarray(PHOTO).save(tmp_path / "photo.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "photo.png")
    options = InpaintOptions(tmp_path / "photo.png", mask=str(mask), method="hash", steps=9, size="original")
    repaired = run_inpainting(options, tmp_path / "repair")
    assert "psnr" not in repaired
    scored = run_inpainting(replace(options, truth=tmp_path / "link.png"), tmp_path / "experiment")
    own = np.asarray(Image.open(tmp_path / "experiment" / "field.png")).astype(float)
    assert scored["psnr"] == pytest.approx(psnr(float(np.mean(((own - PHOTO) / 255) ** 2))), abs=0.05)
    assert scored["missing_fraction"] == pytest.approx(HOLE.mean())
    written = np.asarray(Image.open(tmp_path / "experiment" / "reconstruction.png"))
    np.testing.assert_array_equal(written[~HOLE], PHOTO[~HOLE])


def test_colour_that_a_jpeg_has_smeared_out_of_a_scratch_does_not_come_back(
    mask: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JPEG keeps colour at half the resolution: beside a white scratch orange is half grey."""
    photo = np.full((H, W, 3), (230, 110, 70), np.uint8)
    Image.fromarray(np.where(HOLE[..., None], 255, photo).astype(np.uint8)).save(tmp_path / "photo.jpg", quality=95)
    errors: dict[int, float] = {}
    assert original.BLEED == 2
    for bleed in (2, 0):
        monkeypatch.setattr(original, "BLEED", bleed)
        run_inpainting(InpaintOptions(tmp_path / "photo.jpg", mask=str(mask), method="biharmonic"), tmp_path / "out")
        result = np.asarray(Image.open(tmp_path / "out" / "reconstruction.png")).astype(int)
        np.testing.assert_array_equal(result[~HOLE], np.asarray(Image.open(tmp_path / "photo.jpg"))[~HOLE])
        errors[bleed] = np.abs(result - photo)[HOLE].mean()
    assert errors[0] > 10
    assert errors[2] < 4


def test_soft_edges_blend(tmp_path: Path) -> None:
    levels = np.where(HOLE, 0, 255).astype(np.uint8)
    levels[24, 10:70] = 102  # (0.4 - 0.1) / 0.8 = 0.375 known: missing
    levels[19, 10:70] = 153  # (0.6 - 0.1) / 0.8 = 0.625 known: observed
    Image.fromarray(levels).save(tmp_path / "mask.png")
    Image.fromarray(SCRATCHED).save(tmp_path / "photo.png")
    out = tmp_path / "out"
    run_inpainting(InpaintOptions(tmp_path / "photo.png", mask=str(tmp_path / "mask.png"), method="hash", steps=9), out)
    result, own = (np.asarray(Image.open(out / name)).astype(float) for name in ("reconstruction.png", "field.png"))
    for row, known in ((24, 0.375), (19, 0.625)):
        by_hand = known * SCRATCHED[row, 10:70] + (1 - known) * own[row, 10:70]
        np.testing.assert_allclose(result[row, 10:70], by_hand, atol=1)
    # Of the mean of estimates, too, only what is missing gets any: classical ones would hand the observed edge through.
    run_inpainting(InpaintOptions(tmp_path / "photo.png", mask=str(tmp_path / "mask.png"), steps=9), out)
    result, own = (np.asarray(Image.open(out / name)).astype(float) for name in ("reconstruction.png", "field.png"))
    by_hand = 0.625 * SCRATCHED[19, 10:70] + 0.375 * own[19, 10:70]
    np.testing.assert_allclose(result[19, 10:70], by_hand, atol=1)
    assert np.abs(result[19, 10:70] - SCRATCHED[19, 10:70]).mean() > 2
    np.testing.assert_array_equal(result[levels == 255], SCRATCHED[levels == 255])


def test_transparency(mask: Path, tmp_path: Path) -> None:
    """What is transparent stays as it is, unless it is the hole."""
    alpha = np.full((H, W), 255, np.uint8)
    alpha[:, :20] = 0
    options = InpaintOptions(tmp_path / "a.png", mask=str(mask), method="linear")
    Image.fromarray(np.dstack([PHOTO, alpha])).save(tmp_path / "a.png")
    assert run_inpainting(options, tmp_path / "out")["missing_fraction"] == pytest.approx(HOLE.mean())
    result = np.asarray(Image.open(tmp_path / "out" / "reconstruction.png"))
    np.testing.assert_array_equal(result[..., 3], alpha)
    np.testing.assert_array_equal(result[~HOLE], np.dstack([PHOTO, alpha])[~HOLE])
    erased = np.where(HOLE, 0, 255).astype(np.uint8)  # the hole was cut out
    Image.fromarray(np.dstack([PHOTO, erased])).save(tmp_path / "a.png")
    for given, mode in ((str(mask), "RGBA"), ("none", "RGB")):
        run_inpainting(replace(options, mask=given), tmp_path / "out")
        with Image.open(tmp_path / "out" / "reconstruction.png") as opened:
            assert opened.mode == mode
            assert mode == "RGB" or (np.asarray(opened)[..., 3] == 255).all()


def test_sizes_and_masks_of_other_sizes(mask: Path, scratched: Path, tmp_path: Path) -> None:
    with Image.open(mask) as opened:
        opened.resize((2 * W, 2 * H), Image.Resampling.NEAREST).save(tmp_path / "large.png")
        opened.resize((40, 40), Image.Resampling.NEAREST).save(tmp_path / "square.png")
    for given, size, expected in (
        ("large.png", None, (W, H)),
        ("large.png", "40", (40, 30)),
        ("mask.png", "160", (160, 120)),
        ("square.png", "40x40", (40, 40)),  # that of the result
    ):
        options = InpaintOptions(scratched, mask=str(tmp_path / given), method="telea", size=size)
        metrics = run_inpainting(options, tmp_path / "out")
        assert size_of(tmp_path / "out" / "reconstruction.png") == expected
        assert metrics["missing_fraction"] == pytest.approx(HOLE.mean(), rel=0.3)
        assert ("resized from 160 x 120" in metrics["notes"][-1]) == (given == "large.png")


def test_nothing_of_the_scratch_gets_into_a_smaller_picture(mask: Path, tmp_path: Path) -> None:
    for name, level in (("a", 0), ("b", 255)):
        Image.fromarray(np.where(HOLE[..., None], level, PHOTO).astype(np.uint8)).save(tmp_path / f"{name}.png")
        options = InpaintOptions(tmp_path / f"{name}.png", mask=str(mask), method="linear", size="27")
        run_inpainting(options, tmp_path / name)
    a, b = ((tmp_path / name / "reconstruction.png").read_bytes() for name in "ab")
    assert a == b


def test_experiments_keep_known_pixels_too_and_their_figures(tmp_path: Path) -> None:
    Image.fromarray(PHOTO).save(tmp_path / "photo.png")
    options = InpaintOptions(tmp_path / "photo.png", steps=20, size="original")
    metrics = run_inpainting(options, tmp_path / "out")
    observed = np.random.RandomState(88).rand(H, W) > 0.5
    result, own = (np.asarray(Image.open(tmp_path / "out" / name)) for name in ("reconstruction.png", "field.png"))
    np.testing.assert_array_equal(result[observed], PHOTO[observed])
    # Papers score the whole field.
    assert metrics["psnr_field"] == pytest.approx(psnr(float(np.mean((own / 255 - PHOTO / 255) ** 2))), abs=0.05)


# ---------------------------------------------------------------------------------------------------------- the fits


def large_scene(folder: Path) -> tuple[Path, Path, np.ndarray]:
    """A picture with holes far apart, several crops."""
    photo = scenery(7, 300, 460)
    hole = np.zeros((300, 460), dtype=bool)
    for top, left in ((20, 20), (20, 420), (270, 10), (250, 420)):
        hole[top : top + 4, left : left + 16] = True
    Image.fromarray(photo).save(folder / "large.png")
    Image.fromarray(np.where(hole, 0, 255).astype(np.uint8)).save(folder / "holes.png")
    return folder / "large.png", folder / "holes.png", hole


def test_crops_do_as_well_as_the_whole_picture() -> None:
    values = (scenery(11, 150, 150) / 255).astype(np.float32)
    hole = np.zeros((150, 150), dtype=bool)
    hole[60:64, 50:100] = hole[30:60, 100:103] = True
    (crop,) = plan_crops(hole, ~hole)
    assert crop.area < 0.5 * hole.size
    found = {}
    for name, part in (("crop", crop), ("whole", whole_picture(hole.shape))):
        masked = np.where(hole[..., None], 0, values)
        settings, fill = (lambda size: settings_for("peak", size)), hole if name == "crop" else None
        made = fit_crops(masked, ~hole, [part], "peak", settings, Length(steps=300), (88,), fill=fill)
        found[name] = psnr(float(np.mean((made.fill - values)[hole] ** 2)))
    assert found["crop"] > found["whole"] - 0.2, found


def test_several_crops_side_by_side_are_the_same_as_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, mask, hole = large_scene(tmp_path)
    options = InpaintOptions(image, mask=str(mask), steps=12)
    seen = []
    for n_cores in (1, 2):
        monkeypatch.setattr(fits, "n_cores", lambda n=n_cores: n)
        monkeypatch.setattr(repair, "n_cores", lambda n=n_cores: n)
        metrics = run_inpainting(options, tmp_path / str(n_cores), lambda progress: seen.append(progress.fraction))
        assert len(metrics["crops"]) == 3  # the upper two are cheaper as one
        assert metrics["steps"] == 3 * 12
    results = [np.asarray(Image.open(tmp_path / n / "reconstruction.png")).astype(int) for n in "12"]
    assert np.abs(results[0] - results[1]).max() <= 1
    np.testing.assert_array_equal(results[0][~hole], np.asarray(Image.open(image))[~hole])
    assert seen[-1] == pytest.approx(1)
    assert not (tmp_path / "1" / ".fits").exists()


def test_a_repair_that_was_interrupted_keeps_what_it_has_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    image, mask, _ = large_scene(tmp_path)
    monkeypatch.setattr(repair, "n_cores", lambda: 1)
    command = ["inpaint", image, "--mask", mask, "--steps", 15]
    assert peak(*command, "--out", tmp_path / "whole") == 0
    carry_out, count = fits.carry_out, []

    def third_is_interrupted(order: Any, on_progress: Callable[..., None] | None = None) -> Any:
        count.append(order)
        if len(count) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return carry_out(order, on_progress)

    monkeypatch.setattr(fits, "carry_out", third_is_interrupted)
    out = tmp_path / "out"
    assert peak(*command, "--out", out) == 130
    assert "this result is partial" in capsys.readouterr().out
    assert read_metrics(out)["partial"] is True
    assert len(list((out / ".fits").iterdir())) == 2
    assert peak(*command, "--out", out, "--resume") == 0
    assert len(count) == 3 + 1  # two were kept
    assert (out / "reconstruction.png").read_bytes() == (tmp_path / "whole" / "reconstruction.png").read_bytes()


def test_uncertainty_is_the_spread_of_three_fits(mask: Path, scratched: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = InpaintOptions(scratched, mask=str(mask), steps=10, uncertainty=True)
    metrics = run_inpainting(options, out)
    single = []
    for seed in (88, 89, 90):
        run_inpainting(replace(options, uncertainty=False, seed=seed), tmp_path / "one")
        single.append(np.asarray(Image.open(tmp_path / "one" / "field.png")) / 255)
    spread = np.std(single, axis=0).mean(axis=2)
    drawn = np.asarray(Image.open(out / "uncertainty.png")) / 255
    np.testing.assert_allclose(drawn[HOLE], np.clip(spread[HOLE] / 0.1, 0, 1), atol=0.06)
    assert (drawn[~HOLE] == 0).all()
    assert metrics["uncertainty"] == pytest.approx(spread[HOLE].mean(), rel=0.1)


def test_time_is_shared_by_pixels() -> None:
    shares = Length(most_seconds=100).share(np.array([0.7, 0.29, 0.01]), n_workers=2)
    assert [most for _, most in shares] == pytest.approx([100, 58, 2])
    assert Length(steps=5, most_seconds=100).share(np.array([1.0]), 1) == [(None, None)]
    assert Length(budget_seconds=10).share(np.array([0.5, 0.5]), 1) == [(5, None), (5, None)]
    assert Length(most_seconds=100).affords(n_workers=2) == 100 * 2 / repair.LEAST_SECONDS
    assert Length(budget_seconds=1, most_seconds=100).affords(2) == Length(5, None, 100).affords(2) == np.inf


def test_with_more_holes_than_time_the_smallest_are_biharmonics_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    image, mask, hole = large_scene(tmp_path)
    monkeypatch.setattr(repair, "REPAIR_SECONDS", 0.5)
    monkeypatch.setattr(command, "REPAIR_SECONDS", 0.5)
    monkeypatch.setattr(repair, "n_cores", lambda: 1)
    monkeypatch.setattr(repair, "LEAST_SECONDS", 0.2)  # two of three
    assert peak("inpaint", image, "--mask", mask, "--out", tmp_path / "out") == 0
    crops = read_metrics(tmp_path / "out")["crops"]
    holes = [np.count_nonzero(hole[slice(*c["rows"]), slice(*c["columns"])]) for c in crops]
    alone = [c["weights"] == {"biharmonic": 1} for c in crops]
    assert sum(alone) == 1
    assert holes[alone.index(True)] == min(holes) < max(holes)
    assert [c["steps"] == 0 for c in crops] == alone
    assert "1 of 3 crops by biharmonic alone for want of time" in " ".join(capsys.readouterr().out.split())
    rows, columns = (slice(*crops[alone.index(True)][side]) for side in ("rows", "columns"))
    given, result = (np.asarray(Image.open(p)) for p in (image, tmp_path / "out" / "reconstruction.png"))
    inner = hole[rows, columns]
    classical_fill = classical.fill("biharmonic", (given[rows, columns] / np.float32(255)).astype(np.float32), ~inner)
    assert np.abs(result[rows, columns][inner] - 255 * classical_fill[inner]).max() <= 1.01


def test_options_that_do_not_go_together(
    mask: Path, scratched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, message in (
        ([scratched, "--mask-hole", "white"], "--mask-hole white: is for a mask's file"),
        ([scratched, "--mask", mask, "--mask-hole", "blck"], "--mask-hole: must be one of black, white, painted"),
        ([scratched, "--mask", mask, "--method", "telea", "--uncertainty"], "telea gives the same every time"),
        ([], "no picture; name one, or a folder"),
    ):
        assert message in refused(capsys, "inpaint", *arguments, "--out", tmp_path / "out")
