"""What a GPU makes of grid, marcher, compositing, networks and a training: `python benchmarks/gpu.py --data SCENE`.

Needs torch, triton, numpy, Pillow and this repository, and a Blender scene or photos with a transforms.json
(`benchmarks/scenes.py`). Ends within 7 minutes with a table; exit code 1 when an error is above its bound. Where
jaxtyping, pydantic or tyro are missing, which state nothing but shapes and ranges here, empty modules stand in for
them.
`--quick` runs all of it in tiny sizes without a GPU, in Triton's interpreter: its times mean nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import sys
import time
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import gpu_kernels
from benchmarks.gpu_kernels import QUICK, SEED, Row, Sizes, milliseconds, plain_torch, say, wait


def stand_in() -> list[str]:
    """Put empty modules in place of packages that are missing and only annotate; their names."""

    # Float[Tensor, "n 3"] is Tensor.
    shaped = type("Shaped", (), {"__class_getitem__": classmethod(lambda cls, item: item[0])})
    names: dict[str, dict[str, Any]] = {
        "jaxtyping": dict.fromkeys(("Bool", "Float", "Int"), shaped),
        "pydantic": {"Field": lambda **_: None},
        "tyro": {"conf": types.SimpleNamespace(arg=lambda **_: None)},
    }
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    for name in missing:
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(names[name])
    return missing


def main() -> int:
    """Measure and print; the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks/gpu.py", description=__doc__)
    parser.add_argument(
        "--data", type=Path, required=True, help="a Blender scene, such as nerf_synthetic/lego, or photos"
    )
    parser.add_argument("--out", type=Path, help="a folder for gpu.json and a test view")
    parser.add_argument("--quick", action="store_true", help="tiny sizes on the CPU, in Triton's interpreter")
    given = parser.parse_args()
    missing = stand_in()
    if given.quick:
        os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported
    import torch

    from peak_nerf.errors import PeakError, exit_on_peak_error
    from peak_nerf.system import accelerator

    with exit_on_peak_error():
        device = torch.device("cpu" if given.quick else "cuda")
        if not given.quick and not torch.cuda.is_available():
            raise PeakError("benchmarks/gpu.py: torch sees no GPU here; --quick runs everything in tiny sizes without")
        if (reason := accelerator.hindrance(device)) is not None:
            raise PeakError(f"benchmarks/gpu.py: {reason}")
        torch.manual_seed(SEED)
        rows = measure(given.data, given.out, QUICK if given.quick else Sizes(), device)
    import triton

    name = "CPU, Triton's interpreter: times mean nothing" if given.quick else torch.cuda.get_device_name(device)
    about = {
        "device": name,
        "torch": torch.__version__,
        "triton": triton.__version__,
        "seed": SEED,
        "data": str(given.data),
    }
    about |= {"stand-ins": ", ".join(missing) or "none"}
    if given.out is not None:
        content = {**about, "rows": [row._asdict() for row in rows]}
        (given.out / "gpu.json").write_text(json.dumps(content, indent=1))
    print("\n" + "\n".join(f"{key}: {value}" for key, value in about.items()))
    widest = max(len(row.what) for row in rows)
    for row in rows:
        verdict = "" if row.good else "  ABOVE ITS BOUND"
        print(f"{row.what:{widest}}  {row.value:>11.4g} {row.unit:7} {row.beside}{verdict}".rstrip())
    return 0 if all(row.good for row in rows) else 1


def measure(data: Path, out: Path | None, sizes: Sizes, device: Any) -> list[Row]:
    """All rows; what is measured now is said on stderr."""
    from benchmarks.scenes import read_pictures

    pictures, views = (
        read_pictures(data, split, sizes.pixels, sizes.photo_pixels, most, device)
        for split, most in zip(("train", "test"), sizes.views, strict=True)
    )
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    rows = []
    for part in gpu_kernels.PARTS:
        say(part.__name__.replace("_", " "))
        rows += part(sizes, device)
    return rows + trainings(pictures, views, out, sizes, device)


def trainings(pictures: Any, views: Any, out: Path | None, sizes: Sizes, device: Any) -> list[Row]:
    """The scene for each of the times; steps, a frame, KAR's share."""
    import numpy as np
    import torch
    from PIL import Image

    from benchmarks.train_field import Training
    from peak_nerf.nerf.options import ModelOptions

    options, rows = ModelOptions(kar_queries=256), []
    options.log2_table_size = sizes.table_sizes[-1]
    if device.type == "cpu":
        options = replace(
            options, n_levels=sizes.levels, base_resolution=4, finest_resolution=16, hidden_dim=16, kar_n_features=8,
            kar_queries=8, kar_anchors=2, steps_per_side=sizes.steps_per_side,
            occupancy_resolution=32 if pictures.unbounded else 8, occupancy_probes=32, target_samples=256,
            network_precision="float32", samples_per_ray=4, render_samples=4, cascades=2,
        )  # fmt: skip
    for seconds in sizes.photo_seconds if pictures.unbounded else sizes.seconds:
        say(f"training for {seconds:.0f} s")
        torch.manual_seed(SEED)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        training = Training(pictures, options)
        took = training.run(seconds, sizes.most_steps, lambda: wait(device))
        name = f"training, {seconds:.0f} s"
        h, w = views.rgba.shape[1:3]
        beside = f"{len(views.rgba)} test views of {w} x {h}; {training.steps} steps, {len(pictures.rgba)} views"
        rows.append(Row(f"{name}: PSNR", training.psnr(views), "dB", beside))
        rows.append(Row(f"{name}: throughput", training.rays_seen / took * 1e-6, "Mrays/s"))
        if device.type == "cuda":
            rows.append(Row(f"{name}: memory", torch.cuda.max_memory_allocated(device) / 2**30, "GiB"))
    large = views.square(sizes.frame)
    frame = milliseconds(
        lambda: training.render(large, 0, 1 << 20), sizes._replace(repeats=min(5, sizes.repeats)), device
    )
    rows.append(Row(f"a frame of {sizes.frame} x {sizes.frame}", frame, "ms", "bar 50"))
    if out is not None:
        Image.fromarray((255 * training.render(views, 0)).cpu().numpy().astype(np.uint8)).save(out / "test_view.png")
    return rows + steps_of(pictures, options, sizes, device)


def steps_of(pictures: Any, options: Any, sizes: Sizes, device: Any) -> list[Row]:
    """Milliseconds of a step by the size of the table, beside plain torch's, and with KAR."""
    from benchmarks.train_field import Training

    rows = []
    for log2 in sizes.table_sizes:
        say(f"steps, 2^{log2} rows")
        training = Training(pictures, replace(options, log2_table_size=log2), kar=True)
        kar, training.kar = training.kar, None
        for _ in range(sizes.warm_steps):
            training.step(0.5)
        ours = milliseconds(lambda t=training: t.step(0.5), sizes, device)  # type: ignore[misc]
        samples = training.options.target_samples
        pairs = []
        for _ in range(sizes.repeats):  # KAR is evaluated in one step of two
            times = {}
            for form in (None, kar):
                training.kar = form
                wait(device)
                start = time.perf_counter()
                for _ in range(training.options.kar_interval):
                    training.step(0.5)
                wait(device)
                times[form is None] = time.perf_counter() - start
            pairs.append(1 - times[True] / times[False])
        kar_percent = 100 * statistics.median(pairs)
        training.kar = None
        training.field.grid.implementation = "torch"
        with plain_torch():
            plain = milliseconds(lambda t=training: t.step(0.5), sizes, device)  # type: ignore[misc]
        rows.append(Row(f"a step, 2^{log2} rows", ours, "ms", f"torch {plain:.3g}; about {samples} samples; bar 12"))
        rows.append(Row(f"KAR's share of a step, 2^{log2} rows", kar_percent, "%", "bar 15"))
    return rows


if __name__ == "__main__":
    sys.exit(main())
