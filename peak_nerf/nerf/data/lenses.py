"""Which lens a scene's file means: its camera model, its distortion, and whether both make sense.

nerfstudio, COLMAP and instant-ngp each have names of their own; what none of our cameras can do is refused by its name.

Symbols:
    k1 .. k6, p1, p2    as OpenCV has them; k4 of OPENCV alone is nerfstudio's, of the polynomial's fourth term
    f                   focal length in pixels; of a panorama, pixels per half turn
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.cameras.rays import RayBundle
from torch import Tensor

from peak_nerf.errors import PeakError
from peak_nerf.nerf.cameras import undistort
from peak_nerf.nerf.data.transforms_file import Frame, SceneFile, number, number_array
from peak_nerf.nerf.distortion import distort

MODELS = {
    **dict.fromkeys(
        ("PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV"), CameraType.PERSPECTIVE
    ),
    **dict.fromkeys(
        ("OPENCV_FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "SIMPLE_FISHEYE", "FISHEYE"), CameraType.FISHEYE
    ),
    "EQUIRECTANGULAR": CameraType.EQUIRECTANGULAR,
}
POLYNOMIAL = ("k1", "k2", "k3", "k4", "p1", "p2")
"""In nerfstudio's order, in which its `distortion_params` are too."""
LENS_KEYS = (*POLYNOMIAL, "k5", "k6")
FOREIGN = {
    "ftheta_": "instant-ngp's f-theta lens",
    "equirectangular": "instant-ngp's panorama of equal areas",
    "orthographic": "instant-ngp's camera without perspective",
    "rolling_shutter": "instant-ngp's shutter that reads row by row",
    **dict.fromkeys(("s1", "s2", "s3", "s4", "sx1", "sy1"), "a thin prism"),
    **dict.fromkeys(("tau_x", "tau_y"), "a tilted sensor"),
}
"""Keys, or how they begin, of what our cameras do not have. Where all their values are 0 they mean nothing."""
FOCAL = (1e-3, 1e4)
"""Focal lengths, as fractions of the picture's width or height, that a camera can have: 179.9 to 0.006 degrees."""
CENTRE = 100.0
"""Pictures that a principal point may be beside its own, as those of cut-out pictures are by a few."""
PROBES = 9
"""Positions per side of a picture at which a lens is undone and done again."""
PIXELS = 1.0
"""By which such a position may miss."""


@dataclass(frozen=True)
class Lens:
    """Of one frame."""

    kind: CameraType
    whole: bool
    """Of a panorama: it shows all of the sphere, whatever its focal length says."""
    distortion: Tensor
    """(9,) float64: as `nerf.cameras` has them."""


class RationalCameras(Cameras):
    """Cameras of lenses with OpenCV's rational distortion: `distortion_params` (n, 9), as in `nerf.cameras`."""

    def _generate_rays_from_coords(
        self,
        camera_indices: Tensor,
        coords: Tensor,
        camera_opt_to_camera: Tensor | None = None,
        distortion_params_delta: Tensor | None = None,
        disable_distortion: bool = False,
    ) -> RayBundle:
        """nerfstudio's rays through the positions at which a lens without distortion would show the same."""
        rays_at = super()._generate_rays_from_coords
        if disable_distortion or self.distortion_params is None:
            return rays_at(camera_indices, coords, camera_opt_to_camera, distortion_params_delta, disable_distortion)
        if distortion_params_delta is not None:
            raise ValueError("a rational lens cannot be refined")
        index = tuple(camera_indices.to(self.device).unbind(-1))
        v, u = coords.to(self.device).unbind(-1)
        fx, fy, cx, cy = (getattr(self, name)[index][..., 0] for name in ("fx", "fy", "cx", "cy"))
        parameters = self.distortion_params[index].reshape(-1, self.distortion_params.shape[-1])
        bends = self.camera_type[index] != CameraType.EQUIRECTANGULAR.value

        def at(right: float, down: float) -> RayBundle:
            plane = torch.stack(((u + right - cx) / fx, (v + down - cy) / fy), -1)
            straight = undistort(plane.reshape(-1, 2), parameters).reshape(plane.shape)
            x, y = torch.where(bends, straight, plane).unbind(-1)
            moved = torch.stack((cy + fy * y, cx + fx * x), -1)
            return rays_at(camera_indices, moved, camera_opt_to_camera, None, True)

        rays = at(0.0, 0.0)
        sides = [(at(*step).directions - rays.directions).norm(dim=-1, keepdim=True) for step in ((1, 0), (0, 1))]
        rays.pixel_area = sides[0] * sides[1]
        return rays


def lens_of(scene_file: SceneFile, frame: Frame) -> Lens:
    """Raises: PeakError on what is not supported, by its name, and on values that are none or contradict each other."""
    values = {**scene_file.values, **frame.values}
    _refuse_foreign(scene_file, frame, values)
    latlong, fisheye = bool(values.get("latlong")), bool(values.get("is_fisheye"))
    model = values.get("camera_model")
    if model is None:
        model = "EQUIRECTANGULAR" if latlong else "OPENCV_FISHEYE" if fisheye else "OPENCV"
    kind = MODELS.get(model) if isinstance(model, str) else None
    if kind is None:
        whose = f" of {frame.name}" if "camera_model" in frame.values else ""
        raise PeakError(
            f"{scene_file.path}: camera_model {model!r}{whose} is not supported; use {', '.join(MODELS)}, or "
            f"undistort the pictures (colmap image_undistorter)"
        )
    for key, given, wanted in (
        ("latlong", latlong, CameraType.EQUIRECTANGULAR),
        ("is_fisheye", fisheye, CameraType.FISHEYE),
    ):
        if given and kind != wanted:
            raise PeakError(
                f"{scene_file.path}: {key} is true but camera_model of {frame.name} is {model}; remove the wrong one"
            )
    k = _parameters(scene_file, frame, values)
    rational = model == "FULL_OPENCV" or values.get("k5") is not None or values.get("k6") is not None
    if kind == CameraType.FISHEYE and (k["k5"] or k["k6"]):
        raise PeakError(f"{scene_file.path}: k5 and k6 of {frame.name} mean nothing for {model}; remove them")
    if kind == CameraType.EQUIRECTANGULAR and any(k.values()):
        given_keys = ", ".join(key for key, value in k.items() if value)
        raise PeakError(f"{scene_file.path}: {given_keys} of {frame.name} mean nothing for a panorama; remove them")
    below = [k["k4"], k["k5"], k["k6"]] if rational and kind == CameraType.PERSPECTIVE else [0.0] * 3
    k4 = 0.0 if any(below) else k["k4"]
    distortion = [k["k1"], k["k2"], k["k3"], k4, k["p1"], k["p2"], *below]
    return Lens(kind, latlong, torch.tensor(distortion, dtype=torch.float64))


def _refuse_foreign(scene_file: SceneFile, frame: Frame, values: dict[str, Any]) -> None:
    for key, value in values.items():
        start = next((start for start in FOREIGN if key == start or (start[-1] == "_" and key.startswith(start))), None)
        if start is not None and _means_something(value):
            raise PeakError(
                f"{scene_file.path}: {key} of {frame.name} ({FOREIGN[start]}) is not supported; undistort the "
                f"pictures, or remove the key if its lens is an ordinary one"
            )


def _means_something(value: Any) -> bool:
    array = number_array(value)
    return bool(value) if array is None else bool((array != 0).any())


def _parameters(scene_file: SceneFile, frame: Frame, values: dict[str, Any]) -> dict[str, float]:
    """k1 to k6, p1 and p2, from keys of these names or from nerfstudio's list of six."""
    k = {key: number(scene_file, frame, key) or 0.0 for key in LENS_KEYS}
    listed = values.get("distortion_params")
    if listed is None:
        return k
    array = number_array(listed)
    if array is None or array.shape != (len(POLYNOMIAL),) or not all(map(math.isfinite, array)):
        raise PeakError(
            f"{scene_file.path}: distortion_params of {frame.name} is {listed!r}; give the six numbers "
            f"{', '.join(POLYNOMIAL)}"
        )
    named = dict(zip(POLYNOMIAL, array.tolist(), strict=True))
    for key, value in k.items():
        if value and value != named.get(key):
            raise PeakError(f"{scene_file.path}: {frame.name} has distortion_params and {key}; remove one of them")
    return {**k, **named}


def focal_of_panorama(
    scene_file: SceneFile, frame: Frame, lens: Lens, size: tuple[float, float], say: Callable[[str], None]
) -> tuple[float, float]:
    """f of a picture of 360 x 180 degrees, or of the part that fl_x and fl_y say, as nerfstudio has them.

    size: width and height to which these refer.
    """
    width, height = size
    whole = (width / 2, height)
    f_x, f_y = (number(scene_file, frame, key, low=0.0) for key in ("fl_x", "fl_y"))
    if f_x is None and f_y is None:
        return whole
    f = (f_x or f_y or whole[0], f_y or f_x or whole[1])
    if lens.whole or width > 2.02 * f[0] or height > 1.01 * f[1]:
        if max(abs(a / b - 1) for a, b in zip(f, whole, strict=True)) > 1e-3:
            say(
                f"{scene_file.path}: the panoramas are taken to show 360 x 180 degrees, fl_x {whole[0]:g} and fl_y "
                f"{whole[1]:g}, not {f[0]:g} and {f[1]:g}"
            )
        return whole
    return f


def check_lens(
    scene_file: SceneFile,
    frame: Frame,
    lens: Lens,
    f: tuple[float, float],
    c: tuple[float, float],
    size: tuple[float, float],
    say: Callable[[str], None],
) -> None:
    """Whether a lens can be that of a picture: f, c and size in the same pixels.

    Raises: PeakError where its focal length, its centre or its distortion makes no sense, saying what is odd.
    """
    where = f"{scene_file.path}: "
    for axis, focal, centre, extent, side in zip("xy", f, c, size, ("wide", "high"), strict=True):
        if not FOCAL[0] <= focal / extent <= FOCAL[1]:
            angle = math.degrees(2 * math.atan(0.5 * extent / focal))
            raise PeakError(
                f"{where}the focal length of {frame.name}, {focal:g} pixels for a picture {extent:g} {side}, is an "
                f"angle of view of {angle:.3g} degrees; correct fl_{axis} or camera_angle_{axis}"
            )
        if abs(centre - extent / 2) > CENTRE * extent:
            raise PeakError(
                f"{where}c{axis} of {frame.name}, {centre:g}, is far beside its picture, {extent:g} pixels {side}; "
                f"correct or remove it"
            )
    if not lens.distortion.any():
        return
    positions = [torch.linspace(0.5, n - 0.5, PROBES, dtype=torch.float64) for n in size]
    plane = torch.cartesian_prod(*((p - m) / g for p, m, g in zip(positions, c, f, strict=True)))
    parameters = (lens.distortion if lens.distortion[6:].any() else lens.distortion[:6]).expand(len(plane), -1)
    missed = (distort(undistort(plane, parameters), parameters) - plane) * torch.tensor(f, dtype=torch.float64)
    lost = float((~(missed.norm(dim=-1) < PIXELS)).double().mean())
    values = ", ".join(
        f"{name} {value:g}"
        for name, value in zip((*POLYNOMIAL, "d1", "d2", "d3"), lens.distortion.tolist(), strict=True)
        if value
    )
    if lost > 0.5:
        raise PeakError(f"{where}the distortion of {frame.name} ({values}) cannot be undone in its picture; correct it")
    if lost > 0:
        say(f"{where}the distortion of {frame.name} ({values}) cannot be undone in {lost:.0%} of its picture")


def lens_cameras(lenses: Iterable[Lens], **intrinsics: Any) -> Cameras:
    """Cameras of these lenses, nerfstudio's own unless one of them is rational."""
    lenses = list(lenses)
    distortion = torch.stack([lens.distortion for lens in lenses]).float()
    rational = bool(distortion[:, 6:].any())
    kind = RationalCameras if rational else Cameras
    # None spares an iterative solve for every ray.
    parameters = None if not distortion.any() else distortion if rational else distortion[:, :6]
    return kind(distortion_params=parameters, camera_type=[lens.kind for lens in lenses], **intrinsics)
