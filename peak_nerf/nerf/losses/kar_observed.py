r"""KAR with observed anchors: what structure from motion has measured says what the field should be nearby.

A sparse point is solid and has the colour that the cameras recorded; between a camera and a point that it saw, space is
empty. So the anchors' values y are data, as in the paper's section 3.4, P(f(x) = y_i) = A(x, x_i), and not what the
field itself says there.

Symbols:
    f, y       log density as a fraction, 0 where empty and 1 where solid, and colour, with shape (n, 4)
    M          which of these channels an anchor knows: (1, 1, 1, 1) of a point, (1, 0, 0, 0) of an empty position
    X_x        the k anchors nearest to x in the field's cube
    d, h       distance of x from its nearest anchor, and that anchor's mean distance from its own k nearest
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial import cKDTree  # type: ignore[import-untyped]
from torch import Tensor

from peak_nerf.core.kar import KernelAlignmentRegularizer
from peak_nerf.errors import PeakError
from peak_nerf.nerf.data.points import Sightings, SparsePoints
from peak_nerf.nerf.losses.kar import KarForm, KarStep
from peak_nerf.nerf.losses.kar_unobserved import LOG_EMPTY, LOG_SOLID
from peak_nerf.nerf.options import KarOptions
from peak_nerf.nerf.render.renderer import VolumeRenderer
from peak_nerf.system.accelerator import runs_ahead

MANY = 4096
"""Points in the bank at most, and empty positions in it."""
CHUNK = 1024
"""Positions at a time, where all anchors are looked at."""
REFRESH = 64
"""Evaluations after which the bank is drawn anew."""
CLEAR = 0.95
"""Of the way from a camera to a point that it saw, so much is known to be empty: the point's depth is uncertain."""


@dataclass(frozen=True)
class SightLines:
    """Sparse points and the lines along which cameras saw them, in normalised space."""

    xyz: Float[Tensor, "m 3"]
    rgb: Float[Tensor, "m 3"]
    """In [0, 1]."""
    origin: Float[Tensor, "n 3"]
    """The camera of each sighting."""
    point: Int[Tensor, " n"]
    """The point that it saw."""

    @classmethod
    def of_scene(cls, metadata: dict[str, Any], centre: Tensor, half_extent: float) -> SightLines:
        """From the data parser's metadata, positions normalised by centre and half extent of the scene box.

        Raises: PeakError when the scene has no sparse points, or does not say which camera saw them.
        """
        seen: Sightings | None = metadata.get("sightings")
        if seen is None or not len(seen.point):
            raise PeakError(
                "--pipeline.model.kar-form observed: the scene has no sparse points that two training views saw"
                " (observations.npz beside transforms.json); make it with `peak photos`, or take point"
            )
        points: SparsePoints = metadata["points"]
        place = (metadata["camera_positions"].to(centre) - centre) / half_extent
        xyz = (points.xyz.to(centre) - centre) / half_extent
        return cls(xyz, points.rgb.to(centre) / 255, place[seen.image.to(centre.device)], seen.point.to(centre.device))


class AnchorBank:
    """Anchors with their values, and the search for those nearest to a position.

    Args:
        x: (m, 3) positions in the field's cube.
        y: (m, 4) values.
        known: (m, 4) the masks M, 0 or 1.
        k: neighbours of each, at most m - 1.
        n_points: so many of them, the first, are points.
    """

    def __init__(self, x: Tensor, y: Tensor, known: Tensor, k: int, n_points: int) -> None:
        self.x, self.y, self.known, self.k, self.n_points = x, y, known, k, n_points
        self.tree: cKDTree | None = None
        if runs_ahead(x.device):
            distance, self.neighbours = _nearest_by_looking_at_all(x, x, k, but_itself=True)
            self.spacing = distance.mean(1)
            return
        self.tree = cKDTree(x.numpy())
        distance, index = self.tree.query(self.tree.data, self.k + 1)
        # An anchor is the first of its own neighbours, except where others lie in the very same place.
        others = index != np.arange(len(x))[:, None]
        others[others.all(1), -1] = False
        self.neighbours = torch.from_numpy(index[others].reshape(len(x), -1))
        self.spacing = torch.from_numpy(distance[others].reshape(len(x), -1).mean(1)).to(x)

    def nearest(self, x: Float[Tensor, "n 3"]) -> tuple[Int[Tensor, "n k"], Float[Tensor, " n"]]:
        """Indices of the k anchors nearest to each position, and how much they have to say there, exp(-d^2 / h^2)."""
        if self.tree is None:
            found, chosen = _nearest_by_looking_at_all(x.detach(), self.x, self.k)
            d = found[:, 0]
        else:
            distance, index = self.tree.query(x.detach().numpy(), np.arange(1, self.k + 1))
            d, chosen = torch.from_numpy(distance[:, 0]).to(x), torch.from_numpy(index)
        h = self.spacing[chosen[:, 0]]
        return chosen, torch.exp(-((d / h.clamp(min=1e-9)) ** 2))


def _nearest_by_looking_at_all(
    x: Float[Tensor, "n 3"], anchors: Float[Tensor, "m 3"], k: int, but_itself: bool = False
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """Distances and indices of the k nearest, on the device: for a tree its host would have to wait.

    but_itself: the positions are the anchors, of which none is to find itself.
    """
    parts = []
    for start in range(0, len(x), CHUNK):
        # Not by products of matrices: what is near would be lost in rounding.
        distance = torch.cdist(x[start : start + CHUNK], anchors, compute_mode="donot_use_mm_for_euclid_dist")
        if but_itself:
            distance.diagonal(start).fill_(torch.inf)
        parts.append(distance.topk(k, largest=False))
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


class KarObserved(KarForm):
    r"""lambda (mean_X ||M_X (y_X - A y)|| + mean_x ||r(x)||), r(x) = exp(-d^2 / h^2) sum_i A(x, x_i) M_i (f(x) - y_i).

    The first term teaches g: anchors are predicted by their own neighbours. In the second, over ray samples of the
    batch and of virtual views, A and y are fixed, and f has all of the gradient. In channels that all of X_x know,
    the sum is f - A y, since A sums to 1. The logarithm of the density has a gradient in solid fog and in the void, and
    half of an empty and a solid anchor is nearly transparent, not nearly solid.

    Source: Li et al., ICML 2025, section 3.4, the equation above (10); anchors, masks and the fading are ours.
    """

    needs_virtual_rays = True

    def __init__(
        self, kar: KernelAlignmentRegularizer, renderer: VolumeRenderer, options: KarOptions, seen: SightLines
    ) -> None:
        super().__init__(kar, renderer, options)
        self.seen = seen
        self.evaluations = 0
        self.bank = self.draw_bank()

    @torch.no_grad()
    def draw_bank(self) -> AnchorBank:
        """Random points and random empty positions, up to `MANY` of each."""
        seen, device = self.seen, self.seen.xyz.device
        points = torch.randperm(len(seen.xyz), device=device)[:MANY]
        line = torch.randint(len(seen.point), (MANY,), device=device)
        way = CLEAR * torch.rand(MANY, 1, device=device)
        empty = torch.lerp(seen.origin[line], seen.xyz[seen.point[line]], way)
        solid = torch.cat((torch.ones(len(points), 1, device=device), seen.rgb[points]), 1)
        y = torch.cat((solid, torch.zeros(MANY, 4, device=device)))
        known = torch.ones_like(y)
        known[len(points) :, 1:] = 0
        x = self.renderer.to_field(torch.cat((seen.xyz[points], empty)))
        return AnchorBank(x, y, known, self.options.kar_anchors, len(points))

    def compute(self, step: KarStep) -> Tensor | None:
        """Both terms; without virtual rays the second over half the number of queries, None without samples."""
        if self.evaluations % REFRESH == 0:
            self.bank = self.draw_bank()
        self.evaluations += 1
        x, directions = self.ray_queries(step)
        if not len(x):
            return None
        predicted = self.kar.mean_norm(self.left_out(self._random_anchors(self.n_queries)))
        return predicted + self.kar.mean_norm(self.residual(x, directions))

    def left_out(self, anchor: Int[Tensor, " n"]) -> Float[Tensor, "n 4"]:
        """M (y - A y) at anchors of the bank, each predicted by its k nearest others; differentiable in g."""
        bank = self.bank
        near = bank.neighbours[anchor]
        deviation = bank.y[anchor][:, None] - bank.y[near]
        return bank.known[anchor] * (self._weights(bank.x[anchor], near) * deviation).sum(1)

    def residual(self, x: Tensor, directions: Tensor) -> Tensor:
        """r at points seen from `directions`; differentiable in f."""
        near, say = self.bank.nearest(x)
        with torch.no_grad():
            weights = say[:, None, None] * self._weights(x, near)
        return (weights * (self._f(x, directions)[:, None] - self.bank.y[near])).sum(1)

    def _weights(self, x: Float[Tensor, "n 3"], near: Int[Tensor, "n k"]) -> Float[Tensor, "n k 4"]:
        """A(x, x_i) M_i."""
        g, g_near = self.kar.similarity_features(x), self.kar.similarity_features(self.bank.x[near])
        attention = torch.einsum("nkr,nr->nk", g_near, g).softmax(1)
        return attention[:, :, None] * self.bank.known[near]

    def _random_anchors(self, n: int) -> Int[Tensor, " n"]:
        """Half of them points, half empty positions."""
        m, device = self.bank.n_points, self.bank.x.device
        return torch.cat(
            (
                torch.randint(m, (n // 2,), device=device),
                torch.randint(m, len(self.bank.x), (n - n // 2,), device=device),
            )
        )

    def _f(self, x: Tensor, directions: Tensor) -> Float[Tensor, "n 4"]:
        """f(x); what is emptier than empty or more solid than solid counts as that, but keeps its gradient."""
        density, geometry = self.renderer.field.density(x)
        log_density = density.clamp_min(1e-30).log()[:, None]
        fraction = (log_density - LOG_EMPTY) / (LOG_SOLID - LOG_EMPTY)
        fraction = fraction + (fraction.clamp(0, 1) - fraction).detach()
        return torch.cat((fraction, self.renderer.field.colour(geometry, directions)), -1)
