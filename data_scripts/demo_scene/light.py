"""Shading: a soft key light, a fill light, sky and earth, and ambient light baked at the triangles' corners.

Notation: o, d: ray origin, direction; p: hit point; n: unit normal; t: texture coordinates; b: barycentric
coordinates of a hit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from demo_scene.shapes import Part
from demo_scene.textures import mix
from demo_scene.vectors import Array, dot, frame_along, unit

KEY_LIGHT = np.array([2.6, -2.2, 4.2])
KEY_LIGHT_RADIUS = 0.3
KEY_COLOUR = np.array([1.0, 0.93, 0.82]) * 0.95
FILL_DIRECTION = np.array([-0.75, -0.35, 0.56])
FILL_COLOUR = np.array([0.70, 0.82, 1.0]) * 0.17
SKY_COLOUR = np.array([0.82, 0.91, 1.0]) * 0.46
EARTH_COLOUR = np.array([1.0, 0.88, 0.74]) * 0.26
AMBIENT_RAYS = 64


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
