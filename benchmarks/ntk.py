"""Time and memory of the empirical NTK beside the plain recipe, and wide training beside its limit.

`python -m benchmarks.ntk` measures, in one run: K(x, x') of an MLP on two sets of points, by `empirical_ntk` and
by `vmap(jacrev)` with one contraction per parameter, as torch's tutorial "Neural Tangent Kernels" writes it; and how
far a network of finite width, trained to convergence, ends from regression with the infinite-width NTK.
It is a benchmark, not a test: nothing passes or fails.
"""

from __future__ import annotations

import math
import multiprocessing
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from benchmarks.speed import median_seconds, print_and_keep
from peak_nerf.core.backbones import ReluMLP
from peak_nerf.core.kernels.finite_width import FiniteNetwork
from peak_nerf.core.kernels.infinite_width import InfiniteNetwork
from peak_nerf.core.kernels.ntk import empirical_ntk
from peak_nerf.core.kernels.optimal import kernel_regression
from peak_nerf.errors import PeakError, exit_on_peak_error


@dataclass
class Settings:
    """What to measure."""

    points: int = 512
    """Points in each of the two sets."""
    hidden_dim: int = 256
    """Width of the MLP."""
    n_hidden: int = 4
    """Its hidden layers."""
    repeats: int = 7
    """Timed calls of each, after one that does not count; the median is reported."""
    wide: int = 4096
    """Width of the network that is trained; 0 leaves it out."""
    wide_steps: int = 3000
    """Steps of gradient descent with momentum."""
    seed: int = 0
    """Of weights and points."""
    out: Path | None = None
    """Also write the figures to this JSON file."""


def recipe(module: nn.Module, x1: Tensor, x2: Tensor) -> Tensor:
    """The plain way: all Jacobians by vmap(jacrev), then one product per parameter; (n, m, c, c)."""
    parameters = {name: p.detach() for name, p in module.named_parameters()}

    def f(p: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(module, p, (x[None],))[0]

    left, right = (vmap(jacrev(f), (None, 0))(parameters, x) for x in (x1, x2))
    products = [torch.einsum("nap,mbp->nmab", left[k].flatten(2), right[k].flatten(2)) for k in parameters]
    return torch.stack(products).sum(dim=0)


def ours(module: nn.Module, x1: Tensor, x2: Tensor) -> Tensor:
    """The same by `empirical_ntk`."""
    return empirical_ntk(module, x1, x2, outputs="full")


METHODS: dict[str, Callable[[nn.Module, Tensor, Tensor], Tensor]] = {"ours": ours, "recipe": recipe}


def setting(settings: Settings) -> tuple[nn.Module, Tensor, Tensor]:
    """The MLP and both sets of points."""
    torch.manual_seed(settings.seed)
    module = ReluMLP(2, 1, settings.hidden_dim, settings.n_hidden)
    return module, torch.rand(settings.points, 2) * 2 - 1, torch.rand(settings.points, 2) * 2 - 1


def peak_bytes(work: Callable[[], Any]) -> int:
    """How far the process's resident memory rises above where it stood, during `work`. Linux only."""
    Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark back
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(key)).split()[1])


def _memory_of(name: str, settings: Settings, threads: int, result: Any) -> None:
    """In a process of its own, whose allocator has kept nothing; a small call first, so that code is loaded."""
    torch.set_num_threads(threads)
    module, x1, x2 = setting(settings)
    METHODS[name](module, x1[:2], x2[:2])
    result.put(peak_bytes(lambda: METHODS[name](module, x1, x2)))


def ntk_figures(settings: Settings) -> dict[str, float]:
    """Seconds and peak bytes of both, and their relative difference in float64."""
    module, x1, x2 = setting(settings)
    figures: dict[str, float] = {"n_parameters": sum(p.numel() for p in module.parameters())}
    context = multiprocessing.get_context("spawn")
    for name, method in METHODS.items():
        figures[f"{name}_s"] = median_seconds(partial(method, module, x1, x2), settings.repeats)
        result = context.SimpleQueue()
        child = context.Process(target=_memory_of, args=(name, settings, torch.get_num_threads(), result))
        child.start()
        child.join()
        if child.exitcode != 0:
            raise PeakError(f"measuring the memory of {name} ended with exit code {child.exitcode}; is there enough?")
        figures[f"{name}_mib"] = result.get() / 2**20
    figures["time_ratio"] = figures["recipe_s"] / figures["ours_s"]
    figures["memory_ratio"] = figures["recipe_mib"] / figures["ours_mib"]
    few = [x[:64].double() for x in (x1, x2)]
    module = module.double()
    expected = recipe(module, *few)
    figures["relative_difference"] = float((ours(module, *few) - expected).norm() / expected.norm())
    return figures


def wide_figures(settings: Settings) -> dict[str, float]:
    """A two-layer ReLU network of that width on 32 points of the circle, beside regression with its limit's NTK.

    The network's function at the start is subtracted, as eq. (3) leaves it out too. RMS over 256 points between.
    """
    torch.manual_seed(settings.seed)
    limit = InfiniteNetwork("relu", 1, 2.0, 0.1)
    angle = torch.arange(32, dtype=torch.float64) * (2 * math.pi / 32)
    query = (torch.arange(256, dtype=torch.float64) + 0.5) * (2 * math.pi / 256)
    x, x_query = (torch.stack([a.cos(), a.sin()], dim=1) for a in (angle, query))
    y = ((2 * angle).sin() + 0.5 * (3 * angle).cos())[:, None]
    k = limit.matrix(torch.cat([x, x_query]))
    regression = kernel_regression(k[:32, :32], y)
    expected = regression.predict(k[32:, :32])
    net = FiniteNetwork(limit, settings.wide, 2).double()
    with torch.no_grad():
        start, start_query = net(x), net(x_query)
    rate = float(1 / torch.linalg.eigvalsh(k[:32, :32])[-1])
    optimizer = torch.optim.SGD(net.parameters(), lr=rate, momentum=0.95, nesterov=True)
    for _ in range(settings.wide_steps):
        optimizer.zero_grad()
        loss = 0.5 * (net(x) - start - y).square().sum()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        found = net(x_query) - start_query
        residual = net(x) - start - y
    return {
        "wide_rms": float((found - expected).square().mean().sqrt()),
        "wide_train_rms": float(residual.square().mean().sqrt()),
        "target_rms": float(y.square().mean().sqrt()),
        "regression_rank": regression.rank,
    }


def main(settings: Settings) -> None:
    """Measure and print."""
    if not Path("/proc/self/clear_refs").exists():
        raise PeakError("memory: it is read from /proc, which this system lacks; measure on Linux")
    figures: dict[str, Any] = {"threads": torch.get_num_threads(), "torch": torch.__version__, "seed": settings.seed}
    figures.update(ntk_figures(settings))
    if settings.wide > 0:
        figures.update(wide_figures(settings))
    print_and_keep(figures, settings.out)


if __name__ == "__main__":
    import tyro

    with exit_on_peak_error():
        main(tyro.cli(Settings, prog="python -m benchmarks.ntk", description=__doc__))
    sys.exit(0)
