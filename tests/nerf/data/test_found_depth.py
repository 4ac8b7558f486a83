"""Depth between sparse points: when it is looked for, and that a training uses it."""

import dataclasses
from typing import Any

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType

from peak_nerf.errors import PeakError
from peak_nerf.nerf.data import found_depth
from peak_nerf.nerf.data.found_depth import find_depth
from peak_nerf.nerf.data.multi_view_stereo import DenseDepth
from peak_nerf.nerf.data.pixels import PixelTable
from peak_nerf.nerf.data.points import Guesses, Sightings, SparsePoints, together
from tests.nerf.data.test_found_points import photos_config
from tests.nerf.runs import start


def some(n: int, of: int = 3) -> tuple[SparsePoints, Sightings]:
    points = SparsePoints(torch.rand(n, 3), torch.full((n, 3), n, dtype=torch.uint8), torch.rand(n))
    rows = torch.arange(2 * n) % n
    return points, Sightings(rows % of, rows, torch.rand(2 * n, 2), torch.rand(2 * n), torch.rand(2 * n))


def metadata(unbounded: bool = True, sightings: bool = True) -> dict[str, Any]:
    points, seen = some(60)
    return {"unbounded": unbounded, "points": points} | ({"sightings": seen} if sightings else {})


def cameras(n: int, kind: CameraType = CameraType.PERSPECTIVE) -> Cameras:
    return Cameras(torch.eye(4)[None, :3].repeat(n, 1, 1), 10.0, 10.0, 4.0, 3.0, 8, 6, camera_type=kind)


def wanted(
    stereo: Any, n: int = 3, kind: CameraType = CameraType.PERSPECTIVE, depth_loss: bool = True, **scene: bool
) -> bool:
    table = PixelTable([torch.zeros(6, 8, 3, dtype=torch.uint8)] * n, None, "cpu")
    return find_depth(stereo, cameras(n, kind), metadata(**scene), table, depth_loss) is not None


def test_it_is_looked_for_in_photos(monkeypatch, capsys) -> None:
    guesses = Guesses(torch.zeros(0, dtype=torch.long), torch.zeros(0, 2), torch.zeros(0, 3))
    monkeypatch.setattr(found_depth, "dense_depth", lambda *rest: DenseDepth(*some(5), guesses))
    assert wanted("auto")
    assert "depth at 5 pixels" in capsys.readouterr().out
    assert wanted("auto", n=100)
    assert not wanted("auto", n=101)
    assert not wanted("auto", unbounded=False)
    assert not wanted("auto", sightings=False)
    assert not wanted("auto", kind=CameraType.FISHEYE)
    assert not wanted("auto", depth_loss=False)
    assert not wanted("never")
    assert wanted("always", n=101, unbounded=False)
    assert "depth" in capsys.readouterr().out


def test_where_it_cannot_be_had_it_is_refused() -> None:
    with pytest.raises(PeakError, match=r"wants sparse points .*--triangulate always"):
        wanted("always", sightings=False)
    with pytest.raises(PeakError, match="wants perspective cameras; leave"):
        wanted("always", kind=CameraType.EQUIRECTANGULAR)
    with pytest.raises(PeakError, match=r"is for the depth loss, which --pipeline\.model\.depth-weight 0 switches off"):
        wanted("always", depth_loss=False)


@pytest.mark.parametrize("lack", ["points", "loss"])
def test_a_training_that_cannot_have_it_ends_in_one_line(tmp_path, lack, capsys) -> None:
    """Without sightings the depth loss is off, and used to leave the option without effect."""
    config = photos_config(tmp_path, kar_weight=0.0, **({"depth_weight": 0.0} if lack == "loss" else {}))
    config.pipeline.datamanager.stereo = "always"
    if lack == "points":
        config.pipeline.datamanager.dataparser.triangulate = "never"
    with pytest.raises(SystemExit) as ended:
        start(config)
    assert ended.value.code == 2
    said = " ".join(capsys.readouterr().err.split())
    assert ("who saw them" if lack == "points" else "is for the depth loss") in said


def test_pictures_and_their_masks_are_those_of_the_table(monkeypatch) -> None:
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(256, (6 - i, 8, 3), generator=generator, dtype=torch.uint8) for i in range(3)]
    masks = [torch.rand(6 - i, 8, generator=generator) > 0.5 for i in range(3)]
    for of, expected in ((None, [None] * 3), (masks, masks)):
        table = PixelTable(images, of, "cpu")
        for i, (image, mask) in enumerate(zip(images, expected, strict=True)):
            picture, used = table.picture(i, 6 - i)
            assert torch.equal(picture, image)
            assert used is mask is None or torch.equal(used, mask)


def test_two_sets_of_points_are_one() -> None:
    (points, seen), (more, more_seen) = some(4), some(7)
    joined, all_seen = together(points, seen, more, more_seen)
    for field in dataclasses.fields(SparsePoints):
        assert torch.equal(
            getattr(joined, field.name), torch.cat((getattr(points, field.name), getattr(more, field.name)))
        )
    assert torch.equal(all_seen.xy, torch.cat((seen.xy, more_seen.xy)))
    assert torch.equal(joined.xyz[all_seen.point[8:]], more.xyz[more_seen.point])


@pytest.mark.parametrize("stereo", ["auto", "never"])
def test_a_training_has_it_and_its_evaluation_does_without(tmp_path, stereo, capsys) -> None:
    config = photos_config(tmp_path, kar_weight=0.0)
    config.pipeline.datamanager.stereo = stereo
    pipeline = start(config).pipeline
    datamanager = pipeline.datamanager
    sparse = len(datamanager.train_dataset.metadata["sightings"].point)
    found = "between the sparse points" in capsys.readouterr().out
    assert found == (stereo == "auto")
    assert (len(datamanager.sighted) > 20 * sparse) == found
    _, batch = datamanager.next_train(0)
    assert len(batch["sighted"]) == 128
    # The plane that was painted.
    xyz = datamanager.sighted.points.xyz
    assert (xyz[:, 2] - xyz[:, 2].median()).abs().median() < 0.01
    assert (datamanager.sighted.points.deviation < 0.05).float().mean() > 0.95
    again = config.pipeline.setup(device="cpu", test_mode="test").datamanager
    assert len(again.sighted) <= sparse


def test_nothing_is_looked_for_without_the_depth_loss(tmp_path, capsys) -> None:
    datamanager = start(photos_config(tmp_path, kar_weight=0.0, depth_weight=0.0)).pipeline.datamanager
    assert "between the sparse points" not in capsys.readouterr().out
    assert len(datamanager.sighted) <= len(datamanager.train_dataset.metadata["sightings"].point)
