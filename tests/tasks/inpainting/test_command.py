"""`peak inpaint`, through the command line; what it refuses is in test_inpaint_errors.py."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from peak_nerf.core import fit as fit_module
from peak_nerf.errors import PeakError
from peak_nerf.system import record
from peak_nerf.tasks.inpainting import command as inpaint_command
from peak_nerf.tasks.inpainting.command import InpaintOptions, run_inpainting
from tests.images.pictures import smooth_picture, some_missing
from tests.tasks.inpainting.runs import SAME, H, W, names, peak, read_metrics, size_of, write_image

# ------------------------------------------------------------------------------------------------------- results


def test_everything_that_is_promised_is_there(image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a" / "out"
    assert peak("inpaint", image, "--out", out, "--steps", 6, "--size", "original", "--seed", 7) == 0
    pictures = {"input.png", "reconstruction.png", "comparison.png", "residual.png", "psnr.png", "similarity.png"}
    assert names(out) == {*pictures, "field.png", "metrics.json"}
    metrics = read_metrics(out)
    promised = ("task", "method", "data", "seed", "settings", "psnr", "psnr_missing", "ssim", "seconds")
    assert {*promised, "n_parameters", "versions", "steps", "partial", "history", "peak_memory_gib"} <= set(metrics)
    assert (metrics["task"], metrics["method"], metrics["seed"]) == ("inpaint", "peak", 7)
    assert metrics["data"] == str(image)
    assert metrics["settings"]["fit"]["kar"]["weight"] >= 0
    assert metrics["steps"] == 6
    assert metrics["partial"] is False
    assert 0.4 < metrics["missing_fraction"] < 0.6
    assert metrics["history"][-1]["psnr"] == pytest.approx(metrics["psnr_field"], abs=0.02)
    assert 0.05 < metrics["peak_memory_gib"] < 16
    assert size_of(out / "reconstruction.png") == (W, H)
    printed = capsys.readouterr().out
    assert f"PSNR {metrics['psnr']:.2f} dB" in printed
    assert str(out) in printed


def test_scores_are_those_of_the_picture_that_is_left(image: Path, tmp_path: Path) -> None:
    metrics = run_inpainting(InpaintOptions(image, **SAME), tmp_path / "out")  # type: ignore[arg-type]
    values = smooth_picture(H, W)[..., 0]
    observed = np.random.RandomState(88).rand(H, W) > 0.5
    finished, own = (
        np.asarray(Image.open(tmp_path / "out" / f"{name}.png")) / 255 for name in ("reconstruction", "field")
    )
    # Papers score observed pixels as they were estimated, too; classical estimates hold them as they are.
    share = metrics["weights"]["field"]
    mean = np.where(observed, share * own + (1 - share) * values, finished)
    for left, end in ((mean, ""), (own, "_field")):
        for name, chosen in (("psnr", np.ones_like(observed)), ("psnr_missing", ~observed)):
            by_hand = -10 * np.log10(((left - values)[chosen] ** 2).mean())
            assert metrics[name + end] == pytest.approx(by_hand, abs=0.5)  # 8 bits
    assert metrics["psnr"] != metrics["psnr_field"]
    assert sum(metrics["weights"].values()) == pytest.approx(1)
    alone = run_inpainting(InpaintOptions(image, combine=False, **SAME), tmp_path / "alone")  # type: ignore[arg-type]
    own = np.asarray(Image.open(tmp_path / "alone" / "field.png")) / 255
    assert alone["psnr"] == pytest.approx(-10 * np.log10(((own - values) ** 2).mean()), abs=0.5)
    assert not {"weights", "psnr_field"} & set(alone)
    assert "psnr_field" not in alone


@pytest.mark.parametrize("method", ["biharmonic", "telea", "navier-stokes", "linear"])
def test_classical_tools_leave_their_results_and_nothing_of_a_field(method: str, image: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_inpainting(InpaintOptions(image, **SAME), out)  # type: ignore[arg-type]
    assert {"similarity.png", "psnr.png"} <= names(out)
    assert peak("inpaint", image, "--method", method, "--size", "original", "--out", out) == 0
    assert names(out) == {"input.png", "reconstruction.png", "comparison.png", "residual.png", "metrics.json"}
    metrics = read_metrics(out)
    assert metrics["method"] == method
    assert metrics["n_parameters"] == 0
    # A smooth picture: half of the pixels suffice.
    assert metrics["psnr_missing"] > 25


@pytest.mark.parametrize(
    ("n_channels", "deep", "alpha", "suffix"),
    [
        (1, False, False, ".png"),
        (1, True, False, ".png"),
        (3, False, True, ".png"),
        (3, True, False, ".png"),
        (3, True, True, ".png"),
        (1, False, False, ".npy"),
        (3, False, True, ".npy"),
    ],
)
def test_kinds_of_pictures(n_channels: int, deep: bool, alpha: bool, suffix: str, tmp_path: Path) -> None:
    values, opaque = smooth_picture(H, W, n_channels), some_missing(H, W, 0.2)
    if suffix == ".npy" and not alpha:
        values[~opaque] = np.nan
    path = write_image(tmp_path / f"picture{suffix}", values, opaque if alpha else None, deep)
    holes = alpha or suffix == ".npy"
    mask = "none" if holes else "random"
    metrics = run_inpainting(InpaintOptions(path, mask=mask, **SAME), tmp_path / "out")  # type: ignore[arg-type]
    with Image.open(tmp_path / "out" / "reconstruction.png") as opened:
        assert opened.size == (W, H)
        grey = "I;16" if deep else "L"  # Pillow gives 16-bit colours as 8
        assert opened.mode == (grey if n_channels == 1 else "RGB")
    if holes:
        assert metrics["missing_fraction"] == pytest.approx(np.mean(~opaque))
        assert "psnr_missing" not in metrics  # nobody knows what is there
        assert all("psnr" not in p for p in metrics["history"])
        assert size_of(tmp_path / "out" / "comparison.png") == (3 * W + 4, H)  # before, mask, after
        # With a mask on top there is something to score.
        more = run_inpainting(InpaintOptions(path, **SAME), tmp_path / "more")  # type: ignore[arg-type]
        assert more["missing_fraction"] > metrics["missing_fraction"]
        assert "psnr_missing" in more


def test_what_stands_at_missing_pixels_changes_nothing_but_the_scores(image: Path, tmp_path: Path) -> None:
    observed = np.random.RandomState(88).rand(H, W) > 0.5
    other = write_image(tmp_path / "other.png", np.where(observed[..., None], smooth_picture(H, W), 1.0))
    for path, out in ((image, "a"), (other, "b")):
        run_inpainting(InpaintOptions(path, **SAME), tmp_path / out)  # type: ignore[arg-type]
    one, two = ((tmp_path / out / "field.png").read_bytes() for out in "ab")
    assert one == two
    assert read_metrics(tmp_path / "a")["psnr"] != read_metrics(tmp_path / "b")["psnr"]


@pytest.mark.parametrize("mask", ["patch", "textural", "random+patch", "FILE", "FILE+random"])
def test_masks(mask: str, tmp_path: Path) -> None:
    image = write_image(tmp_path / "p.png", smooth_picture(64, 64))
    drawn = some_missing(64, 64, 0.1)
    file = write_image(tmp_path / "m.png", drawn[..., None].astype(np.float32))
    options = InpaintOptions(image, mask=mask.replace("FILE", str(file)), method="linear", size="original")
    fraction = run_inpainting(options, tmp_path / "out")["missing_fraction"]
    if mask == "FILE":
        assert fraction == pytest.approx(np.mean(~drawn))
    elif mask == "FILE+random":
        assert fraction == pytest.approx(np.mean(~(drawn & (np.random.RandomState(88).rand(64, 64) > 0.5))))
    else:
        assert 0.02 < fraction < 0.6


@pytest.mark.parametrize(("size", "expected"), [("16", (16, 12)), ("20x10", (20, 10)), ("original", (32, 24))])
def test_sizes(size: str, expected: tuple[int, int], image: Path, tmp_path: Path) -> None:
    run_inpainting(InpaintOptions(image, method="telea", size=size), tmp_path / "out")
    assert size_of(tmp_path / "out" / "reconstruction.png") == expected


@pytest.mark.parametrize(
    ("r", "similarity"),
    [("--kar-n-features", "--kar-similarity dot"), ("--kar-features", "--kar-activation softmax")],
)
def test_options_reach_the_fit(r: str, similarity: str, image: Path, tmp_path: Path) -> None:
    options = f"--kar-weight 0.25 {r} 8 {similarity} --polynomial-degree 2 --hidden-dim 12"
    more = "--n-hidden 1 --learning-rate 0.02 --missing 0.3 --steps 2 --size original"
    assert peak("inpaint", image, "--out", tmp_path / "out", *options.split(), *more.split()) == 0
    fit = read_metrics(tmp_path / "out")["settings"]["fit"]
    assert (fit["kar"]["weight"], fit["kar"]["n_features"], fit["kar"]["similarity"]) == (0.25, 8, "dot")
    assert (fit["field"]["polynomial_degree"], fit["field"]["hidden_dim"], fit["field"]["n_hidden"]) == (2, 12, 1)
    assert fit["learning_rate"] == 0.02


# ---------------------------------------------------------------------------------------------------- interrupted


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Ctrl-C in the middle of the n-th step of the next fit."""
    step = fit_module._Run.step

    def at(n: int) -> None:
        count = 0

        def counted(self: Any, clock: Any) -> None:
            nonlocal count
            count += 1
            if count == n:
                os.kill(os.getpid(), signal.SIGINT)
            step(self, clock)

        monkeypatch.setattr(fit_module._Run, "step", counted)

    return at


def test_ctrl_c_saves_a_partial_result_and_resume_finishes_it(
    image: Path, tmp_path: Path, interrupt: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["inpaint", image, "--size", "original", "--steps", "30", "--save-field"]
    assert peak(*command, "--out", tmp_path / "whole") == 0
    out = tmp_path / "out"
    capsys.readouterr()
    interrupt(13)
    assert peak(*command, "--out", out) == 130
    assert "Interrupted: this result is partial" in capsys.readouterr().out
    metrics = read_metrics(out)
    assert metrics["partial"] is True
    assert metrics["steps"] == 13
    assert {"checkpoint.pt", "reconstruction.png", "field.safetensors"} <= names(out)
    assert peak(*command, "--out", out, "--resume") == 0
    assert "Interrupted" not in capsys.readouterr().out
    assert read_metrics(out)["partial"] is False
    assert names(out) == names(tmp_path / "whole")
    for name in ("reconstruction.png", "residual.png", "similarity.png"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_resuming_another_picture_is_refused_and_loses_nothing(
    image: Path, tmp_path: Path, interrupt: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    interrupt(5)
    assert peak("inpaint", image, "--size", "original", "--steps", 30, "--out", out) == 130
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    other = write_image(tmp_path / "other.png", 1 - smooth_picture(H, W))
    with pytest.raises(SystemExit) as exit_:
        peak("inpaint", other, "--size", "original", "--steps", 30, "--out", out, "--resume")
    assert exit_.value.code == 2
    assert "checkpoint.pt: belongs to other data" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_resume_without_a_checkpoint_starts_anew(image: Path, tmp_path: Path) -> None:
    metrics = run_inpainting(InpaintOptions(image, **SAME), tmp_path / "out", resume=True)  # type: ignore[arg-type]
    assert metrics["steps"] == 6


def test_ctrl_c_outside_the_fit_ends_without_a_traceback(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def pressed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(inpaint_command, "read_source", pressed)
    assert peak("inpaint", image, "--out", tmp_path / "out") == 130
    assert capsys.readouterr().err == "peak_nerf: interrupted\n"
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_half_written_is_no_result(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    run_inpainting(InpaintOptions(image, **SAME), out)  # type: ignore[arg-type]

    def full(path: Path, *_: object) -> None:
        raise PeakError(f"{path}: cannot be written")

    monkeypatch.setattr("peak_nerf.images.figures.write_residual", full)
    with pytest.raises(PeakError, match="cannot be written"):
        run_inpainting(InpaintOptions(image, **SAME), out)  # type: ignore[arg-type]
    assert not (out / "metrics.json").exists()


def test_memory_is_linuxs_high_water_mark_set_back_at_the_start_of_a_run(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proc = tmp_path / "proc"
    proc.mkdir()
    monkeypatch.setattr(record, "PROC_STATUS", proc / "status")
    assert 0.05 < record.peak_memory_gib() < 64  # elsewhere than on Linux
    (proc / "status").write_text("Name:\tpeak\nVmHWM:\t 3145728 kB\nVmRSS:\t 1 kB\n")
    assert run_inpainting(InpaintOptions(image, method="linear"), tmp_path / "out")["peak_memory_gib"] == 3.0
    assert (proc / "clear_refs").read_text() == "5"
    (proc / "clear_refs").unlink()
    (proc / "clear_refs").mkdir()  # not allowed
    assert run_inpainting(InpaintOptions(image, method="linear"), tmp_path / "out")["peak_memory_gib"] == 3.0
