"""What stands in the scene, each object in its own frame, and where."""

from __future__ import annotations

import itertools
import math

import numpy as np

from demo_scene.shapes import Part, ball, box, lathe, placed, ring, rod
from demo_scene.textures import ValueNoise, checker, marble, plain, planks, sectors, speckle, stripes, wood
from demo_scene.vectors import Vector, vector

GROUND = -0.52  # height of the plate's top


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
