"""The bench task `nerf`: a preset of `ns-train`, trained and evaluated by nerfstudio in this process."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import gc
import math
import random
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from peak_nerf.core.fit import Progress
from peak_nerf.errors import PeakError
from peak_nerf.nerf.run_options import METHODS, PRESETS, VIEW_INDICES, NerfOptions, model_changes
from peak_nerf.system.record import check_folder, peak_memory_gib, plain, reset_peak_memory, versions, write_json

N_CHECKS = 10
"""Times in a training that the PSNR of a test view is computed for the history."""
CHECK_PIXELS = 200 * 200
"""A view of which only the PSNR is wanted is rendered at about so many pixels at most, and at every other in each
direction at most."""
PICTURES = 3
"""Test views in comparison.png."""


def run_nerf(options: NerfOptions, out: Path, on_progress: Callable[[Progress], None] | None = None) -> dict[str, Any]:
    """Train on `options.views` views, evaluate on all test views, leave metrics.json and pictures in `out`.

    What nerfstudio prints goes to train.log there. Its checkpoint is deleted, unless `options.run_folder` says where to
    keep it.

    Raises: PeakError on what a user can mend.
    """
    reset_peak_memory()
    _check(options)
    check_folder(out)
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".nerfstudio-", dir=out)))
        log = stack.enter_context((out / "train.log").open("w", encoding="utf-8", buffering=1))
        stack.enter_context(contextlib.redirect_stdout(log))
        stack.enter_context(contextlib.redirect_stderr(log))
        stack.enter_context(_errors_pass_through())
        config = trainer_config(options, out, scratch)
        trainer, watch = _trained(config, on_progress)
        metrics = _evaluate(options, trainer, watch, out)
    del trainer, watch
    gc.collect()  # trainer and callbacks hold each other: a worker's next cell would begin with this one's memory
    write_json(out / "metrics.json", metrics)
    return metrics


def _check(options: NerfOptions) -> None:
    if options.method not in METHODS or options.preset not in PRESETS:
        raise PeakError(f"nerf: method is one of {', '.join(METHODS)}, preset one of {', '.join(PRESETS)}")
    for one, other in (("steps", "budget_seconds"), ("views", "view_indices")):
        if getattr(options, one) is not None and getattr(options, other) is not None:
            raise PeakError(f"nerf: {one} and {other} are both given; keep one of them")
    if options.view_indices is not None and re.match(VIEW_INDICES, options.view_indices) is None:
        raise PeakError(f"nerf: view_indices is {options.view_indices!r}; give whole numbers, such as '26 86 2 55'")
    for name in ("steps", "budget_seconds", "kar_rate"):
        value = getattr(options, name)
        if value is not None and not 0 < value < math.inf:
            raise PeakError(f"nerf: {name} is {value}; give a number above 0")


def trainer_config(options: NerfOptions, out: Path, scratch: Path) -> Any:
    """The preset's TrainerConfig with the options put in, as `ns-train` would hold it.

    Raises: PeakError on an option that the preset's model does not have.
    """
    from peak_nerf.nerf import registration

    config: Any = copy.deepcopy(getattr(registration, options.preset.replace("-", "_")).config)
    config.data = config.pipeline.datamanager.data = options.scene
    dataparser = config.pipeline.datamanager.dataparser
    dataparser.num_views = None if options.views == "all" else options.views
    if options.view_indices is not None:
        dataparser.view_indices = tuple(map(int, options.view_indices.split()))
    dataparser.downscale_factor = options.downscale_factor
    dataparser.use_alpha = options.use_alpha
    dataparser.plain_background = options.plain_background
    dataparser.triangulate = options.triangulate
    dataparser.background = options.background or dataparser.background
    config.output_dir = scratch if options.run_folder is None else options.run_folder
    config.experiment_name = options.scene.name
    config.method_name = options.preset
    config.timestamp = out.name.strip(".").removesuffix(".partial")  # a suite's cell is worked on under such a name
    config.machine.seed = options.seed
    # With tensorboard, nerfstudio's list of event writers would grow from cell to cell, and so would their files.
    config.vis = "none"
    config.logging.local_writer.enable = False
    config.steps_per_eval_batch = config.steps_per_eval_image = config.steps_per_eval_all_images = 0
    config.steps_per_save = 0
    config.max_seconds = options.budget_seconds
    if options.steps is not None:
        config.max_num_iterations = options.steps
    if options.kar_rate is not None:
        config.optimizers["kar"]["optimizer"].lr = options.kar_rate
    if options.stereo != "auto":
        if not hasattr(config.pipeline.datamanager, "stereo"):
            raise PeakError(f"nerf: preset {options.preset} has no option stereo; leave it out")
        config.pipeline.datamanager.stereo = options.stereo
    model = config.pipeline.model
    for name, value in model_changes(options).items():
        if not hasattr(model, name):
            if getattr(options, name) is None:  # the method switches off what this preset's model never had
                continue
            raise PeakError(f"nerf: preset {options.preset} has no option {name}; leave it out")
        setattr(model, name, value)
    return config


@contextlib.contextmanager
def _errors_pass_through() -> Iterator[None]:
    """Our trainer ends `ns-train` by SystemExit; here the error or the Ctrl-C behind it is wanted."""
    try:
        yield
    except SystemExit as ended:
        if isinstance(ended.__context__, (PeakError, KeyboardInterrupt)):
            raise ended.__context__ from None
        raise


def _trained(config: Any, on_progress: Callable[[Progress], None] | None) -> tuple[Any, _Watch]:
    """The trainer after its training, and who watched it."""
    import torch
    from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation

    seed = config.machine.seed
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - nerfstudio draws from numpy's global generator
    torch.manual_seed(seed)
    config.save_config()
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup(test_mode="test")
    watch = _Watch(trainer, on_progress)
    trainer.callbacks.append(TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN_ITERATION], watch.look))
    trainer.train()
    return trainer, watch


class _Watch:
    """Reports progress, and now and then the PSNR of one test view; the training does not depend on it."""

    def __init__(self, trainer: Any, on_progress: Callable[[Progress], None] | None) -> None:
        self.trainer, self.on_progress = trainer, on_progress
        self.history: list[Progress] = []
        self.view = len(trainer.pipeline.datamanager.eval_dataset) // 2
        camera = trainer.pipeline.datamanager.eval_dataset.cameras[self.view]
        self.stride = check_stride(int(camera.height), int(camera.width))
        self.steps, self.reported = 0, 0.0

    def look(self, step: int) -> None:
        """After a step."""
        import torch

        trainer, self.steps = self.trainer, step + 1
        fraction = trainer.progress(step + 1)
        due = fraction >= (len(self.history) + 1) / N_CHECKS
        if due:
            with trainer.clock_stopped(), torch.random.fork_rng():
                truth, rgb, _ = render_view(trainer.pipeline, self.view, self.stride)
                mse = float((truth - rgb).square().mean())
            self.history.append(self._progress(step, fraction, -10 * math.log10(max(mse, 1e-10))))
        now = time.perf_counter()
        if self.on_progress is not None and (due or now - self.reported >= 1.0):
            self.on_progress(self._progress(step, fraction, self.history[-1].psnr if self.history else None))
            self.reported = now

    def _progress(self, step: int, fraction: float, test_psnr: float | None) -> Progress:
        """No measurement is held out for validation: what is known is the PSNR of a test view."""
        config = self.trainer.config
        n_steps = config.max_num_iterations if config.max_seconds is None else None
        return Progress(step + 1, n_steps, self.trainer.elapsed(), fraction, math.nan, test_psnr)


def check_stride(height: int, width: int) -> int:
    """Every how many pixels in each direction a view is rendered of which only the PSNR is wanted."""
    return max(2, math.ceil(math.sqrt(height * width / CHECK_PIXELS)))


def render_view(pipeline: Any, index: int, stride: int = 1) -> tuple[Any, Any, Any]:
    """Truth and rendering (h, w, 3) of a test view, and its depth as a coloured picture (h, w, 3).

    With a stride, of every so many pixels in each direction.
    """
    import torch

    from peak_nerf.nerf.data.pixel_rays import rays_of_picture

    pipeline.eval()
    dataset = pipeline.datamanager.eval_dataset
    camera = dataset.cameras[index : index + 1].to(pipeline.device)
    data = dict(dataset.get_data(index))
    data["image"] = data["image"][::stride, ::stride]
    with torch.no_grad():
        outputs = pipeline.model.get_outputs_for_camera_ray_bundle(rays_of_picture(camera, stride))
        _, images = pipeline.model.get_image_metrics_and_images(outputs, data)
    pipeline.train()
    truth, rgb = images["img"].chunk(2, dim=1)
    return truth, rgb, images["depth"]


def _evaluate(options: NerfOptions, trainer: Any, watch: _Watch, out: Path) -> dict[str, Any]:
    """nerfstudio's evaluation of all test views, the pictures, and the record."""
    from peak_nerf.nerf.run_figures import write_pictures

    pipeline = trainer.pipeline
    begin = time.perf_counter()
    measured = pipeline.get_average_eval_image_metrics(step=trainer.step, get_std=True)
    seconds_evaluation = time.perf_counter() - begin
    dataset = pipeline.datamanager.eval_dataset
    n = len(dataset)
    shown = sorted({round(i * (n - 1) / (PICTURES - 1)) for i in range(PICTURES)}) if n >= PICTURES else list(range(n))
    names = [path.name for path in dataset.image_filenames]
    write_pictures(out, [(names[i], *render_view(pipeline, i)) for i in shown])
    model = _without_targets(
        dataclasses.asdict(pipeline.model.config)
    )  # what was left open there, the model has chosen
    return {
        "task": "nerf",
        "method": options.method,
        "data": str(options.scene),
        "views": len(pipeline.datamanager.train_dataset),
        "chosen_views": list(trainer.config.pipeline.datamanager.dataparser.chosen_views),
        "test_views": n,
        "seed": options.seed,
        "settings": {
            **{k: v for k, v in plain(options).items() if v is not None},
            "model": plain(model),
        },
        "partial": False,
        **{name: value for name, value in measured.items() if name.split("_")[0] in ("psnr", "ssim", "lpips")},
        "seconds": trainer.elapsed(),
        "seconds_photo_residuals": trainer.seconds_photo_residuals,
        "seconds_evaluation": seconds_evaluation,
        "seconds_per_view": 1 / measured["fps"],
        "steps": watch.steps,
        "n_parameters": sum(p.numel() for p in pipeline.model.parameters()),
        "peak_memory_gib": peak_memory_gib(),
        "history_view": names[watch.view],
        "history": [
            {name: value for name, value in dataclasses.asdict(point).items() if name != "psnr_validation"}
            for point in watch.history
        ],
        "versions": versions("nerfstudio"),
    }


def _without_targets(config: Any) -> Any:
    """A configuration as dicts, without the classes that nerfstudio sets up by it (`_target`)."""
    if not isinstance(config, dict):
        return config
    return {name: _without_targets(value) for name, value in config.items() if not name.startswith("_")}
