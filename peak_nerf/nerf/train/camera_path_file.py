"""The camera path of `ns-render camera-path`, looked at before anything is loaded."""

from __future__ import annotations

import atexit
import json
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from peak_nerf.errors import PeakError
from peak_nerf.nerf.callers import local_of

Three = Annotated[list[FiniteFloat], Field(min_length=3, max_length=3)]


class _Read(BaseModel):
    model_config = ConfigDict(extra="ignore")


class PathCamera(_Read):
    """A picture of the path."""

    camera_to_world: Annotated[list[FiniteFloat], Field(min_length=16, max_length=16)]
    fov: Annotated[float, Field(gt=0, lt=180)] | None = None
    """Degrees."""


class Colour(_Read):
    """0 to 255."""

    r: Annotated[float, Field(ge=0, le=255)]
    g: Annotated[float, Field(ge=0, le=255)]
    b: Annotated[float, Field(ge=0, le=255)]


class CropBox(_Read):
    """The part of the scene that is rendered."""

    crop_bg_color: Colour
    crop_center: Three
    crop_scale: Annotated[list[Annotated[FiniteFloat, Field(gt=0)]], Field(min_length=3, max_length=3)]
    crop_rot: Three | None = None


class CameraPath(_Read):
    """As nerfstudio's viewer writes it."""

    camera_path: Annotated[list[PathCamera], Field(min_length=1)]
    render_height: Annotated[float, Field(ge=1, le=32768)]
    render_width: Annotated[float, Field(ge=1, le=32768)]
    seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    camera_type: Literal["perspective", "fisheye", "equirectangular", "omnidirectional", "vr180"] = "perspective"
    crop: CropBox | None = None


def check_camera_path() -> None:
    """Where `ns-render camera-path` is at work, see that its file is one.

    A crop whose angles are whole numbers, which nerfstudio cannot take, is handed to it with a decimal point.

    Raises: PeakError when it cannot be read, is no camera path, or has no cameras.
    """
    command: Any = local_of("nerfstudio.scripts.render", "main", "self")
    name = getattr(command, "camera_path_filename", None)
    if name is None:
        return
    read_camera_path(Path(name))
    path = json.loads(Path(name).read_bytes())
    crop = path.get("crop")
    if crop:
        crop["crop_rot"] = [float(angle) for angle in crop.get("crop_rot") or (0, 0, 0)]
        with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False, encoding="utf-8") as file:
            json.dump(path, file)
        atexit.register(Path(file.name).unlink, missing_ok=True)
        command.camera_path_filename = Path(file.name)


def read_camera_path(path: Path) -> CameraPath:
    """Raises: PeakError when it cannot be read, is no camera path, or has no cameras."""
    remedy = "export it from the viewer again (Render, Generate Command)"
    try:
        found = CameraPath.model_validate_json(path.read_bytes())
    except OSError as error:
        raise PeakError(f"{path}: cannot be read ({error.strerror}); correct --camera-path-filename") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        if place == "camera_path" and first["type"] == "too_short":
            raise PeakError(f"{path}: the camera path is empty; add keyframes in the viewer and {remedy}") from None
        raise PeakError(f"{path}: {place or 'the file'}: {first['msg'].splitlines()[0]}; {remedy}") from None
    if found.camera_type in ("perspective", "fisheye") and any(camera.fov is None for camera in found.camera_path):
        raise PeakError(f"{path}: a camera has no fov, its angle of view in degrees; {remedy}")
    return found
