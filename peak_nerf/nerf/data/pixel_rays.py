"""Rays through pixels of many cameras, at the price of pinhole cameras whatever their lenses are.

nerfstudio undoes a lens's distortion by ten iterations for every ray of every batch. Here that is done once, on a
lattice over the picture of each lens, so fine that between its nodes directions are linear; a lens without distortion
needs its picture's corners alone.

Symbols:
    u, v     column and row in a picture, in pixels; the middle of the upper left pixel is (0.5, 0.5)
    lens     distinct intrinsics; many cameras may have the same
    node     of the lattice: nodes are evenly spaced from the middle of the first pixel to that of the last
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.cameras.rays import RayBundle
from torch import Tensor

from peak_nerf.errors import PeakError
from peak_nerf.nerf.cameras import local_directions

TOLERANCE = 0.004
"""Of the interpolation, in pixels, estimated inside the picture; at its border lenses bend twice as much."""
ROUNDING = 1e-6
"""Changes of directions that are due to their 24 bits."""
PROBES = 17
"""Nodes per side of the first lattice, from which the spacing is chosen."""
ONE_CENTRE = tuple(
    kind.value
    for kind in (CameraType.PERSPECTIVE, CameraType.FISHEYE, CameraType.EQUIRECTANGULAR, CameraType.FISHEYE624)
)
"""Kinds of cameras whose rays all begin at one point."""


class PixelRays:
    """Rays of cameras by interpolation in tables that are made once.

    Raises: PeakError for cameras whose rays do not begin at one point.
    """

    def __init__(self, cameras: Cameras) -> None:
        for kind in cameras.camera_type.unique().tolist():
            if kind not in ONE_CENTRE:
                raise PeakError(
                    f"cameras of kind {CameraType(kind).name}: their rays do not begin at one point, which peak cannot"
                    " train on; use pictures of perspective, fisheye or equirectangular cameras"
                )
        self.poses: Tensor = cameras.camera_to_worlds.float()  # nerfstudio's blender-data has float64
        values = [cameras.fx, cameras.fy, cameras.cx, cameras.cy, cameras.width, cameras.height, cameras.camera_type]
        values += [] if cameras.distortion_params is None else [cameras.distortion_params]
        distinct, lens = torch.cat([value.double() for value in values], -1).unique(dim=0, return_inverse=True)
        self.n_lenses = len(distinct)
        lattices = [_lattice(cameras, int((lens == i).nonzero()[0])) for i in range(self.n_lenses)]
        # direction (3) and the area that a pixel spans there, before it is divided by the direction's length cubed
        self.nodes = torch.cat([lattice.reshape(-1, 4) for lattice in lattices]).float()
        rows, columns = torch.tensor([lattice.shape[:2] for lattice in lattices], device=lens.device).unbind(1)
        self.first = ((rows * columns).cumsum(0) - rows * columns)[lens]
        self.columns, self.rows = columns[lens], rows[lens]
        self.per_pixel = torch.stack(  # nodes per pixel along u and v
            (
                (self.columns - 1) / (cameras.width[:, 0] - 1).clamp(min=1),
                (self.rows - 1) / (cameras.height[:, 0] - 1).clamp(min=1),
            ),
            -1,
        )

    def local(self, camera: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Per position of a camera's picture, (n,) each: its direction in the camera's axes and its area, (n, 4)."""
        lens = camera if self.n_lenses > 1 else 0
        per_pixel, columns, rows = self.per_pixel[lens], self.columns[lens], self.rows[lens]
        x, y = (u - 0.5) * per_pixel[..., 0], (v - 0.5) * per_pixel[..., 1]
        # Half a pixel at the border lies beyond the outermost nodes: there the last cell is continued.
        column = x.long().clamp(min=0).minimum(columns - 2)
        row = y.long().clamp(min=0).minimum(rows - 2)
        right, down = x - column, y - row
        left, up = 1 - right, 1 - down
        corner = self.first[lens] + row * columns + column
        below = corner + columns
        corners = torch.stack((corner, corner + 1, below, below + 1), -1)
        weights = torch.stack((up * left, up * right, down * left, down * right), -1)
        return F.embedding_bag(corners, self.nodes, per_sample_weights=weights, mode="sum")

    def bundle(self, camera: Tensor, u: Tensor, v: Tensor) -> RayBundle:
        """The rays through positions (u, v) of cameras' pictures, each (n,)."""
        local, pose = self.local(camera, u, v), self.poses[camera]
        return ray_bundle(pose[:, :, 3], rotate(pose[:, :, :3], local[:, :3]), local[:, 3:], camera)


def rays_of_picture(camera: Cameras, stride: int = 1) -> RayBundle:
    """Rays through the middles of one camera's pixels, (h, w); of every so many in each direction.

    Those of a camera without one centre are nerfstudio's.
    """
    camera = camera.flatten()
    if int(camera.camera_type[0]) not in ONE_CENTRE:
        return camera.generate_rays(camera_indices=0, keep_shape=True)[::stride, ::stride]
    v, u = torch.meshgrid(
        *(torch.arange(0, int(n), stride, device=camera.device) + 0.5 for n in (camera.height[0], camera.width[0])),
        indexing="ij",
    )
    index = torch.zeros(u.numel(), dtype=torch.long, device=camera.device)
    return PixelRays(camera).bundle(index, u.flatten(), v.flatten()).reshape(u.shape)


def _lattice(cameras: Cameras, camera: int) -> Tensor:
    """Directions and areas at the nodes of a camera's picture, (rows, columns, 4)."""
    width, height = int(cameras.width[camera]), int(cameras.height[camera])
    probe, (step_u, step_v) = _directions(cameras, camera, PROBES, PROBES)
    inner = probe[1:-1, 1:-1]
    # Only what turns a direction counts: its length is taken out in the end.
    pixel_u = _turn((probe[1:-1, 2:] - probe[1:-1, :-2]) / (2 * step_u), inner)
    pixel_v = _turn((probe[2:, 1:-1] - probe[:-2, 1:-1]) / (2 * step_v), inner)
    bend_u = _turn(probe[1:-1].diff(n=2, dim=1), inner) / step_u**2
    bend_v = _turn(probe[:, 1:-1].diff(n=2, dim=0), inner) / step_v**2
    # Between nodes at a distance h linear interpolation is wrong by up to h^2 / 8 times the second derivative.
    bend = float(((bend_u + bend_v) / torch.minimum(pixel_u, pixel_v)).max())
    spacing = math.sqrt(8 * TOLERANCE / max(bend, 1e-12))
    # Spacing 1 is every pixel's middle, where nothing is interpolated.
    columns, rows = (1 + math.ceil(max(n - 1, 1) / max(spacing, 1.0)) for n in (width, height))
    directions, steps = _directions(cameras, camera, columns, rows)
    by_v, by_u = torch.gradient(directions, spacing=[steps[1], steps[0]], dim=(0, 1))
    area = (torch.linalg.cross(by_u, by_v) * directions).sum(-1, keepdim=True).abs()
    return torch.cat((directions, area), -1)


def _turn(change: Tensor, direction: Tensor) -> Tensor:
    """By how much a small change turns a direction, to a common factor; what is within rounding is 0."""
    turn = torch.linalg.cross(change, direction).norm(dim=-1)
    return torch.where(turn > ROUNDING, turn, 0)


def _directions(cameras: Cameras, camera: int, columns: int, rows: int) -> tuple[Tensor, tuple[float, float]]:
    """Directions (rows, columns, 3) at nodes, and the pixels between neighbours along u and along v."""
    # A picture one pixel wide has two nodes all the same, a pixel apart.
    extents = [max(int(n[camera]) - 1, 1) for n in (cameras.width, cameras.height)]
    u, v = (
        torch.linspace(0.5, 0.5 + extent, n, device=cameras.device)
        for extent, n in zip(extents, (columns, rows), strict=True)
    )
    v_grid, u_grid = torch.meshgrid(v, u, indexing="ij")
    directions = local_directions(cameras, camera, u_grid.flatten(), v_grid.flatten())
    return directions.reshape(rows, columns, 3), (extents[0] / (columns - 1), extents[1] / (rows - 1))


def rotate(matrix: Tensor, vector: Tensor) -> Tensor:
    """Per row, matrix @ vector; (n, 3, 3) and (n, 3). An elementwise sum beats a batched product on the CPU."""
    return (matrix * vector[:, None, :]).sum(-1)


def ray_bundle(origins: Tensor, directions: Tensor, area: Tensor, camera: Tensor) -> RayBundle:
    """A ray bundle with unit directions; of (n, 1) areas on the surface of directions, pixels' solid angles."""
    length = directions.norm(dim=-1, keepdim=True)
    return RayBundle(
        origins=origins,
        directions=directions / length,
        pixel_area=area / length**3,
        camera_indices=camera[:, None],
        metadata={"directions_norm": length},
    )
