"""The picture of a scene's space."""

from pathlib import Path

import pytest
import torch
from matplotlib.axes import Axes
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from PIL import Image

from peak_nerf.errors import MachineError
from peak_nerf.nerf.data.dataparser import PeakDataParserConfig
from peak_nerf.nerf.data.points import SparsePoints
from peak_nerf.nerf.data.space_figure import write_space_figure
from tests.nerf.scene_factory import write_nerfstudio_scene


@pytest.fixture
def splits(tmp_path: Path) -> tuple[DataparserOutputs, DataparserOutputs]:
    parser = PeakDataParserConfig(data=write_nerfstudio_scene(tmp_path / "capture")).setup()
    train, test = (parser.get_dataparser_outputs(split) for split in ("train", "test"))
    points = torch.tensor([[0.1, 0.2, 0.3], [0.0, 0.0, 0.0]])
    rgb = torch.tensor([[255, 0, 0], [0, 0, 255]], dtype=torch.uint8)
    train.metadata["points"] = SparsePoints(points, rgb, torch.zeros(2))
    return train, test


def test_it_shows_cube_cameras_and_points_in_the_files_unit(splits, tmp_path: Path, monkeypatch) -> None:
    train, test = splits
    drawn = []
    for name in ("plot", "scatter", "quiver"):
        original = getattr(Axes, name)

        def spy(self, *args, name=name, original=original, **kwargs):
            drawn.append((name, args, kwargs.get("label")))
            return original(self, *args, **kwargs)

        monkeypatch.setattr(Axes, name, spy)
    write_space_figure(tmp_path / "space.png", train, test.cameras)
    with Image.open(tmp_path / "space.png") as picture:
        assert picture.size[0] > 800
    assert [path.name for path in tmp_path.glob("space*")] == ["space.png"]
    unit = 1 / train.dataparser_scale
    assert unit == pytest.approx(3.873, abs=0.2)
    for panel, (across, up) in enumerate(((0, 1), (0, 2))):
        kinds = drawn[len(drawn) // 2 * panel :][: len(drawn) // 2]
        by_label = {label: args for name, args, label in kinds if name != "quiver"}
        assert set(by_label) == {
            "sparse points", "training views", "test views", "cube, space is contracted beyond it"
        }  # fmt: skip
        for label, cameras in (("training views", train.cameras), ("test views", test.cameras)):
            expected = unit * cameras.camera_to_worlds[:, :, 3].double()
            torch.testing.assert_close(torch.from_numpy(by_label[label][0]), expected[:, across])
            torch.testing.assert_close(torch.from_numpy(by_label[label][1]), expected[:, up])
        torch.testing.assert_close(
            torch.from_numpy(by_label["sparse points"][1]), unit * train.metadata["points"].xyz[:, up].double()
        )
        low, high = (unit * train.scene_box.aabb).tolist()
        x, y = by_label["cube, space is contracted beyond it"]
        assert (min(x), max(x)) == pytest.approx((low[across], high[across]))
        assert (min(y), max(y)) == pytest.approx((low[up], high[up]))
        arrows = next(args for name, args, _ in kinds if name == "quiver")
        axis = -train.cameras.camera_to_worlds[:, :, 2]
        ratio = torch.from_numpy(arrows[2]) / axis[:, across].double()
        torch.testing.assert_close(ratio, ratio[:1].expand(len(ratio)), rtol=1e-4, atol=0)
        assert float(ratio[0]) > 0


def test_a_folder_that_cannot_be_written(splits, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match=r"space.png: cannot be written"):
        write_space_figure(tmp_path / "file" / "space.png", splits[0])
