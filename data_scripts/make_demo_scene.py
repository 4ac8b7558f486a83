"""Render our own little Blender-format scene: a toy village on a checkered plate, ray-traced on the CPU.

    python data_scripts/make_demo_scene.py --out data/demo

Geometry, textures and light are all written below; nothing is downloaded. The same settings give the same bytes.
World: x right, y back, z up; everything lies inside [-1.2, 1.2]^3. Cameras follow OpenGL and Blender: they look
along their own -z, and +y is up in the picture.

Notation, as in the shading code: o, d: ray origin, direction; p: hit point; n: unit normal; t: texture coordinates
(the object's own, before it is placed); b: barycentric coordinates of a hit.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import math
import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tyro

from peak_nerf.errors import PeakError, exit_on_peak_error

Array = npt.NDArray[np.float64]
Vector = Sequence[float] | npt.NDArray[Any]
Texture = Callable[[Array], Array]  # texture coordinates (n, 3) -> linear-light colour (n, 3)

CAMERA_ANGLE_X = 0.6911112070083618
CAMERA_RADIUS = 4.0
# Turns per view around the vertical axis. Found by search: unlike the golden angle's, every evenly spaced subset
# (of 50, 25, 12, 8 views) is spread nearly as well as the whole.
AZIMUTH_STEP = 0.317
GROUND = -0.52  # height of the plate's top

KEY_LIGHT = np.array([2.6, -2.2, 4.2])
KEY_LIGHT_RADIUS = 0.3
KEY_COLOUR = np.array([1.0, 0.93, 0.82]) * 0.95
FILL_DIRECTION = np.array([-0.75, -0.35, 0.56])
FILL_COLOUR = np.array([0.70, 0.82, 1.0]) * 0.17
SKY_COLOUR = np.array([0.82, 0.91, 1.0]) * 0.46
EARTH_COLOUR = np.array([1.0, 0.88, 0.74]) * 0.26
AMBIENT_RAYS = 64


@dataclass(frozen=True)
class Settings:
    """Render a small, self-made Blender-format scene (transforms_*.json and RGBA pictures)."""

    out: Path
    """Folder to write. Rendering goes to a sibling `<out>.partial`, renamed when complete."""
    size: int = 200
    """Width and height of a picture, in pixels."""
    train_views: int = 100
    """Training views, spread over the upper hemisphere; evenly spaced subsets are well spread too."""
    val_views: int = 5
    """Validation views, on the hemisphere between the training views."""
    test_views: int = 20
    """Test views, on an orbit of changing height."""
    seed: int = 0
    """Changes the textures' noise, the pebbles and the angle of the windmill's sails."""
    supersample: int = 3
    """Rays per pixel and axis: 3 means 9 rays a pixel."""
    workers: int = field(default_factory=lambda: min(os.cpu_count() or 1, 8))
    """Processes to render with. The pictures do not depend on it."""
    force: bool = False
    """Render again, replacing a scene that is already there."""

    def check(self) -> None:
        """Raise `PeakError` on a number out of range."""
        for name, low in (("size", 4), ("train_views", 1), ("val_views", 1), ("test_views", 1), ("supersample", 1)):
            if getattr(self, name) < low:
                raise PeakError(f"--{name.replace('_', '-')} is {getattr(self, name)}: give at least {low}.")
        if self.seed < 0 or self.workers < 1:
            raise PeakError("--seed must be 0 or more and --workers 1 or more.")

    def stamp(self) -> dict[str, Any]:
        """All that decides the bytes of the pictures."""
        settings = {k: v for k, v in asdict(self).items() if k not in ("out", "workers", "force")}
        return {"settings": settings, "code": hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]}


# ------------------------------------------------------------------------------------------------------ textures


def colour(hex_code: str) -> Array:
    """Linear-light colour of an sRGB hex code such as "d9480f"."""
    srgb = np.array([int(hex_code[i : i + 2], 16) for i in (0, 2, 4)]) / 255
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def mix(a: Array, b: Array, weight: Array) -> Array:
    """Colours between a (weight 0) and b (weight 1); weight has shape (n,)."""
    return a + (b - a) * weight[:, None]


def plain(hex_code: str) -> Texture:
    """One colour."""
    a = colour(hex_code)
    return lambda t: np.broadcast_to(a, t.shape)


def checker(hex_a: str, hex_b: str, cell: float) -> Texture:
    """Checkers in x, y and z; half a cell off the origin so that faces at 0 do not flicker."""
    a, b = colour(hex_a), colour(hex_b)
    return lambda t: mix(a, b, (np.floor(t / cell + 0.5).sum(1) % 2).astype(float))


def stripes(hex_a: str, hex_b: str, period: float, axis: Vector) -> Texture:
    """Stripes of equal width across `axis`."""
    a, b, direction = colour(hex_a), colour(hex_b), np.asarray(axis, float)
    return lambda t: mix(a, b, ((t @ direction / period) % 1 < 0.5).astype(float))


def sectors(hex_a: str, hex_b: str, count: int) -> Texture:
    """Slices of a cake around the z axis, such as a beach ball's."""
    a, b = colour(hex_a), colour(hex_b)
    return lambda t: mix(a, b, np.floor((np.arctan2(t[:, 1], t[:, 0]) / (2 * np.pi) % 1) * count) % 2)


class ValueNoise:
    """Smooth noise in [0, 1]: random values on a periodic 32^3 lattice, blended by smoothstep, three octaves."""

    def __init__(self, seed: int) -> None:
        self.lattice = np.random.default_rng(seed).random((32, 32, 32)).ravel()

    def octave(self, t: Array) -> Array:
        cell = np.floor(t)
        w = t - cell
        w = w * w * (3 - 2 * w)
        low = cell.astype(np.int64) & 31
        high = (low + 1) & 31
        value = np.zeros(len(t))
        for corner in range(8):
            use_high = [(corner >> axis) & 1 for axis in range(3)]
            i, j, k = ((high if use else low)[:, axis] for axis, use in enumerate(use_high))
            weights = [w[:, axis] if use else 1 - w[:, axis] for axis, use in enumerate(use_high)]
            value += weights[0] * weights[1] * weights[2] * self.lattice[(i * 32 + j) * 32 + k]
        return value

    def __call__(self, t: Array) -> Array:
        return (self.octave(t) + 0.5 * self.octave(2 * t + 11.3) + 0.25 * self.octave(4 * t + 5.7)) / 1.75


def speckle(noise: ValueNoise, hex_a: str, hex_b: str, frequency: float) -> Texture:
    """Clouds of two colours."""
    a, b = colour(hex_a), colour(hex_b)
    return lambda t: mix(a, b, np.clip(2.4 * noise(t * frequency) - 0.7, 0, 1))


def marble(noise: ValueNoise, hex_a: str, hex_b: str, frequency: float) -> Texture:
    """Veins: a sine wave bent by noise."""
    a, b = colour(hex_a), colour(hex_b)
    return lambda t: mix(a, b, (0.5 + 0.5 * np.sin(frequency * (t.sum(1) + 0.6 * noise(t * 6)))) ** 3)


def wood(noise: ValueNoise, hex_a: str, hex_b: str, axis: int, ring: float = 0.045) -> Texture:
    """Year rings around a trunk along `axis` whose heart lies a little off the object, wobbled by noise."""
    a, b = colour(hex_a), colour(hex_b)
    u, v = [k for k in range(3) if k != axis]

    def evaluate(t: Array) -> Array:
        stretched = t * 5
        stretched[:, axis] *= 0.25
        radius = np.hypot(t[:, u] + 0.13, t[:, v] + 0.21) + 0.06 * noise(stretched)
        return mix(a, b, (radius / ring % 1) ** 2)

    return evaluate


def planks(base: Texture, height: float, seam: float = 0.1) -> Texture:
    """`base`, with a dark seam between horizontal boards."""
    return lambda t: base(t) * np.where(t[:, 2] / height % 1 < seam, 0.35, 1.0)[:, None]


# ------------------------------------------------------------------------------------------------------ geometry


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


def vector(x: float, y: float, z: float) -> Array:
    """A point or direction that can be added to another."""
    return np.array([x, y, z], dtype=float)


def frame_along(direction: Array) -> Array:
    """Rotations (..., 3, 3) whose third column is the direction (..., 3)."""
    w = unit(direction)
    u = unit(np.cross(np.where(np.abs(w[..., 1:2]) < 0.9, [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]), w))
    return np.stack([u, np.cross(w, u), w], axis=-1)


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


def plate(noise: ValueNoise) -> list[Part]:
    """The checkered table top with its wooden rim; its top is at height 0."""
    floor = checker("f3e3c3", "3f8f8b", 0.23)
    grain = speckle(noise, "ffffff", "dcdcdc", 9)
    return [
        Part(lathe([(1.1, -0.09), (1.1, 0.0)], 128, 0.03), lambda t: floor(t * [1, 1, 0]) * grain(t), 0.08),
        Part(ring((0, 0, -0.035), (0, 0, 1), 1.115, 0.062, 128), wood(noise, "9c5a2d", "5b2f14", 2), 0.25),
    ]


def windmill(noise: ValueNoise, sail_degrees: float) -> list[Part]:
    """A boarded tower with a gallery, a red cap and four lattice sails; it faces -y."""
    boards = planks(wood(noise, "ecc995", "c9945a", 2), 0.075)
    dark, white = wood(noise, "7a4a26", "4c2a12", 2), plain("f7f2e6")
    parts = [
        Part(lathe([(0.33, 0.0), (0.2, 0.92)], 8), boards, 0.08),
        Part(lathe([(0.25, 0.92), (0.235, 0.97), (0.15, 1.1), (0.01, 1.17)], 40), sectors("b3261e", "d9534a", 20), 0.3),
        Part(box((0, -0.29, 0.13), (0.15, 0.06, 0.26)), stripes("2d5f8a", "3f7cb0", 0.05, (1, 0, 0)), 0.2),
        Part(box((0, -0.215, 0.66), (0.1, 0.05, 0.12)), checker("ffe9a8", "3b2a1a", 0.05), 0.5),
        Part(box((0.195, 0, 0.66), (0.08, 0.1, 0.12)), checker("ffe9a8", "3b2a1a", 0.05), 0.5),
        Part(box((-0.24, 0, 0.27), (0.08, 0.1, 0.12)), checker("ffe9a8", "3b2a1a", 0.05), 0.5),
        Part(box((0, 0.23, 0.66), (0.1, 0.06, 0.12)), checker("ffe9a8", "3b2a1a", 0.05), 0.5),
        Part(lathe([(0.385, 0.44), (0.385, 0.465)], 48), dark, 0.1),
        Part(ring((0, 0, 0.57), (0, 0, 1), 0.365, 0.011), dark, 0.1),
    ]
    for angle in np.arange(20) * 2 * np.pi / 20:
        x, y = 0.365 * math.cos(angle), 0.365 * math.sin(angle)
        parts.append(Part(rod((x, y, 0.45), (x, y, 0.57), 0.009), dark))
    hub = np.array([0.0, -0.34, 1.0])
    parts.append(Part(rod((0, -0.1, 1.0), hub + vector(0, -0.03, 0), 0.032, 16), dark, 0.3))
    parts.append(Part(ball(hub + vector(0, -0.03, 0), 0.045), plain("e0a526"), 0.6))
    for k in range(4):
        a = math.radians(sail_degrees + 90 * k)
        out, side = np.array([math.cos(a), 0, math.sin(a)]), np.array([-math.sin(a), 0, math.cos(a)])
        parts.append(Part(rod(hub, hub + 0.64 * out, 0.014), dark))
        for offset in (0.075, 0.15):
            parts.append(Part(rod(hub + 0.16 * out + offset * side, hub + 0.63 * out + offset * side, 0.008), white))
        for r in np.linspace(0.16, 0.63, 8):
            parts.append(Part(rod(hub + r * out, hub + r * out + 0.15 * side, 0.008), white))
    return parts


def bicycle() -> list[Part]:
    """A spoked bicycle along x, standing on height 0."""
    paint, steel, rubber = plain("d7263d"), plain("c9ced6"), plain("25262b")
    rear, front, crank = np.array([-0.26, 0, 0.19]), np.array([0.26, 0, 0.19]), np.array([-0.05, 0, 0.18])
    seat, head = np.array([-0.12, 0, 0.43]), np.array([0.17, 0, 0.43])
    parts: list[Part] = []
    for hub in (rear, front):
        parts.append(Part(ring(hub, (0, 1, 0), 0.172, 0.018), rubber, 0.15))
        parts.append(Part(ring(hub, (0, 1, 0), 0.15, 0.009), steel, 0.7))
        parts.append(Part(rod(hub - vector(0, 0.03, 0), hub + vector(0, 0.03, 0), 0.02), steel, 0.7))
        for a in np.arange(10) * 2 * np.pi / 10:
            parts.append(Part(rod(hub, hub + 0.15 * np.array([math.cos(a), 0, math.sin(a)]), 0.0055, 6), steel, 0.7))
    frame = [(crank, seat), (crank, head), (seat, head), (crank, rear), (rear, seat), (head, front)]
    parts += [Part(rod(a, b, 0.016), paint, 0.6) for a, b in frame]
    stem = np.array([0.145, 0, 0.52])
    parts += [
        Part(rod(head, stem, 0.013), steel, 0.7),
        Part(rod(stem - vector(0, 0.12, 0), stem + vector(0, 0.12, 0), 0.012), steel, 0.7),
        Part(rod(stem + vector(0, 0.07, 0), stem + vector(0, 0.14, 0), 0.019), rubber, 0.2),
        Part(rod(stem - vector(0, 0.07, 0), stem - vector(0, 0.14, 0), 0.019), rubber, 0.2),
        Part(rod(seat, seat + vector(-0.015, 0, 0.06), 0.013), steel, 0.7),
        Part(ball(seat + vector(-0.02, 0, 0.07), 0.075, (1, 0.55, 0.3)), plain("6b3d1e"), 0.3),
        Part(ring(crank, (0, 1, 0), 0.045, 0.01, 24), steel, 0.7),
        Part(rod(crank + vector(0.05, -0.06, -0.06), crank - vector(0.05, -0.06, -0.06), 0.01), steel, 0.7),
    ]
    return parts


def chair(noise: ValueNoise) -> list[Part]:
    """A slatted wooden chair with a checkered cushion, facing -y."""
    timber = wood(noise, "d99a54", "8f5526", 2)
    parts = [
        Part(box((0, 0, 0.24), (0.32, 0.32, 0.03)), timber, 0.2),
        Part(box((0, -0.01, 0.272), (0.26, 0.26, 0.035), 0.05), checker("f4d35e", "2e6fb7", 0.065), 0.05),
        Part(box((0, 0.145, 0.56), (0.34, 0.03, 0.05)), timber, 0.2),
        Part(box((0, 0.145, 0.4), (0.3, 0.02, 0.03)), timber, 0.2),
    ]
    for x in (-0.14, 0.14):
        parts.append(Part(rod((x, -0.14, 0), (x, -0.14, 0.24), 0.018), timber, 0.2))
        parts.append(Part(rod((x, 0.145, 0), (x, 0.145, 0.57), 0.018), timber, 0.2))
        parts.append(Part(rod((x, -0.14, 0.1), (x, 0.145, 0.1), 0.01), timber, 0.2))
    parts += [Part(rod((x, 0.145, 0.25), (x, 0.145, 0.55), 0.009), timber, 0.2) for x in np.linspace(-0.09, 0.09, 5)]
    return parts


def street_lamp() -> list[Part]:
    """A thin pole that bends over, with a shade and a glowing bulb; the arm points to +x."""
    iron = plain("27343f")
    parts = [
        Part(lathe([(0.09, 0.0), (0.085, 0.03), (0.04, 0.06), (0.03, 0.1)], 32), iron, 0.5),
        Part(rod((0, 0, 0.05), (0, 0, 1.14), 0.017), iron, 0.5),
        Part(ring((0, 0, 0.75), (0, 0, 1), 0.022, 0.012, 24), plain("e0a526"), 0.7),
        Part(rod((0, -0.09, 0.98), (0, 0.09, 0.98), 0.009), iron, 0.5),
    ]
    angles = np.linspace(math.pi, 0.0, 13)
    arc = np.stack([0.15 + 0.15 * np.cos(angles), np.zeros(13), 1.14 + 0.15 * np.sin(angles)], axis=1)
    parts += [Part(rod(a, b, 0.015), iron, 0.5) for a, b in itertools.pairwise(arc)]
    shade = [(0.13, 1.02), (0.12, 1.03), (0.05, 1.11), (0.02, 1.15)]
    parts.append(Part(lathe(shade, 32, start=(0.3, 0, 0)), stripes("1f7a5a", "2f9d76", 0.05, (0, 0, 1)), 0.5))
    parts.append(Part(ball((0.3, 0, 1.01), 0.06), plain("fff0b8"), 0.0, 0.9))
    return parts


def tree(noise: ValueNoise) -> list[Part]:
    """A trunk and three lumpy crowns."""
    leaves = speckle(noise, "2f6b2a", "9ccc4f", 14)
    parts = [Part(lathe([(0.06, 0.0), (0.035, 0.1), (0.03, 0.4)], 12), wood(noise, "8a5a35", "553318", 2))]
    for centre, radius in (((0, 0, 0.5), 0.2), ((0.1, 0.04, 0.68), 0.14), ((-0.06, -0.05, 0.74), 0.13)):
        crown = ball((0, 0, 0), radius)
        lumps = 0.82 + 0.4 * noise(np.asarray(crown.vertices) * 12 + centre)
        crown.vertices = crown.vertices * lumps[:, None] + np.asarray(centre)
        parts.append(Part(crown, leaves, 0.05))
    return parts


def fence(degrees: Vector, radius: float) -> list[Part]:
    """White pickets on an arc, joined by two rails."""
    white = plain("fbf8ef")
    feet = [(radius * math.cos(a), radius * math.sin(a)) for a in np.radians(degrees)]
    parts = [Part(lathe([(0.019, 0.0), (0.019, 0.23), (0.003, 0.27)], 8, start=(x, y, 0)), white) for x, y in feet]
    for a, b in itertools.pairwise(feet):
        parts += [Part(rod((*a, z), (*b, z), 0.009), white) for z in (0.08, 0.18)]
    return parts


def toys(noise: ValueNoise) -> list[Part]:
    """Two blocks, a marble on top of them, and a beach ball."""
    return [
        *placed([Part(box((0, 0, 0.1), (0.2, 0.2, 0.2), 0.07), checker("f28f3b", "fff3d6", 0.1), 0.15)], (0, 0, 0), 18),
        *placed(
            [Part(box((0, 0, 0.27), (0.14, 0.14, 0.14), 0.07), stripes("5a3fa0", "c7b6f2", 0.07, (1, 0, 1)), 0.15)],
            (0.01, 0.0, 0),
            -14,
        ),
        *placed([Part(ball((0, 0, 0), 0.075), marble(noise, "f5f3ef", "44586b", 30), 0.9)], (0.01, 0, 0.415)),
        *placed([Part(ball((0, 0, 0), 0.13), sectors("ef476f", "fdfcf7", 8), 0.5)], (-0.3, 0.02, 0.13)),
    ]


def pebbles(noise: ValueNoise, rng: np.random.Generator, count: int = 26) -> list[Part]:
    """A winding path of flat stones towards the windmill's door."""
    parts = []
    for s in np.linspace(0, 1, count):
        x, y = -0.12 - 0.1 * math.sin(5 * s), 0.0 - 0.98 * s
        centre = (x + rng.uniform(-0.05, 0.05), y + rng.uniform(-0.02, 0.02), 0.0)
        stone = ball((0, 0, 0), rng.uniform(0.022, 0.042), (1, rng.uniform(0.7, 1.0), 0.45))
        parts += placed([Part(stone, speckle(noise, "8d8a86", "d8d2c8", 20), 0.15)], centre, rng.uniform(0, 360))
    return parts


def village(seed: int) -> list[Part]:
    """The whole scene."""
    noise, rng = ValueNoise(seed), np.random.default_rng([seed, 1])
    sail_degrees = 22.0 if seed == 0 else rng.uniform(5, 85)
    return [
        *placed(plate(noise), (0, 0, GROUND)),
        *placed(windmill(noise, sail_degrees), (-0.2, 0.4, GROUND), 12),
        *placed(bicycle(), (0.52, -0.42, GROUND), -28),
        *placed(chair(noise), (-0.66, -0.42, GROUND), -38),
        *placed(street_lamp(), (0.84, 0.36, GROUND), 215),
        *placed(tree(noise), (0.42, 0.72, GROUND), 0),
        *placed(tree(noise), (-0.8, 0.22, GROUND), 130),
        *placed(toys(noise), (0.22, -0.82, GROUND), 0),
        *placed(fence(np.linspace(72, 152, 15), 1.0), (0, 0, GROUND)),
        *placed(pebbles(noise, rng), (0, 0, GROUND)),
    ]


# ------------------------------------------------------------------------------------------------------- shading


def corner_normals(mesh: Any, crease_degrees: float = 40.0) -> Array:
    """Unit normals (n_faces, 3, 3) at the corners: the mean over the vertex's faces that meet at less than a crease."""
    around = mesh.vertex_faces[mesh.faces.ravel()]  # (n_corners, n_around), -1 where there is none
    corner, column = np.nonzero(around >= 0)
    other = around[corner, column]
    normals, n_corners = np.asarray(mesh.face_normals), len(around)
    smooth = dot(normals[corner // 3], normals[other]) > math.cos(math.radians(crease_degrees))
    corner, weighted = corner[smooth], (normals * mesh.area_faces[:, None])[other[smooth]]
    total = np.stack([np.bincount(corner, weighted[:, c], n_corners) for c in range(3)], axis=1).reshape(-1, 3, 3)
    length = np.linalg.norm(total, axis=2, keepdims=True)
    return np.where(length > 1e-12, total / np.maximum(length, 1e-12), normals[:, None])


class Scene:
    """Triangles with all that shading asks for, and a ray caster (trimesh's: embree, else rtree)."""

    def __init__(self, parts: Sequence[Part]) -> None:
        import trimesh

        corners, normals = [], []
        for part in parts:
            local = corner_normals(part.mesh)
            corners.append(np.asarray(part.mesh.triangles) @ part.pose[:3, :3].T + part.pose[:3, 3])
            normals.append(local @ part.pose[:3, :3].T)
        counts = [len(c) for c in corners]
        self.triangles = np.concatenate(corners)  # (n_faces, 3 corners, 3)
        self.normals = np.concatenate(normals)  # (n_faces, 3 corners, 3)
        self.texture_points = np.concatenate([np.asarray(p.mesh.triangles) for p in parts])
        self.part_of_face = np.repeat(np.arange(len(parts)), counts)
        self.gloss = np.array([p.gloss for p in parts])
        self.glow = np.array([p.glow for p in parts])
        textures = {id(p.texture): p.texture for p in parts}  # parts that share a texture are shaded together
        self.textures = list(textures.values())
        self.texture_of_part = np.array([list(textures).index(id(p.texture)) for p in parts])
        soup = trimesh.Trimesh(
            self.triangles.reshape(-1, 3), np.arange(3 * len(self.triangles)).reshape(-1, 3), process=False
        )
        self.caster = soup.ray
        self.ambient = self._bake_ambient()

    def _bake_ambient(self) -> Array:
        """Share of unblocked sky (n_faces, 3) at each corner, cosine-weighted, by `AMBIENT_RAYS` rays each."""
        p, n = self.triangles.reshape(-1, 3), self.normals.reshape(-1, 3)
        key = np.round(np.concatenate([p, n], axis=1), 4)
        _, first, inverse = np.unique(key, axis=0, return_index=True, return_inverse=True)
        i = np.arange(AMBIENT_RAYS) + 0.5
        radius, angle = np.sqrt(i / AMBIENT_RAYS), i * math.pi * (3 - math.sqrt(5))
        local = np.stack([radius * np.cos(angle), radius * np.sin(angle), np.sqrt(1 - radius**2)], axis=1)
        share = np.empty(len(first))
        for rows in np.array_split(np.arange(len(first)), max(1, len(first) // 4096)):
            d = np.einsum("vij,kj->vki", frame_along(n[first[rows]]), local).reshape(-1, 3)
            o = np.repeat(p[first[rows]] + 4e-3 * n[first[rows]], AMBIENT_RAYS, axis=0)
            share[rows] = 1 - self.blocked(o, d).reshape(-1, AMBIENT_RAYS).mean(1)
        corners = share[inverse.reshape(-1)].reshape(-1, 3)
        # A corner buried in another solid says nothing about the visible rest of its face.
        return np.where(corners > 0, corners, corners.max(1, keepdims=True))

    def blocked(self, o: Array, d: Array) -> npt.NDArray[np.bool_]:
        """Does the ray meet anything?"""
        return np.asarray(self.caster.intersects_first(o, d) >= 0)

    def radiance(self, o: Array, d: Array, light: Array) -> tuple[Array, npt.NDArray[np.bool_]]:
        """Linear-light colours (n_rays, 3) and hit mask (n_rays,) of rays with unit d, lit from the point `light`."""
        face = np.asarray(self.caster.intersects_first(o, d))
        hit = face >= 0
        out = np.zeros_like(d)
        face, o, d = face[hit], o[hit], d[hit]
        if len(face) == 0:
            return out, hit
        # Moeller and Trumbore's intersection with the triangle already found: distance and barycentrics.
        corner = self.triangles[face]
        e1, e2, s = corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0], o - corner[:, 0]
        h, q = np.cross(d, e2), np.cross(s, e1)
        determinant = dot(e1, h)
        inverse = 1 / np.where(np.abs(determinant) < 1e-14, 1e-14, determinant)
        b1, b2 = np.clip(dot(s, h) * inverse, 0, 1), np.clip(dot(d, q) * inverse, 0, 1)
        b = np.stack([np.clip(1 - b1 - b2, 0, 1), b1, b2], axis=1)
        p = o + (dot(e2, q) * inverse)[:, None] * d

        n = unit(np.einsum("nk,nkc->nc", b, self.normals[face]))
        flat = unit(np.cross(e1, e2))
        n = np.where((dot(n, d) > 0)[:, None], -n, n)
        flat = np.where((dot(flat, d) > 0)[:, None], -flat, flat)
        part = self.part_of_face[face]
        albedo = self._albedo(self.texture_of_part[part], np.einsum("nk,nkc->nc", b, self.texture_points[face]))
        ambient = dot(b, self.ambient[face])

        to_light = unit(light - p)
        lambert = np.where(dot(flat, to_light) > 0, np.maximum(dot(n, to_light), 0), 0)
        lit = np.flatnonzero(lambert > 0)
        lambert[lit[self.blocked(p[lit] + 2e-3 * flat[lit], to_light[lit])]] = 0
        shine = np.maximum(dot(n, unit(to_light - d)), 0) ** 48 * self.gloss[part] * (lambert > 0)
        sky = 0.5 + 0.5 * n[:, 2]
        fill = np.maximum(n @ unit(FILL_DIRECTION), 0) * ambient
        light_in = KEY_COLOUR * lambert[:, None] + FILL_COLOUR * fill[:, None]
        light_in += mix(EARTH_COLOUR, SKY_COLOUR, sky) * ambient[:, None]
        out[hit] = albedo * (light_in + self.glow[part][:, None]) + KEY_COLOUR * (0.7 * shine)[:, None]
        return out, hit

    def _albedo(self, texture: npt.NDArray[np.int64], t: Array) -> Array:
        albedo = np.empty_like(t)
        order = np.argsort(texture, kind="stable")
        bounds = np.searchsorted(texture[order], np.arange(len(self.textures) + 1))
        for evaluate, start, end in zip(self.textures, bounds[:-1], bounds[1:], strict=True):
            if end > start:
                rows = order[start:end]
                albedo[rows] = evaluate(t[rows])
        return albedo


def dot(a: Array, b: Array) -> Array:
    """Row-wise inner product."""
    return np.einsum("nc,nc->n", a, b)


def unit(v: Array) -> Array:
    """Vectors of length 1 along the last axis."""
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


# ----------------------------------------------------------------------------------------------- cameras, pictures


def look_at_origin(direction: Array, radius: float = CAMERA_RADIUS) -> Array:
    """Camera-to-world (4, 4) of a camera at radius * direction that looks at the origin, z up."""
    back = unit(np.asarray(direction, float))
    right = unit(np.cross([0.0, 0.0, 1.0], back))
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = np.stack([right, np.cross(back, right), back], axis=1), radius * back
    return pose


def spiral_poses(count: int, offset: float = 0.0) -> list[Array]:
    """Views of equal solid angle on the hemisphere, from 80 degrees down to 8 degrees of elevation."""
    high, low = math.sin(math.radians(80)), math.sin(math.radians(8))
    poses = []
    for i in range(count):
        z = high - (high - low) * (i + 0.5) / count
        azimuth = 2 * math.pi * (AZIMUTH_STEP * i + offset)
        r = math.sqrt(1 - z * z)
        poses.append(look_at_origin(np.array([r * math.cos(azimuth), r * math.sin(azimuth), z])))
    return poses


def orbit_poses(count: int) -> list[Array]:
    """Views on one turn around the scene whose elevation swings between 14 and 46 degrees."""
    poses = []
    for turn in np.arange(count) / count:
        azimuth = 2 * math.pi * (turn - 0.2)
        elevation = math.radians(30 + 16 * math.sin(2 * math.pi * 3 * turn))
        r = math.cos(elevation)
        poses.append(look_at_origin(np.array([r * math.cos(azimuth), r * math.sin(azimuth), math.sin(elevation)])))
    return poses


def render(scene: Scene, pose: Array, size: int, supersample: int) -> npt.NDArray[np.uint8]:
    """RGBA picture (size, size, 4) with straight alpha.

    Averages colour * alpha of display-referred (sRGB) samples, the space in which radiance fields composite. Each
    of a pixel's samples sees its own point of the key light's disc, which makes the shadows soft.
    """
    focal = 0.5 * size / math.tan(0.5 * CAMERA_ANGLE_X)
    disc = frame_along(KEY_LIGHT)[:, :2] * KEY_LIGHT_RADIUS
    total = np.zeros((size * size, 4))
    for k in range(supersample**2):
        dx, dy = (k % supersample + 0.5) / supersample, (k // supersample + 0.5) / supersample
        row, column = np.mgrid[:size, :size]
        x, y = (column + dx - 0.5 * size) / focal, -(row + dy - 0.5 * size) / focal
        d = unit(np.stack([x, y, -np.ones_like(x)], axis=-1).reshape(-1, 3)) @ pose[:3, :3].T
        o: Array = np.broadcast_to(pose[:3, 3], d.shape)
        angle, radius = k * math.pi * (3 - math.sqrt(5)), math.sqrt((k + 0.5) / supersample**2)
        light = KEY_LIGHT + radius * (disc[:, 0] * math.cos(angle) + disc[:, 1] * math.sin(angle))
        linear, hit = scene.radiance(o, d, light)
        total[:, :3] += np.clip(linear, 0, 1) ** (1 / 2.2)
        total[:, 3] += hit
    total /= supersample**2
    alpha = total[:, 3:]
    straight = np.where(alpha > 0, total[:, :3] / np.maximum(alpha, 1e-9), 0)
    return np.round(255 * np.concatenate([straight, alpha], axis=1)).astype(np.uint8).reshape(size, size, 4)


# --------------------------------------------------------------------------------------------------- the data set


@functools.lru_cache(maxsize=1)
def scene_of(seed: int) -> Scene:
    """The scene, built once per process."""
    return Scene(village(seed))


def _render_view(job: tuple[Path, Array], settings: Settings) -> None:
    from PIL import Image

    path, pose = job
    picture = render(scene_of(settings.seed), pose, settings.size, settings.supersample)
    Image.fromarray(picture).save(path, format="PNG")


def write_scene(settings: Settings, folder: Path) -> None:
    """Render all views into the folder and write its transforms."""
    splits = {
        "train": spiral_poses(settings.train_views),
        "val": spiral_poses(settings.val_views, offset=0.11),
        "test": orbit_poses(settings.test_views),
    }
    jobs = []
    for split, poses in splits.items():
        (folder / split).mkdir(parents=True)
        frames = [{"file_path": f"./{split}/r_{i}", "transform_matrix": c2w.tolist()} for i, c2w in enumerate(poses)]
        _write_json(folder / f"transforms_{split}.json", {"camera_angle_x": CAMERA_ANGLE_X, "frames": frames})
        jobs += [(folder / split / f"r_{i}.png", c2w) for i, c2w in enumerate(poses)]
    _run_jobs(jobs, settings)
    _write_json(folder / "scene.json", settings.stamp())


def _run_jobs(jobs: list[tuple[Path, Array]], settings: Settings) -> None:
    from rich.console import Console
    from rich.progress import track

    render_view = functools.partial(_render_view, settings=settings)
    progress = functools.partial(track, description="Rendering", total=len(jobs), console=Console(stderr=True))
    # A process start and the baking cost seconds: not worth it for a small job.
    n_rays = len(jobs) * (settings.size * settings.supersample) ** 2
    with contextlib.ExitStack() as stack:
        run: Any = map
        if settings.workers > 1 and n_rays > 2_000_000:
            run = stack.enter_context(multiprocessing.get_context("spawn").Pool(settings.workers)).imap_unordered
        for _ in progress(run(render_view, jobs)):
            pass


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf8")


def _read_stamp(out: Path) -> dict[str, Any] | None:
    try:
        stamp = json.loads((out / "scene.json").read_text(encoding="utf8"))
    except (OSError, ValueError):
        return None
    return stamp if isinstance(stamp, dict) else None


def make_scene(settings: Settings) -> bool:
    """Render the scene unless it is there already; True when it was rendered.

    Raises: PeakError when the folder holds something else, or cannot be written.
    """
    settings.check()
    out, stamp = settings.out, _read_stamp(settings.out)
    if stamp == settings.stamp() and not settings.force:
        return False
    if out.exists() and stamp is None and (not out.is_dir() or any(out.iterdir())):
        raise PeakError(f"{out}: not a scene made by this script; name another folder with --out.")
    if stamp is not None and not settings.force:
        if stamp.get("settings") != settings.stamp()["settings"]:
            raise PeakError(f"{out}: holds a scene with other settings; add --force to replace it, or change --out.")
        print(f"{out}: made by another version of this script; rendering it again.", file=sys.stderr, flush=True)
    _warn_without_embree()
    partial = out.with_name(out.name + ".partial")
    try:
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir(parents=True)
        write_scene(settings, partial)
        if out.exists():
            shutil.rmtree(out)
        partial.rename(out)
    except OSError as error:
        raise PeakError(f"{error.filename or out}: cannot write the scene ({error.strerror}); change --out.") from error
    return True


def _warn_without_embree() -> None:
    import trimesh

    if not trimesh.ray.has_embree:
        print(
            "peak_nerf: WARNING: embreex is missing, so rays go through trimesh's rtree caster, some hundred times "
            "slower: `pip install embreex`, or try --size 50 --supersample 1.",
            file=sys.stderr,
            flush=True,
        )


def main(settings: Settings) -> None:
    """The command."""
    with exit_on_peak_error():
        rendered = make_scene(settings)
        n_views = settings.train_views + settings.val_views + settings.test_views
        print(f"{settings.out}: {n_views} views " + ("rendered." if rendered else "already there; nothing to do."))


if __name__ == "__main__":
    main(tyro.cli(Settings))
