"""Solids that objects are made of, as trimesh meshes cut finely enough to bake ambient light at their corners."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from demo_scene.textures import Texture
from demo_scene.vectors import Array, Vector, frame_along


@dataclass
class Part:
    """A mesh in its object's own frame (where textures are evaluated), with its look and its place in the world."""

    mesh: Any  # trimesh.Trimesh
    texture: Texture
    gloss: float = 0.1
    glow: float = 0.0
    pose: Array = field(default_factory=lambda: np.eye(4))


def placed(parts: Iterable[Part], position: Vector, yaw_degrees: float = 0.0) -> list[Part]:
    """The same parts, turned about z and then moved."""
    c, s = math.cos(math.radians(yaw_degrees)), math.sin(math.radians(yaw_degrees))
    pose = np.array([[c, -s, 0, position[0]], [s, c, 0, position[1]], [0, 0, 1, position[2]], [0, 0, 0, 1]])
    return [Part(p.mesh, p.texture, p.gloss, p.glow, pose @ p.pose) for p in parts]


def rod(start: Vector, end: Vector, radius: float, sections: int = 10) -> Any:
    """A thin closed cylinder, cut in short rings so that baked ambient light varies along it."""
    axis = np.subtract(end, start).astype(float)
    return lathe([(radius, 0.0), (radius, float(np.linalg.norm(axis)))], sections, 0.03, start, axis)


def lathe(
    profile: Sequence[tuple[float, float]],
    sections: int = 48,
    max_step: float = 0.06,
    start: Vector = (0, 0, 0),
    axis: Vector = (0, 0, 1),
) -> Any:
    """Solid of revolution of (radius, height) points about `axis`, closed at both ends, finely cut."""
    import trimesh

    points = [(0.0, profile[0][1]), *profile, (0.0, profile[-1][1])]
    line = [points[0]]
    for a, b in itertools.pairwise(points):
        pieces = max(1, math.ceil(math.dist(a, b) / max_step))
        line += [(a[0] + (b[0] - a[0]) * i / pieces, a[1] + (b[1] - a[1]) * i / pieces) for i in range(1, pieces + 1)]
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = frame_along(np.asarray(axis, float)), start
    mesh = trimesh.creation.revolve(np.array(line), sections=sections)
    mesh.apply_transform(pose)
    return mesh


def box(centre: Vector, extents: Vector, max_edge: float = 0.12) -> Any:
    """An axis-aligned box with faces cut for baking."""
    import trimesh

    block = trimesh.creation.box(extents=extents)
    vertices, faces = trimesh.remesh.subdivide_to_size(block.vertices + np.asarray(centre), block.faces, max_edge)
    return trimesh.Trimesh(vertices, faces)


def ball(centre: Vector, radius: float, squash: Vector = (1, 1, 1)) -> Any:
    """A sphere or ellipsoid."""
    import trimesh

    mesh = trimesh.creation.icosphere(3, radius=radius)
    mesh.vertices = mesh.vertices * np.asarray(squash) + np.asarray(centre)
    return mesh


def ring(centre: Vector, axis: Vector, radius: float, thickness: float, sections: int = 48) -> Any:
    """A torus."""
    import trimesh

    mesh = trimesh.creation.torus(radius, thickness, major_sections=sections, minor_sections=12)
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = frame_along(np.asarray(axis, float)), centre
    mesh.apply_transform(pose)
    return mesh
