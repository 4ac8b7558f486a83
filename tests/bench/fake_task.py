"""A task that computes nothing: its PSNR is known, and it fails, sleeps, waits or dies when its method says so."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from peak_nerf.errors import PeakError
from peak_nerf.system.files import write_atomically

TARGET = "tests.bench.fake_task:run_fake"


@dataclass
class FakeOptions:
    """As a task's options are."""

    image: Path = Path()
    mask: str = "random"
    truth: Path | None = None
    method: Literal["peak", "siren", "fails", "raises", "dies", "sleeps", "waits", "masks", "no-metrics", "partial"] = (
        "peak"
    )
    seed: int = 0
    size: str = "256"
    budget_seconds: float | None = None
    kar_weight: float | None = None
    hidden_dim: int | None = field(default=None, metadata={"aliases": ("width",)})
    similarity: Literal["cosine", "dot"] | None = field(
        default=None, metadata={"aliases": ("activation",), "value_aliases": {"softmax": "dot"}}
    )


SCORES = {"siren": (float("-inf"),), "no-metrics": (float("nan"), 9.5)}
"""Held-out and test PSNR that a method reports, where it is not 12.5 on held-out measurements."""


@dataclass
class FakeProgress:
    """As a fit's."""

    step: int
    n_steps: int | None
    seconds: float
    psnr_validation: float
    psnr: float | None = None


def fake_psnr(method: str, seed: int, kar_weight: float | None) -> float:
    """20 for peak and 15 for others, plus the seed; 2 less without the regulariser."""
    return (20.0 if method == "peak" else 15.0) + seed - (2.0 if kar_weight == 0 else 0.0)


def run_fake(
    options: FakeOptions, out: Path, on_progress: Callable[[FakeProgress], None] | None = None
) -> dict[str, Any]:
    """The contract of `peak_nerf.bench.suite.registry.TASKS`."""
    (out / "started.txt").write_text("")
    if on_progress is not None:
        on_progress(FakeProgress(1, 2, 0.1, *SCORES.get(options.method, (12.5,))))
    if options.method == "fails":
        raise PeakError("pixels are made of cheese; use milk")
    if options.method == "raises":
        raise RuntimeError("a bug")
    if options.method == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if options.method == "masks" and signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, []):
        raise PeakError("Ctrl-C reaches the worker")
    if options.method == "sleeps":
        time.sleep(60)
    while options.method == "waits" and not options.image.exists():
        time.sleep(0.1)
    psnr = fake_psnr(options.method, options.seed, options.kar_weight)
    metrics: dict[str, Any] = {
        "task": "fake",
        "method": options.method,
        "seed": options.seed,
        "settings": {key: str(value) for key, value in asdict(options).items()},
        "psnr": psnr,
        "ssim": 0.5,
        "seconds": 0.25,
        "n_parameters": 100 * (options.hidden_dim or 1),
        "versions": {"torch": "0"},
        "history": [
            {"seconds": 1.0, "step": 1, "psnr": psnr - 5, "psnr_validation": 1.0},
            {"seconds": 2.0, "step": 2, "psnr": psnr, "psnr_validation": 2.0},
        ],
    }
    if options.method == "partial":
        metrics["partial"] = True
    Image.new("L", (8, 8), 128).save(out / "reconstruction.png")
    if options.method != "no-metrics":
        write_atomically(out / "metrics.json", lambda file: file.write(json.dumps(metrics).encode()))
    return metrics
