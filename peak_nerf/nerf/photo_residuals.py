r"""What training photos show and the field does not, carried over into renderings of other views.

A field that was trained for minutes is smooth where photos have detail. The residual of a photo, photo minus rendering,
has that detail. A rendered pixel whose depth is known is found again in the photos nearest to it, and gets the mean of
their residuals there, as far as they see the same surface.

Symbols:
    c(x)        colour that the field renders at a pixel of the view asked for
    x           the point that the pixel shows, by the field's depth
    P_i, R_i    photo i and the field's rendering of it; they have x at a distance t_i by the field's depth
    theta_i     angle at x between the view asked for and photo i
    v_i         exp(-((|x - o_i| - t_i) / (`SAME` |x - o_i|))^2), o_i the photo's camera
    w_i         v_i / (theta_i + `BLUNT`)
    r_i         min(1, (1 - W_(n+1) / W_i) / `SOFT`), W_i the sum of w_i over the view, W_(n+1) that of the first photo
                that has no part in it: 0 as a photo joins the nearest or leaves them, or a flight would show it

Rendered is c(x) + `TRUST` max_i r_i v_i sum_i r_i w_i (P_i - R_i)(x) / sum_i r_i w_i.

In unbounded space, a view's pixels that none of the photos vouches for are filled in from beside them (`nerf.unseen`).
Photo i vouches for x by max(v_i, exp(-(phi_i / `PARALLAX`)^2)) inside its frame, phi_i the angle, seen from o_i,
between x and the point of the same ray of the view asked for that would be as far as t_i: a wrong depth that hardly
moves anything in a photo that is near, as in mirrors, does no harm.

Source: the weights are after Buehler et al., Unstructured Lumigraph Rendering, SIGGRAPH 2001; the residual of a field's
rendering in place of the picture is ours, and nothing in it is learned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.cameras.rays import RayBundle
from torch import Tensor, nn

from peak_nerf.nerf.cameras import project
from peak_nerf.nerf.unseen import confidence, fill, grid_step

SAME = 0.05
"""Relative difference of two distances up to which they are of one surface."""
BLUNT = 0.02
"""Radians by which nearer photos are no better."""
SOFT = 0.2
"""A photo of so much more worth than the first that is left out counts fully."""
TRUST = 0.9
"""Of the residuals' mean in the result."""
PARALLAX = 0.02
"""Radians by which something may be displaced in a photo that vouches for it."""
VOUCHED = 0.95
"""Of a pixel for which a photo vouches so far no other is asked."""
MOST_PIXELS = 6_000_000
"""That are rendered of all training views together; beyond, every second pixel or third in each direction."""
COARSEST = 3
"""Every so many pixels at most, since residuals must not hold what the field knows; beyond, fewer views."""
PROBES = 1024
"""Pixels of a view by which the photos are chosen that show the same."""
FAINT = 1e-3
"""Fraction of a residual below which it is left out."""


class TrainingRenderings(nn.Module):
    """The field's renderings of training views, as a checkpoint keeps them: every `stride` pixels, of some views.

    Args:
        n_pixels: of all of them together.
        n_views: of them.
    """

    def __init__(self, n_pixels: int, n_views: int) -> None:
        super().__init__()
        for name, value in (
            ("stride", torch.ones((), dtype=torch.long)),
            ("view", torch.zeros(n_views, dtype=torch.long)),
            ("colour", torch.zeros(n_pixels, 3, dtype=torch.uint8)),
            ("nearness", torch.zeros(n_pixels, dtype=torch.float16)),
        ):
            self.register_buffer(name, value)

    stride: Tensor
    view: Tensor
    """(v,) which training views they are of."""
    colour: Tensor
    """(n, 3) uint8, row by row and view by view."""
    nearness: Tensor
    """(n,) float16, 1 / (1 + distance)."""


@dataclass(frozen=True)
class TrainingPhoto:
    """A training picture as it was taken, before the scene's background where it has alpha."""

    colour: Float[Tensor, "h w 3"]
    """In [0, 1]."""
    known: Tensor | None
    """(h, w) bool, what masks leave; None for all of it."""


def chosen_renderings(cameras: Cameras) -> tuple[int, list[int]]:
    """The stride, and which training views, for `MOST_PIXELS`; no view of cameras that are not perspective."""
    if not bool((cameras.camera_type == CameraType.PERSPECTIVE.value).all()):
        return 1, []
    sizes = [(int(h), int(w)) for h, w in zip(cameras.height, cameras.width, strict=True)]

    def total(stride: int, views: Sequence[int]) -> int:
        return sum(_coarse(sizes[i], stride)[0] * _coarse(sizes[i], stride)[1] for i in views)

    every = range(len(sizes))
    stride = next((s for s in range(1, COARSEST) if total(s, every) <= MOST_PIXELS), COARSEST)
    n = len(sizes)
    while n > 1 and total(stride, _evenly(n, len(sizes))) > MOST_PIXELS:
        n = max(1, min(n - 1, int(n * MOST_PIXELS / total(stride, _evenly(n, len(sizes))))))
    return stride, _evenly(n, len(sizes))


def _evenly(n: int, of: int) -> list[int]:
    return [round(i * (of - 1) / max(n - 1, 1)) for i in range(n)]


def _coarse(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """Rows and columns of every `stride`th pixel."""
    return -(-size[0] // stride), -(-size[1] // stride)


def render_training_views(
    cameras: Cameras,
    render: Callable[[int, int], tuple[Tensor, Tensor]],
    on_progress: Callable[[int, int], None] | None = None,
) -> TrainingRenderings | None:
    """Render the training views that `chosen_renderings` says; None for none.

    Args:
        cameras: of training, as they were refined.
        render: of a view and a stride, colour (h, w, 3) and distance (h, w).
        on_progress: how many views are done, of how many.
    """
    stride, views = chosen_renderings(cameras)
    if not views:
        return None
    colours, nearness = [], []
    for n, i in enumerate(views):
        colour, distance = render(i, stride)
        colours.append((colour.clamp(0, 1) * 255).round().byte().reshape(-1, 3).cpu())
        nearness.append((1 / (1 + distance)).half().flatten().cpu())
        if on_progress is not None:
            on_progress(n + 1, len(views))
    made = TrainingRenderings(sum(map(len, colours)), len(views))
    made.stride.fill_(stride)
    made.view.copy_(torch.tensor(views))
    made.colour.copy_(torch.cat(colours))
    made.nearness.copy_(torch.cat(nearness))
    return made.to(cameras.device)


class PhotoResiduals:
    """Adds to renderings what the nearest training photos show beyond the field.

    Args:
        cameras: of all training views, as they were refined.
        photo: the training picture of a view.
        renderings: of some of the views.
        n_views: how many photos a view is given residuals of.
        fills: whether what no photo vouches for is filled in; only where all of them were rendered.

    Raises: ValueError when the renderings are of other cameras.
    """

    def __init__(
        self,
        cameras: Cameras,
        photo: Callable[[int], TrainingPhoto],
        renderings: TrainingRenderings,
        n_views: int,
        fills: bool = False,
    ) -> None:
        self.cameras, self.photo, self.renderings, self.n_views = cameras, photo, renderings, n_views
        self.stride = int(renderings.stride)
        self.views: list[int] = renderings.view.tolist()
        if (
            not self.views
            or not 1 <= self.stride <= COARSEST
            or not 0 <= min(self.views) <= max(self.views) < len(cameras)
        ):
            raise ValueError("they are of views that the scene does not have")
        self.sizes = [_coarse((int(cameras.height[i]), int(cameras.width[i])), self.stride) for i in self.views]
        if sum(h * w for h, w in self.sizes) != len(renderings.colour):
            raise ValueError("they are of pictures of other sizes")
        self.fills = fills and len(set(self.views)) == len(cameras)
        counts = torch.tensor([h * w for h, w in self.sizes])
        self.first = (counts.cumsum(0) - counts).tolist()

    def add(
        self,
        rgb: Float[Tensor, "h w 3"],
        origins: Float[Tensor, "h w 3"],
        directions: Float[Tensor, "h w 3"],
        distance: Float[Tensor, "h w 1"],
    ) -> Float[Tensor, "h w 3"]:
        """The rendering with the residuals of photos that see the same, in [0, 1]. Directions are of unit length."""
        points = (origins + directions * distance).reshape(-1, 3)
        toward = directions.reshape(-1, 3)
        best = self._worth(points, toward).topk(min(self.n_views + 1, len(self.views)))
        left_out = float(best.values[self.n_views]) if len(best.values) > self.n_views else 0.0
        total, weights, seen = (
            torch.zeros_like(points),
            torch.zeros_like(points[:, :1]),
            torch.zeros_like(points[:, :1]),
        )
        for n, value in zip(best.indices.tolist()[: self.n_views], best.values.tolist(), strict=False):
            if value <= max(FAINT, left_out):
                continue
            w, same, place = self._weight(n, points, toward)
            part = min(1.0, (1 - left_out / value) / SOFT)
            w, same = part * w, part * same
            total += w[:, None] * _sample(self._residual(n), place, self.cameras, self.views[n])
            weights += w[:, None]
            seen = torch.maximum(seen, same[:, None])
        mean = total / weights.clamp(min=1e-9)
        return (rgb + (TRUST * seen * mean).reshape(rgb.shape)).clamp(0, 1)

    def seen(
        self, origins: Float[Tensor, "h w 3"], directions: Float[Tensor, "h w 3"], distance: Float[Tensor, "h w 1"]
    ) -> Float[Tensor, "h w"]:
        """How far some photo vouches for each pixel, in [0, 1]. Directions are of unit length."""
        o, d, t = (x.reshape(-1, x.shape[-1]) for x in (origins, directions, distance))
        seen, asked = t.new_zeros(len(t)), torch.arange(len(t), device=t.device)
        for n in self._worth(o + d * t, d).argsort(descending=True).tolist():
            if not len(asked):
                break
            vouched = self._vouches(n, o[asked], d[asked], t[asked])
            seen[asked] = torch.maximum(seen[asked], vouched)
            asked = asked[vouched < VOUCHED]
        return torch.where(seen < VOUCHED, seen, 1.0).reshape(distance.shape[:2])

    def add_to(self, outputs: dict[str, Tensor], rays: RayBundle) -> None:
        """To `rgb` of a rendered view, (h, w); what it was is `rgb_field`. With `fills`, `seen` is how sure it is."""
        origins, directions = (x.float().to(outputs["rgb"].device) for x in (rays.origins, rays.directions))
        outputs["rgb_field"] = outputs["rgb"]
        outputs["rgb"] = self.add(outputs["rgb"], origins, directions, outputs["depth"])
        if self.fills:
            height, width = outputs["rgb"].shape[:2]
            step = grid_step(height, width)
            grid = (slice(step // 2, None, step), slice(step // 2, None, step))
            outputs["seen"] = confidence(
                self.seen(origins[grid], directions[grid], outputs["depth"][grid]), height, width
            )
            outputs["rgb"] = fill(outputs["rgb"], outputs["seen"])

    def _worth(self, points: Tensor, toward: Tensor) -> Tensor:
        """W of each view, (v,), by some of the points."""
        probes = slice(None, None, max(1, len(points) // PROBES))
        every = range(len(self.views))
        return torch.stack([self._weight(n, points[probes], toward[probes])[0].sum() for n in every])

    def _weight(self, n: int, points: Tensor, toward: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """w and v of the n-th view for points that are looked at along `toward`, and where it has them, (p, 2)."""
        inside, place, ray, t, own = self._found(n, points)
        same = torch.exp(-(((t - own) / (SAME * t)) ** 2)) * inside
        known = self.photo(self.views[n]).known
        if known is not None:
            same = same * (_sample(known.float()[..., None], place, self.cameras, self.views[n])[:, 0] > 0.99)
        cosine = ((ray / t[:, None]) * toward).sum(-1)
        return same / (torch.acos(cosine.clamp(-1, 1)) + BLUNT), same, place

    def _vouches(self, n: int, origins: Tensor, directions: Tensor, distance: Tensor) -> Tensor:
        """How far the n-th view vouches for the points of rays at these distances (p, 1), in [0, 1].

        What masks leave out counts as seen: there the field is all there is.
        """
        inside, _, ray, t, own = self._found(n, origins + directions * distance)
        other = ray + directions * distance * (own / t - 1)[:, None]
        shift = 2 * torch.asin((F.normalize(other, dim=-1) - ray / t[:, None]).norm(dim=-1).clamp(max=2) / 2)
        return inside * torch.exp(-torch.minimum(((t - own) / (SAME * t)).square(), (shift / PARALLAX).square()))

    def _found(self, n: int, points: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Of points (p, 3): whether they are inside the n-th view's frame, and where, (p, 2); the way to them from its
        camera, (p, 3), its length t, and how far the view has what it shows there."""
        camera = self.views[n]
        u, v, before = project(self.cameras, camera, points)
        h, w = int(self.cameras.height[camera]), int(self.cameras.width[camera])
        inside = (before > 0) & (u >= 0.5) & (v >= 0.5) & (u <= w - 0.5) & (v <= h - 0.5)
        place = torch.stack((u, v), -1)
        ray = points - self.cameras.camera_to_worlds[camera, :, 3]
        t = ray.norm(dim=-1).clamp(min=1e-9)
        nearness = _sample(self._rendered(n, self.renderings.nearness[:, None]), place, self.cameras, camera)
        return inside, place, ray, t, 1 / nearness[:, 0].clamp(min=1e-6) - 1

    def _rendered(self, n: int, values: Tensor) -> Tensor:
        """The n-th view's part, (h, w, c), of every `stride`th pixel."""
        h, w = self.sizes[n]
        return values[self.first[n] : self.first[n] + h * w].reshape(h, w, -1)

    def _residual(self, n: int) -> Tensor:
        """P - R of the n-th view, (h, w, 3)."""
        photo = self.photo(self.views[n]).colour
        h, w = photo.shape[:2]
        rendered = self._rendered(n, self.renderings.colour).float()
        if self.stride > 1:  # its pixels are every so many of the photo's, from the first on
            v, u = (
                2 * torch.arange(n, device=rendered.device) / self.stride / max(n_coarse - 1, 1) - 1
                for n, n_coarse in ((h, rendered.shape[0]), (w, rendered.shape[1]))
            )
            rendered = _interpolated(rendered, torch.stack((u.expand(h, w), v[:, None].expand(h, w)), -1), True)
        return photo.to(rendered) - rendered / 255


def _sample(picture: Tensor, place: Tensor, cameras: Cameras, camera: int) -> Tensor:
    """Of a picture (h, w, c) of the camera, of its full size or coarser, by bilinear interpolation at positions (p, 2)
    of the full size; (p, c)."""
    size = place.new_tensor([int(cameras.width[camera]), int(cameras.height[camera])])
    return _interpolated(picture, (2 * place / size - 1)[None], False)[0]


def _interpolated(picture: Tensor, grid: Tensor, align_corners: bool) -> Tensor:
    """(h', w', c) at places (h', w', 2) of a picture (h, w, c), from -1 to 1."""
    found = F.grid_sample(
        picture.permute(2, 0, 1)[None].float(),
        grid[None].float(),
        mode="bilinear",
        padding_mode="border",
        align_corners=align_corners,
    )
    return found[0].permute(1, 2, 0)
