"""Errors and times of the kernels that a GPU runs: the first part of what `benchmarks/gpu.py` measures.

Imports of the package stand in functions: `gpu.py` has to put stand-ins in place of missing packages first.
"""

from __future__ import annotations

import contextlib
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

SEED = 42
BOUND = 1e-4
"""Largest relative error of a kernel."""
DIFFERENT = 0.02
"""Fraction of rays whose samples may differ: roundings put a sample across a cell's wall."""


class Row(NamedTuple):
    """A line of the table."""

    what: str
    value: float
    unit: str
    beside: str = ""
    """What it is compared with."""
    good: bool = True


class Sizes(NamedTuple):
    """How much is measured."""

    points: int = 1 << 18
    few_points: int = 1 << 14
    """Where errors are looked for, in float64."""
    rays: int = 1 << 13
    table_sizes: tuple[int, ...] = (17, 19)
    levels: int = 16
    steps_per_side: int = 256
    pixels: int = 400
    """Of a Blender scene's pictures, along their longer side."""
    photo_pixels: int = 960
    """Of photos."""
    views: tuple[int, int] = (100, 25)
    """Of training and of testing."""
    seconds: tuple[float, ...] = (60.0, 120.0)
    """Trainings of a Blender scene."""
    photo_seconds: tuple[float, ...] = (60.0,)
    most_steps: int = 1 << 30
    warm_steps: int = 300
    """Before the step is timed."""
    frame: int = 800
    repeats: int = 20


QUICK = Sizes(48, 48, 24, (7,), 2, 10, 8, 8, (4, 1), (600.0,), (600.0,), 2, 1, 6, 1)


def say(text: str) -> None:
    """On stderr."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def wait(device: Any) -> None:
    """Until a GPU has done what it was told."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def milliseconds(work: Callable[[], Any], sizes: Sizes, device: Any) -> float:
    """Median time of `work`, after calls that do not count."""
    for _ in range(min(3, sizes.repeats)):
        work()
    times = []
    for _ in range(sizes.repeats):
        wait(device)
        start = time.perf_counter()
        work()
        wait(device)
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def relative(found: Any, truth: Any) -> float:
    """Largest error over the largest value."""
    return float((found.detach().double() - truth.detach()).abs().max() / truth.abs().max().clamp(min=1e-30))


def error(what: str, found: Any, truth: Any, bound: float = BOUND) -> Row:
    """A row that says how far a kernel is from float64."""
    value = relative(found, truth)
    return Row(f"error: {what}", value, "", f"bound {bound:g}", value <= bound)


@contextlib.contextmanager
def plain_torch() -> Iterator[None]:
    """Without Triton's kernels in sampling and compositing, within."""
    from peak_nerf.nerf.render import marcher, renderer, volrend

    places = (marcher, renderer, volrend)
    before = [place.triton_takes for place in places]
    sample = marcher.sample_numba
    try:
        for place in places:
            place.triton_takes = lambda device: False  # type: ignore[attr-defined]
        marcher.sample_numba = marcher.sample_torch  # the CPU of a quick run
        yield
    finally:
        marcher.sample_numba = sample
        for place, takes in zip(places, before, strict=True):
            place.triton_takes = takes  # type: ignore[attr-defined]


def grids(sizes: Sizes, log2_table_size: int, device: Any, *kinds: str) -> list[Any]:
    """One random grid by several implementations."""
    from peak_nerf.core.hash_grid import HashGridEncoding

    made: list[Any] = []
    for kind in kinds:
        grid = HashGridEncoding(
            3, sizes.levels, 2, log2_table_size, 16, 2048, init_scale=1.0, implementation=kind, device=device  # type: ignore[arg-type]
        ).to(device)  # fmt: skip
        if made and kind != "tcnn":
            grid.load_state_dict(made[0].state_dict())
        made.append(grid)
    return made


def errors_of_the_grid(sizes: Sizes, device: Any) -> list[Row]:
    """Of values and both gradients, in float32 and with the table read in float16."""
    import torch

    ours, truth = grids(sizes, sizes.table_sizes[-1], device, "triton", "torch")
    truth = truth.double()
    # Positions in so many cells without a rounding: in float64 a point would lie elsewhere in its cell, or in the next.
    x = (torch.randint(1, 1 << 13, (sizes.few_points, 3), device=device) / (1 << 13)).requires_grad_()
    slope = torch.randn(sizes.few_points, truth.out_dim, device=device)
    rows = []
    for half in (False, True):
        ours.half_precision = half
        with torch.no_grad():
            truth.table.copy_(ours.table.half() if half else ours.table)
        exact = x.detach().double().requires_grad_()
        found, expected = (
            (out, *torch.autograd.grad((out * slope.to(out)).sum(), (grid.table, at)))
            for grid, at in ((ours, x), (truth, exact))
            for out in [grid(at)]
        )
        for name, a, b in zip(("values", "table gradient", "input gradient"), found, expected, strict=True):
            rows.append(error(f"grid, {name}{', float16 table' * half}", a, b))
    return rows


def shell(device: Any) -> Any:
    """An occupancy grid with a sphere in it, as of a scene that is known."""
    import torch

    from peak_nerf.nerf.render.occupancy import OccupancyGrid

    grid = OccupancyGrid(128 if device.type == "cuda" else 32, step=2 / 256).to(device)
    axis = (torch.arange(grid.resolution, device=device) + 0.5) * (2 / grid.resolution) - 1
    radius = torch.cartesian_prod(axis, axis, axis).norm(dim=-1).view_as(grid.occupied)
    grid.occupied.copy_((radius - 0.6).abs() < 0.1)
    grid.opacity.copy_(torch.where((radius - 0.6).abs() < 0.05, 0.2, 0.01))
    grid.digest()
    return grid


def rays_at_it(n: int, device: Any) -> tuple[Any, Any]:
    """From a sphere of radius 3 towards points of the box."""
    import torch
    import torch.nn.functional as F

    origins = 3 * F.normalize(torch.randn(n, 3, device=device), dim=-1)
    return origins, F.normalize(1.4 * torch.rand(n, 3, device=device) - 0.7 - origins, dim=-1)


def errors_of_rendering(sizes: Sizes, device: Any) -> list[Row]:
    """Of the marcher against the plain one, of compositing against float64."""
    import torch

    from peak_nerf.nerf.render.marcher import March, Steps, box_intersection, sample_torch, sample_triton
    from peak_nerf.nerf.render.volrend import accumulate, packed_weights

    n, rows = min(sizes.rays, 2048), []
    origins, directions = rays_at_it(n, device)
    march = March(origins, directions, *box_intersection(origins, directions, 0.0), *torch.rand(2, n, device=device))
    grid = shell(device)
    for budget in (4, 2**31 - 1):
        steps = Steps(2 / sizes.steps_per_side, 0.0, budget)
        a, b = sample_triton(march, grid, steps), sample_torch(march, grid, steps)
        counts = [torch.bincount(s.ray, minlength=n) for s in (a, b)]
        same = counts[0] == counts[1]
        kept = [s.select(same[s.ray]) for s in (a, b)]
        far = (kept[0].t - kept[1].t).abs() > BOUND * kept[1].t
        far |= (kept[0].dt - kept[1].dt).abs() > 1e-3 * kept[1].dt
        other = torch.zeros(n, device=device).index_add(0, kept[0].ray, far.float()) > 0
        value = float((~same | other).float().mean())
        what = f"rays of other samples, {'budget 4' if budget == 4 else 'all candidates'}"
        rows.append(Row(what, value, "", f"bound {DIFFERENT:g}", value <= DIFFERENT))
    tau = (torch.rand(len(a), device=device) ** 4 * 3).requires_grad_()
    colour = torch.rand(len(a), 3, device=device).requires_grad_()
    to = torch.randn(n, 3, device=device)

    def composited(tau: Any, colour: Any) -> tuple[Any, ...]:
        weights, transmittance = packed_weights(tau, a.ray, n)
        out = accumulate(weights, colour, a.ray, n)
        total = (out * to.to(out)).sum() + transmittance.sum()
        return (weights, transmittance, out, *torch.autograd.grad(total, (tau, colour)))

    found = composited(tau, colour)
    with plain_torch():
        expected = composited(*(v.detach().double().requires_grad_() for v in (tau, colour)))
    names = ("weights", "transmittance", "colours", "gradient of depths", "gradient of colours")
    return rows + [error(f"compositing, {name}", *pair) for name, *pair in zip(names, found, expected, strict=True)]


def forward_backward(module: Callable[[Any], Any], x: Any, given: list[Any], sizes: Sizes, device: Any) -> list[float]:
    """Milliseconds of the forward and of the backward pass to `given`."""
    import torch

    out = module(x)
    slope = torch.randn_like(out)

    def backward() -> None:
        torch.autograd.grad(out, given, slope, retain_graph=True)

    return [milliseconds(lambda: module(x), sizes, device), milliseconds(backward, sizes, device)]


def times_of_the_grid(sizes: Sizes, device: Any) -> list[Row]:
    """Of ours, plain torch's and tiny-cuda-nn's where it is there, beside the speed of a copy."""
    import torch

    numbers = torch.rand(sizes.points * 256, device=device)
    copy = milliseconds(numbers.clone, sizes, device)
    bandwidth = 2 * 4 * numbers.numel() / copy * 1e-6
    rows = [Row("copy", bandwidth, "GB/s")]
    x = torch.rand(sizes.points, 3, device=device)
    kinds = ["triton", "torch"] + ["tcnn"] * (importlib.util.find_spec("tinycudann") is not None)
    for log2 in sizes.table_sizes:
        made = grids(sizes, log2, device, *kinds)
        times = {
            kind: forward_backward(grid, x, [*grid.parameters()], sizes, device)
            for kind, grid in zip(kinds, made, strict=True)
        }
        made[0].half_precision = True
        times["float16"] = forward_backward(made[0], x, [made[0].table], sizes, device)
        # Eight corners, and the features themselves.
        moved = 4 * 2 * sizes.levels * sizes.points * 9
        for k, name in enumerate(("forward", "backward")):
            beside = ", ".join(f"{kind} {t[k]:.3g}" for kind, t in times.items() if kind != "triton")
            beside += f"; {100 * moved / times['triton'][k] * 1e-6 / bandwidth:.0f} % of a copy's bandwidth"
            rows.append(Row(f"grid, 2^{log2} rows, {name}", times["triton"][k], "ms", beside))
        faster = sum(times["torch"]) / sum(times["triton"])
        rows.append(Row(f"grid, 2^{log2} rows, both, against plain torch", faster, "times", "bar 8"))
    return rows


def times_of_rendering(sizes: Sizes, device: Any) -> list[Row]:
    """Of sampling and compositing, beside plain torch's."""
    import torch

    from peak_nerf.nerf.render.marcher import Steps, sample_rays
    from peak_nerf.nerf.render.volrend import accumulate, packed_weights

    grid = shell(device)
    origins, directions = rays_at_it(sizes.rays, device)
    jitter = torch.rand(sizes.rays, device=device)
    every, rows = Steps(2 / sizes.steps_per_side, 0.0, 2**31 - 1, 0.0), []

    def both(what: str, work: Callable[[], Any]) -> None:
        ours = milliseconds(work, sizes, device)
        with plain_torch():
            rows.append(Row(what, ours, "ms", f"torch {milliseconds(work, sizes, device):.3g}"))

    for name, steps in (("all candidates", every), ("budget 32", replace(every, budget=32, opaque=1e-3))):
        both(
            f"marcher, {sizes.rays} rays, {name}",
            lambda steps=steps: sample_rays(origins, directions, grid, steps, 0.0, jitter),  # type: ignore[misc]
        )
    ray = (torch.arange(sizes.points, device=device) * sizes.rays) // sizes.points
    tau = torch.rand(sizes.points, device=device).requires_grad_()
    colour = torch.rand(sizes.points, 3, device=device).requires_grad_()

    def composited() -> Any:
        return accumulate(packed_weights(tau, ray, sizes.rays)[0], colour, ray, sizes.rays)

    both(f"compositing, {sizes.points} samples, forward", composited)
    both("compositing, forward + backward", lambda: torch.autograd.grad(composited().sum(), (tau, colour)))
    return rows


def times_of_networks(sizes: Sizes, device: Any) -> list[Row]:
    """Of both networks of `peak`, forward and backward: float32, bfloat16, and that compiled."""
    import torch

    from peak_nerf.core.backbones import ReluMLP

    density, colour = (ReluMLP(*size, bias=False).to(device) for size in ((39, 16, 64, 1), (31, 3, 64, 2)))
    x = torch.randn(sizes.points, 39, device=device).requires_grad_()
    rest = torch.randn(sizes.points, 16, device=device)
    given = [x, *density.parameters(), *colour.parameters()]

    def networks(x: Any) -> Any:
        return colour(torch.cat((density(x)[:, 1:], rest), -1)).float()

    def half(x: Any) -> Any:
        with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
            return networks(x)

    times = {
        "float32": sum(forward_backward(networks, x, given, sizes, device)),
        "bfloat16": sum(forward_backward(half, x, given, sizes, device)),
    }
    if device.type == "cuda":
        try:
            times["bfloat16, compiled"] = sum(
                forward_backward(torch.compile(half, dynamic=True), x, given, sizes, device)
            )
        except Exception as reason:  # a benchmark goes on without torch's compiler, and says so
            say(f"torch.compile fails: {type(reason).__name__}: {str(reason).splitlines()[0]}")
    return [Row(f"networks, {sizes.points} rows, {name}", t, "ms") for name, t in times.items()]


PARTS = (errors_of_the_grid, errors_of_rendering, times_of_the_grid, times_of_rendering, times_of_networks)
"""In the order in which they are measured."""
