"""What `peak inpaint` and `peak render-image` refuse: one line, exit code 2, nothing half-written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from peak_nerf.system.locks import locked_folder
from peak_nerf.tasks.inpainting import command as inpaint_command
from tests.images.pictures import smooth_picture, some_missing
from tests.tasks.inpainting.runs import H, W, names, peak, refused, size_of, write_image


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "peek"], "--method: must be one of peak, peak-siren, mlp"),
        (["--method", "peek"], "got peek; did you mean 'peak'?"),
        (["--mask", "randum"], "--mask randum: no such mask, and no such file; did you mean 'random'?"),
        (["--mask", "none"], "picture.png: no pixel is missing"),
        (["--missing", "0"], "--missing: must be above 0 and below 1, got 0.0"),
        (["--missing", "nan"], "--missing: must be above 0 and below 1"),
        (["--missing", "0.9999"], "with --mask random: "),
        (["--size", "big"], "--size big: not a size"),
        (["--size", "4"], "--size 4: gives 4 x 3 pixels"),
        (["--size", "9000"], "12 megapixels is the most"),
        (["--steps", "0"], "--steps: must be from 1 to 10000000, got 0"),
        (["--steps", "3", "--budget-seconds", "4"], "give one of them, not both"),
        (["--budget-seconds", "-1"], "--budget-seconds: must be above 0"),
        (["--budget-seconds", "inf"], "--budget-seconds: must be above 0 and at most 10000000"),
        (["--learning-rate", "nan"], "--learning-rate: must be above 0"),
        (["--seed", "-1"], "--seed: must be from 0"),
        (["--seed", str(2**70)], "--seed: must be from 0"),
        (["--n-hidden", "0"], "--n-hidden: must be from 1 to 100, got 0"),
        (["--hidden-dim", "0"], "--hidden-dim: must be from 1 to 4096"),
        (["--polynomial-degree", "-1"], "--polynomial-degree: must be from 0 to 100000"),
        (["--kar-n-features", "0"], "--kar-n-features: must be from 1 to 4096, got 0"),
        (["--kar-features", "0"], "--kar-n-features: must be from 1 to 4096, got 0"),
        (["--kar-weight", "-1"], "--kar-weight: must be from 0 to 1000000, got -1.0"),
        (["--kar-weight", "inf"], "--kar-weight: must be from 0 to 1000000"),
        (
            ["--kar-similarity", "cosin"],
            "--kar-similarity: must be one of cosine, dot, got cosin; did you mean 'cos",
        ),
        (["--method", "siren", "--kar-weight", "1"], "kar-weight: this method has no KAR"),
        (["--method", "hash", "--polynomial-degree", "1"], "this method has no polynomial encoding"),
        (["--method", "linear", "--save-field"], "--save-field: linear fits no field"),
        (["--learning-rate", "1e30"], "--learning-rate: must be above 0 and at most 10, got 1e+30"),
    ],
)
def test_bad_options_end_in_one_line_and_write_nothing(
    arguments: list[str], message: str, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(capsys, "inpaint", image, "--size", "original", "--out", tmp_path / "out", *arguments)
    assert not (tmp_path / "out").exists() or names(tmp_path / "out") == set()


def test_bad_pictures_and_masks_end_in_one_line_and_write_nothing(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    values = smooth_picture(H, W)
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "cut.png").write_bytes(image.read_bytes()[:200])
    (tmp_path / "empty.png").touch()
    constant = write_image(tmp_path / "constant.png", np.full((H, W, 3), [0.2, 0.4, 0.6]))
    nothing = write_image(tmp_path / "nothing.npy", np.full((H, W, 1), np.nan))
    infinite = write_image(tmp_path / "infinite.npy", np.where(np.arange(W)[:, None] < 0, values, np.inf))
    loud = write_image(tmp_path / "loud.npy", values * 300)
    masks = {
        "small": np.ones((H, W - 3, 1)),
        "white": np.ones((H, W, 1)),
        "black": np.zeros((H, W, 1)),
    }
    for name, mask in masks.items():
        write_image(tmp_path / f"{name}.png", mask)
    for picture, mask, message in (
        ("gone.png", "random", "gone.png: no such file"),
        (".", "random", "is a folder"),
        ("text.png", "random", "text.png: not a picture"),
        ("cut.png", "random", "cut.png: cannot be read"),
        ("empty.png", "random", "empty.png: is empty"),
        (constant.name, "random", "constant.png: all observed pixels have the same value"),
        (nothing.name, "none", "nothing.npy: no pixels observed"),
        (infinite.name, "none", "infinite.npy: no pixels observed"),
        (loud.name, "random", "loud.npy: values from"),
        (image.name, "small.png", f"small.png: the mask is {W - 3} x {H} pixels and the picture {W} x {H}, of another"),
        (image.name, "white.png", "white.png: no pixel is missing"),
        (image.name, "black.png", "black.png: no pixels observed"),
        (image.name, "text.png", "text.png: not a picture"),
    ):
        mask = mask if mask in ("random", "none") else str(tmp_path / mask)
        line = refused(
            capsys, "inpaint", tmp_path / picture, "--mask", mask, "--size", "original", "--steps", 2, "--out", out
        )
        assert message in line
        assert not out.exists()


def test_a_folder_that_cannot_be_written_is_said_before_the_fit(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("kept")
    monkeypatch.setattr(inpaint_command, "fit_crops", None)  # never reached
    for out in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nothing")):
        assert f"{out}" in refused(capsys, "inpaint", image, "--out", out)
    assert (tmp_path / "file").read_text() == "kept"


def test_no_result_replaces_what_it_was_made_from(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    mine = write_image(out / "input.png", smooth_picture(H, W))
    mask = write_image(out / "residual.png", some_missing(H, W)[..., None].astype(np.float32))
    before = mine.read_bytes(), mask.read_bytes()
    assert f"would replace {mine}" in refused(capsys, "inpaint", mine, "--out", out)
    line = refused(capsys, "inpaint", image, "--mask", mask, "--size", "original", "--out", out)
    assert f"would replace {mask}" in line
    assert (mine.read_bytes(), mask.read_bytes()) == before


def test_a_field_renders_at_any_size(image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, field = tmp_path / "out", tmp_path / "out" / "field.safetensors"
    assert peak("inpaint", image, "--size", "original", "--steps", 4, "--save-field", "--out", out) == 0
    assert peak("render-image", field, "--out", tmp_path / "same.png") == 0
    assert (tmp_path / "same.png").read_bytes() == (out / "field.png").read_bytes()
    for size, expected in (("64", (64, 48)), ("50x9", (50, 9)), ("8x120", (8, 120))):
        assert peak("render-image", field, "--size", size, "--out", tmp_path / "r.png") == 0
        assert size_of(tmp_path / "r.png") == expected
    assert "8 x 120 pixels" in capsys.readouterr().out
    kept = (tmp_path / "r.png").read_bytes()
    for arguments, message in (
        ([field, "--size", "0x5"], "--size 0x5: gives"),
        ([field, "--size", "99999"], "megapixels"),
        ([field, "--size", "wide"], "not a size"),
        ([image], "picture.png: cannot be read"),
        ([tmp_path / "no.safetensors"], "no such file"),
    ):
        assert message in refused(capsys, "render-image", *arguments, "--out", tmp_path / "r.png")
    assert ".png" in refused(capsys, "render-image", field, "--out", tmp_path / "r.jpg")
    assert "cannot be written" in refused(capsys, "render-image", field, "--out", image / "below.png")
    assert (tmp_path / "r.png").read_bytes() == kept


def test_two_at_once_into_one_folder(image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with locked_folder(tmp_path / "out", "--out", "`peak inpaint`"):
        line = refused(capsys, "inpaint", image, "--method", "telea", "--out", tmp_path / "out")
    assert "another `peak inpaint` is at work here; wait for it or give another --out" in line
    assert peak("inpaint", image, "--method", "telea", "--out", tmp_path / "out") == 0
