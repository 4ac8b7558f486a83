"""The field's renderings of training views: made when a training ends, in its last checkpoint, used with photos."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from peak_nerf.nerf.data.datamanager import PeakDataManager
from peak_nerf.nerf.data.pixel_rays import rays_of_picture
from peak_nerf.nerf.model import PeakModel
from peak_nerf.nerf.photo_residuals import (
    PhotoResiduals,
    TrainingPhoto,
    TrainingRenderings,
    render_training_views,
)

COLOUR, VIEW = "training_renderings.colour", "training_renderings.view"


def say(line: str) -> None:
    """Print `line`."""
    CONSOLE.print(f"peak: {line}", markup=False, highlight=False, soft_wrap=True)


def add_photo_residuals(pipeline: Any) -> None:
    """Render the training views and have renderings of other views take residuals from them. Ctrl-C leaves them out."""
    from rich.progress import Progress

    model, datamanager = pipeline.model, pipeline.datamanager
    if not isinstance(model, PeakModel) or not isinstance(datamanager, PeakDataManager):
        return
    forget(model)
    model.eval()
    try:
        with Progress(console=CONSOLE, transient=True) as bar:
            task = bar.add_task("Rendering the training photos", total=None)
            model.training_renderings = rendered_training_views(
                model, refined_cameras(model, datamanager), lambda i, n: bar.update(task, completed=i, total=n)
            )
    except KeyboardInterrupt:
        say("photo residuals are left out: views are rendered by the field alone")
    finally:
        model.train()
    attach(model, datamanager)


def rendered_training_views(
    model: PeakModel, cameras: Cameras, on_progress: Callable[[int, int], None]
) -> TrainingRenderings | None:
    """The field's renderings of the training photos as they are, their exposure included.

    Args:
        model: whose field it is.
        cameras: of training, where refinement has put them.
        on_progress: how many views are done, of how many.

    Returns: None where no photo residuals are wanted, or of cameras that are not perspective.
    """
    if not model.config.photo_residuals:
        return None

    def render(view: int, stride: int) -> tuple[Tensor, Tensor]:
        images = model.images(rays_of_picture(cameras[view : view + 1], stride))
        rgb = images["rgb"]
        if model.exposure is not None and model.corrects_exposure:
            picture = torch.full((rgb[..., 0].numel(),), view, device=rgb.device)
            rgb = model.exposure(rgb.reshape(-1, 3), picture).reshape(rgb.shape)
        return rgb, images["depth"][..., 0]

    with torch.no_grad():
        return render_training_views(cameras, render, on_progress)


def forget(model: PeakModel) -> None:
    """The field is about to change, and is no longer what was rendered."""
    model.training_renderings = model.residuals = None


def make_room(model: Any, state: dict[str, Any]) -> dict[str, Any]:
    """The state of a checkpoint, and a place in the model for its renderings; without these where none are wanted."""
    found = {name: value for name, value in state.items() if ".training_renderings." in name}
    sizes = [len(value) for end in (COLOUR, VIEW) for name, value in found.items() if name.endswith(end) and value.ndim]
    wanted = isinstance(model, PeakModel) and model.config.photo_residuals and len(sizes) == 2
    if isinstance(model, PeakModel):
        forget(model)
    if not wanted:
        return {name: value for name, value in state.items() if name not in found}
    model.training_renderings = TrainingRenderings(*sizes).to(model.device)
    return state


def attach(model: Any, datamanager: Any) -> None:
    """Have the model use its renderings, with the photos that the data manager has."""
    if not isinstance(model, PeakModel) or model.training_renderings is None:
        return
    if not datamanager.tables:
        datamanager.setup_train()
    cameras = refined_cameras(model, datamanager)
    table = datamanager.full_size
    known: Tensor | None = None
    if table.drawable is not None:
        known = torch.zeros(len(table.colours), dtype=torch.bool, device=table.colours.device)
        known[table.drawable] = True

    def photo(view: int) -> TrainingPhoto:
        h, w, first = int(cameras.height[view]), int(cameras.width[view]), int(table.first[view])
        part = slice(first, first + h * w)
        colour = model.over_background(table.colours[part].reshape(h, w, -1).float() / 255)
        return TrainingPhoto(colour, None if known is None else known[part].reshape(h, w))

    try:
        model.residuals = PhotoResiduals(
            cameras,
            photo,
            model.training_renderings,
            model.config.photo_residuals,
            fills=model.config.fill_unseen and model.renderer.unbounded,
        )
    except ValueError as error:
        forget(model)
        say(f"the photos are not those of the training ({error}): views are rendered by the field alone")


def refined_cameras(model: PeakModel, datamanager: PeakDataManager) -> Cameras:
    """The training cameras where refinement has put them."""
    fix_gauge(model, datamanager)
    cameras = copy.deepcopy(datamanager.cameras)
    cameras.camera_to_worlds = model.camera_optimizer.refined(cameras.camera_to_worlds)
    return cameras


def fix_gauge(model: PeakModel, datamanager: PeakDataManager) -> None:
    """Tell the camera refinement which adjustments move all cameras in common."""
    positions = datamanager.cameras.camera_to_worlds[:, :, 3]
    model.camera_optimizer.gauge.fix(positions, float((positions - model.centre).norm(dim=-1).median()))
