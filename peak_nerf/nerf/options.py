"""What a user can choose about the model of `peak` and `peak-lite`."""

# No `from __future__ import annotations`: tyro reads this module's dataclass fields as types.
import dataclasses
import logging
import math
from dataclasses import dataclass, field
from typing import Literal

from nerfstudio.models.base_model import ModelConfig

from peak_nerf.core.hash_grid import Implementation
from peak_nerf.errors import PeakError

logger = logging.getLogger(__name__)

FEW_VIEWS = 16
"""Up to so many training views KAR is on, the distortion loss too, and colour depends less on direction."""
KAR_WEIGHTS = {"point": 0.004, "free-space": 0.1, "rays": 0.001, "planes": 0.001}
"""Weight of each form of KAR where none is given; more costs quality."""
WEIGHTS = (
    "kar_weight", "distortion_weight", "tv_weight", "occlusion_weight", "occlusion_reach", "entropy_weight",
    "level_annealing",
)  # fmt: skip
"""Options that are at least 0."""


def _model_class() -> type:
    from peak_nerf.nerf.model import PeakModel  # which imports this module

    return PeakModel


@dataclass
class PeakModelConfig(ModelConfig):
    """PEAK: hash grid ++ polynomial encoding, and the Kernel Alignment Regularizer (KAR)."""

    _target: type = field(default_factory=lambda: _model_class())
    """target class to instantiate"""
    enable_collider: bool = False
    """Not used: rays begin and end at the scene box."""
    eval_num_rays_per_chunk: int = 1 << 13
    """Rays rendered at a time; on a CPU, few enough that a wave of samples stays in its cache."""

    kar_form: Literal["auto", "point", "free-space", "rays", "planes"] = "auto"
    """auto: point for up to 16 training views; beyond, where KAR gains nothing, off unless `kar_weight` is given; says
    so. point: the field at ray samples takes after its neighbourhood. free-space: opacity where no camera sees takes
    after similar places that cameras do see. rays: rays of unseen views take after what near cameras recorded.
    planes: the point form's f, compared by rows and columns of small planes."""
    kar_values: Literal["both", "opacity", "colour", "features"] = "both"
    """point, planes: what is compared. both: opacity and colour; features: the hash grid's, coarse levels first."""
    kar_weight: float | None = None
    """Weight lambda of KAR; 0 trains without it, None takes 0.004 for the point form, 0.1 for free-space and 0.001 for
    the others."""
    kar_warmup: float = 0.1
    """Share of the training over which KAR's weight rises from 0."""
    kar_queries: int = 256
    """Query points a step. free-space: in cells hidden from the cameras; point: ray samples, see `kar_query_rays`. The
    other forms do not use it."""
    kar_query_rays: Literal["both", "seen", "unseen"] = "both"
    """point: whose ray samples are asked. seen: those of the batch; unseen: those of views between the training
    cameras; both: half and half."""
    kar_interval: int = 2
    """Steps from one asking to the next, but for free-space, which asks in each; the weight is as many times larger,
    so that its pull stays the same."""
    kar_bank: int = 256
    """Anchors that all queries of the free-space form share."""
    kar_anchors: int = 8
    """point: anchors of each query (local), or of all queries (global)."""
    kar_sampler: Literal["local", "global"] = "local"
    """point: anchors near each query, or a random subset of the batch's samples."""
    kar_radius: float = 0.015
    """point: reach of local anchors; planes: twice the distance of their points. The scene box has side 2."""
    kar_rank: int = 100
    """Number r of features of the similarity network g."""
    kar_residual_stride: int = 4
    """The output `kar_residual` is computed on every so many pixels in each direction, and enlarged."""

    distortion_weight: float | None = None
    """Weight of the distortion loss, which gathers a ray's weight in one short stretch; 0 leaves it out. None takes
    0.03 for up to 16 training views, and for any number of an unbounded scene, whose images do not say what is empty;
    otherwise 0."""
    tv_weight: float = 0.0
    """Weight of total variation on the hash grid's dense levels, as in Plenoxels; 0 leaves it out."""
    occlusion_weight: float = 0.0
    """Weight of FreeNeRF's penalty on opacity near the cameras; 0 leaves it out."""
    occlusion_reach: float = 0.3
    """How far behind its entry into the scene box (side 2) a ray is kept clear by `occlusion_weight`."""
    entropy_weight: float = 0.0
    """Weight of InfoNeRF's entropy of opacity along a ray, low where it hits one thing sharply; 0 leaves it out."""
    level_annealing: float = 0.0
    """Share of the training over which the grid's levels open from coarse to fine, after FreeNeRF; 0 opens all."""

    n_levels: int = 16
    """Levels of the hash grid."""
    n_features: int = 2
    """Features per level."""
    log2_table_size: int = 19
    """Rows of a hashed level, as a power of two."""
    base_resolution: int = 16
    """Cells per side of the coarsest level."""
    finest_resolution: int = 2048
    """Cells per side of the finest level."""
    polynomial_degree: int | None = 1
    """Degree of the learnable polynomial encoding of position; None leaves it out."""
    hidden_dim: int = 64
    """Width of the density network."""
    n_hidden: int = 1
    """Hidden layers of the density network."""
    colour_hidden_dim: int = 64
    """Width of the colour network."""
    colour_n_hidden: int = 2
    """Hidden layers of the colour network."""
    sh_levels: int | None = None
    """Levels of the spherical harmonics of direction, 1 to 4; fewer make colour depend less on where one looks from.
    None takes 2 for up to 16 training views and 4 beyond, and says so."""
    n_geometry: int = 15
    """Features handed from the density to the colour network."""
    implementation: Implementation = "auto"
    """Who computes the hash grid: tcnn (CUDA), numba (CPU), torch, or auto."""
    network_precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """What a CPU multiplies the networks in; auto takes bfloat16 where the CPU has instructions for it (AVX-512 BF16),
    several times faster, and float32 elsewhere. On CUDA, nerfstudio's own --mixed-precision decides."""
    density_bias: float = -2.0
    """Density starts at exp(this) per unit of the box's half side: thin, or a scene may stay fog."""

    steps_per_side: int = 256
    """Ray steps along one side of the scene box."""
    render_substeps: int = 2
    """Rendering divides a training step into so many: each training ray put its samples elsewhere in their steps, and
    what they agree on is a mean over all places."""
    occupancy_resolution: int = 128
    """Cells per side of the occupancy grid."""
    occupancy_threshold: float = 0.002
    """Opacity of one step below which a cell counts as empty; lower keeps thin parts and costs samples."""
    cull_cells: bool = True
    """Leave cells empty that no training camera sees, or that one sees through transparent pixels (RGBA images, random
    training background)."""
    occupancy_interval: int = 16
    """Steps between refreshes of the occupancy grid."""
    occupancy_probes: int = 1 << 15
    """Random cells probed at a refresh, so that matter can appear where no ray samples."""
    target_samples: int = 1 << 18
    """Ray samples a step; the number of rays follows."""
    coarse_steps: int = 200
    """Over so many first steps the step length shrinks from four times its final value: fog clears sooner."""
    near_plane: float = 0.05
    """Rays begin no nearer to the camera than this, in world units."""
    train_background: Literal["random", "white", "black"] = "random"
    """What stands behind training rays; random teaches opacity. Evaluation uses the data parser's `background`."""
    far_samples: int = 8
    """Samples of a ray behind the box of an unbounded scene, in contracted space; 0 paints all on the box's walls."""
    loss: Literal["huber", "mse"] = "huber"
    """Colour loss."""


def settled(config: PeakModelConfig, n_views: int, unbounded: bool) -> PeakModelConfig:
    """The options that were left open, chosen for this many training views; says which.

    KAR and the distortion loss by the number of views. Few views cannot tell a shine from a wrong surface: there colour
    gets less say in direction. Raises: PeakError on a weight that is negative or not finite.
    """
    few = n_views <= FEW_VIEWS
    form, weight, levels, distortion = config.kar_form, config.kar_weight, config.sh_levels, config.distortion_weight
    if form == "auto":
        form = "point"
        weight = 0.0 if weight is None and not few else weight
        logger.info("KAR: %s for %d training views", "off" if weight == 0 else "point form", n_views)
    if weight is None:
        weight = KAR_WEIGHTS[form]
    if levels is None:
        levels = 2 if few else 4
        logger.info("colour: %d levels of spherical harmonics for %d training views", levels, n_views)
    if distortion is None:
        distortion = 0.03 if few or unbounded else 0.0
        if distortion > 0:
            scene = " of an unbounded scene" if unbounded else ""
            logger.info("distortion loss: weight %g for %d training views%s", distortion, n_views, scene)
    config = dataclasses.replace(
        config, kar_form=form, kar_weight=weight, sh_levels=levels, distortion_weight=distortion
    )
    for name in WEIGHTS:
        value = getattr(config, name)
        if not 0 <= value < math.inf:
            option = name.replace("_", "-")
            raise PeakError(f"--pipeline.model.{option} {value}: give 0 (which leaves it out) or a positive number")
    for name in ("kar_interval", "render_substeps"):
        if getattr(config, name) < 1:
            option = name.replace("_", "-")
            raise PeakError(f"--pipeline.model.{option} {getattr(config, name)}: give 1 or more")
    return config
