"""The camera path of `ns-render camera-path`."""

import json
import types
from pathlib import Path
from typing import Any

import pytest

from peak_nerf.errors import PeakError
from peak_nerf.nerf.train import camera_path_file
from peak_nerf.nerf.train.camera_path_file import read_camera_path

POSE = [1.0, 0, 0, 0.1, 0, 1, 0, 0.2, 0, 0, 1, 1.5, 0, 0, 0, 1]


def path_of(**changes: Any) -> dict[str, Any]:
    camera = {"camera_to_world": POSE, "fov": 60.0, "aspect": 1.0}
    whole = {"camera_path": [camera, camera], "render_height": 32.0, "render_width": 32, "seconds": 1.0, "fps": 4}
    return {**whole, "camera_type": "perspective", "is_cycle": False, **changes}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"camera_type": "equirectangular", "camera_path": [{"camera_to_world": POSE}]},
        {"crop": None},
        {
            "crop": {
                "crop_bg_color": {"r": 0, "g": 9, "b": 255},
                "crop_center": [0, 0, 0],
                "crop_scale": [1, 2, 3],
                "crop_rot": [0, 0, 0],
            }
        },
    ],
)
def test_what_the_viewer_writes_is_taken(tmp_path: Path, changes: dict[str, Any]) -> None:
    file = tmp_path / "path.json"
    file.write_text(json.dumps(path_of(**changes)))
    assert len(read_camera_path(file).camera_path) >= 1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"camera_path": []}, "the camera path is empty; add keyframes"),
        ({"camera_path": [{"camera_to_world": POSE}]}, "a camera has no fov"),
        ({"camera_path": [{"camera_to_world": POSE[:12], "fov": 60}]}, "camera_path.0.camera_to_world: "),
        ({"camera_path": [{"camera_to_world": [float("nan"), *POSE[1:]], "fov": 60}]}, "camera_to_world.0: "),
        ({"camera_path": [{"camera_to_world": POSE, "fov": 180}]}, "camera_path.0.fov: "),
        ({"render_height": 0}, "render_height: "),
        ({"render_width": 1e9}, "render_width: "),
        ({"seconds": -1}, "seconds: "),
        ({"camera_type": "sphere"}, "camera_type: "),
        ({"crop": {"crop_center": [0, 0], "crop_scale": [1, 1, 1]}}, "crop"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    file = tmp_path / "path.json"
    file.write_text(json.dumps(path_of(**changes)))
    with pytest.raises(PeakError, match=r"path\.json: ") as raised:
        read_camera_path(file)
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\xfe", b"{", b'{"camera_path": 3}'])
def test_no_camera_path_at_all(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "path.json"
    file.write_bytes(content)
    with pytest.raises(PeakError, match=r"path\.json: .*export it from the viewer again"):
        read_camera_path(file)
    with pytest.raises(PeakError, match="cannot be read"):
        read_camera_path(tmp_path / "none.json")


def test_a_crop_gets_angles_that_nerfstudio_can_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nerfstudio.scripts.render import get_crop_from_json

    file = tmp_path / "path.json"
    crop = {"crop_bg_color": {"r": 0, "g": 0, "b": 0}, "crop_center": [0, 0, 0], "crop_scale": [1, 1, 1]}
    file.write_text(json.dumps(path_of(crop={**crop, "crop_rot": [0, 0, 0]})))
    command = types.SimpleNamespace(camera_path_filename=file)
    monkeypatch.setattr(camera_path_file, "local_of", lambda *_: command)
    with pytest.raises(AssertionError):
        get_crop_from_json(json.loads(file.read_text()))
    camera_path_file.check_camera_path()
    box = get_crop_from_json(json.loads(command.camera_path_filename.read_text()))
    assert box is not None
    assert box.obb.R.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
