"""What numbers nerfstudio's own options may be, and how much memory ours ask for: before anything is made."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from peak_nerf.nerf.options import POINT_QUERIES_IN_A_BOX, ModelOptions
from peak_nerf.system.choices import check_numbers
from peak_nerf.system.memory import check_memory
from peak_nerf.system.ranges import LearningRate, Seed, Weight

Steps = Annotated[int, Field(ge=1, le=10**9)]
StepsOrNever = Annotated[int, Field(ge=0, le=10**9)]
Port = Annotated[int | None, Field(ge=1, le=65535)]
Rays = Annotated[int, Field(ge=1, le=1 << 24)]
Pictures = Annotated[int, Field(ge=-1, le=10**6)]
Width = Annotated[int, Field(ge=1, le=2048)]

RANGES: dict[str, Any] = {
    "seed": Seed,
    "num_devices": Annotated[int, Field(ge=1, le=1024)],
    "num_machines": Annotated[int, Field(ge=1, le=1024)],
    "machine_rank": Annotated[int, Field(ge=0, le=1023)],
    "max_num_iterations": Steps,
    "load_step": Annotated[int | None, Field(ge=0, le=10**9)],
    "steps_per_log": Steps,
    "steps_per_save": StepsOrNever,
    "steps_per_eval_batch": StepsOrNever,
    "steps_per_eval_image": StepsOrNever,
    "steps_per_eval_all_images": StepsOrNever,
    "max_buffer_size": Annotated[int, Field(ge=1, le=10**6)],
    "max_log_size": Annotated[int, Field(ge=0, le=10**4)],
    "websocket_port": Port,
    "websocket_port_default": Port,
    "num_rays_per_chunk": Rays,
    "max_num_display_images": Annotated[int, Field(ge=-1, le=10**6)],
    "jpeg_quality": Annotated[int, Field(ge=1, le=100)],
    "camera_frustum_scale": Annotated[float, Field(gt=0, le=1e3)],
    "lr": LearningRate,
    "eps": Annotated[float, Field(gt=0, le=1)],
    "max_norm": Annotated[float | None, Field(gt=0, le=1e9)],
    "weight_decay": Annotated[float, Field(ge=0, le=1)],
    "trans_l2_penalty": Weight,
    "rot_l2_penalty": Weight,
    "train_num_rays_per_batch": Rays,
    "eval_num_rays_per_batch": Rays,
    "num_rays_per_batch": Rays,
    "eval_num_rays_per_chunk": Rays,
    "train_num_images_to_sample_from": Pictures,
    "train_num_times_to_repeat_images": Pictures,
    "eval_num_images_to_sample_from": Pictures,
    "eval_num_times_to_repeat_images": Pictures,
    "camera_res_scale_factor": Annotated[float, Field(gt=0, le=1)],
    "patch_size": Annotated[int, Field(ge=1, le=256)],
    "fisheye_crop_radius": Annotated[float | None, Field(gt=0, le=1e6)],
    "PixelSamplerConfig.max_num_iterations": Annotated[int, Field(ge=1, le=10**6)],
    "near_plane": Annotated[float, Field(ge=0, le=1e3)],
    "far_plane": Annotated[float, Field(gt=0, le=1e6)],
    "hidden_dim": Width,
    "hidden_dim_color": Width,
    "hidden_dim_transient": Width,
    "num_levels": Annotated[int, Field(ge=2, le=32)],
    "base_res": Annotated[int, Field(ge=2, le=1 << 16)],
    "max_res": Annotated[int, Field(ge=2, le=1 << 20)],
    "log2_hashmap_size": Annotated[int, Field(ge=4, le=28)],
    "features_per_level": Annotated[int, Field(ge=1, le=16)],
    "num_nerf_samples_per_ray": Annotated[int, Field(ge=1, le=4096)],
    "proposal_update_every": Steps,
    "proposal_warmup": StepsOrNever,
    "num_proposal_iterations": Annotated[int, Field(ge=1, le=8)],
    "interlevel_loss_mult": Weight,
    "distortion_loss_mult": Weight,
    "orientation_loss_mult": Weight,
    "pred_normal_loss_mult": Weight,
    "proposal_weights_anneal_slope": Weight,
    "proposal_weights_anneal_max_num_iters": Steps,
    "appearance_embed_dim": Annotated[int, Field(ge=0, le=2048)],
    "average_init_density": Annotated[float, Field(gt=0, le=1e6)],
}
"""Of nerfstudio's fields, by name, or by class and name."""


def check_config(config: Any) -> None:
    """Hold a training's configuration to the ranges of its options, and to the memory that there is.

    Raises: PeakError that names the option, or the memory that is wanted and the options that decide it.
    """
    check_numbers(config, "", RANGES)
    model = config.pipeline.model
    if isinstance(model, ModelOptions):
        check_memory(needed_bytes(model), "--pipeline.model")


def needed_bytes(options: ModelOptions) -> dict[str, int]:
    """About what a training holds in memory at once, by what it is for.

    Tables, networks and g with their gradients and Adam's moments; one step's samples through the networks; occupancy.
    """
    rows = sum(min(2**options.log2_table_size, (resolution + 1) ** 3) for resolution in _resolutions(options))
    inputs = options.n_levels * options.n_features
    layers = options.hidden_dim * options.n_hidden + options.colour_hidden_dim * options.colour_n_hidden
    weights = options.hidden_dim**2 * options.n_hidden + options.colour_hidden_dim**2 * options.colour_n_hidden
    cells = options.occupancy_resolution**3 * options.cascades
    return {
        "hash grid (n-levels, n-features, log2-table-size)": 16 * rows * options.n_features,
        "networks (hidden-dim, n-hidden)": 16 * weights,
        "samples of a step (target-samples)": 8 * options.target_samples * (inputs + layers),
        "occupancy grid (occupancy-resolution, cascades)": 16 * cells,
        "probes (occupancy-probes)": 4 * options.occupancy_probes * (inputs + layers),
        "KAR (kar-queries, kar-anchors, kar-n-features)": 16
        * (options.kar_queries or POINT_QUERIES_IN_A_BOX)
        * (options.kar_anchors + 1)
        * (options.kar_n_features + inputs + layers),
    }


def _resolutions(options: ModelOptions) -> list[int]:
    """Of the grid's levels, in geometric progression."""
    n = options.n_levels
    growth = (options.finest_resolution / options.base_resolution) ** (1 / max(1, n - 1))
    return [int(options.base_resolution * growth**level) for level in range(n)]
