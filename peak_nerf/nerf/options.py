"""What a user can choose about the models: plain dataclasses, each for the part that reads it, without nerfstudio."""

# No `from __future__ import annotations`: tyro reads this module's dataclass fields as types.
import dataclasses
import logging
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, Union

import tyro
from pydantic import Field

from peak_nerf.core.hash_grid import Implementation
from peak_nerf.errors import PeakError
from peak_nerf.system.choices import check_numbers

logger = logging.getLogger(__name__)

FEW_VIEWS = 16
"""Up to so many training views KAR is on, the distortion loss too, and colour depends less on direction."""
KAR_WEIGHTS = {"point": 0.02, "unobserved": 0.1, "observed": 0.01}
"""Weight of each form of KAR where none is given; more costs quality."""
POINT_IN_UNBOUNDED_SPACE = 0.004
"""Weight of the point form there."""
NEAR_PLANE = 0.05
"""Where rays begin when nothing is known, in world units."""
KAR_QUERIES = 128
"""Query points where no number is given."""
POINT_QUERIES_IN_A_BOX = 512
"""Of the point form, in a scene that fits its box: there more of them gain, and in unbounded space nothing."""
DEPTH_WEIGHT = 0.01
"""Of the depth loss, where none is given and the scene has sightings of sparse points."""
RENAMED = {"kar_rank": "kar_n_features", "unseen_rays": "virtual_rays"}
"""Options by their names of before version 0.2, in saved configurations and in suites."""
KAR_FORMS = ("auto", "point", "unobserved", "observed")
"""What `kar_form` may be; its type also lists the words of before, which are accepted or refused by name."""
FORMER_FORMS = {"free-space": "unobserved", "rays": "point", "planes": "point"}
"""`kar_form` of saved configurations; of the forms that went, the viewer showed the point form's residual."""


def renamed(state: dict[str, Any]) -> dict[str, Any]:
    """The fields of a configuration that an older version saved, by the names of today."""
    state = {RENAMED.get(name, name): value for name, value in state.items()}
    if "kar_form" in state:
        state["kar_form"] = FORMER_FORMS.get(state["kar_form"], state["kar_form"])
    return state


@dataclass
class PeakOptions:
    """What PEAK adds to a model, ours or another of nerfstudio: the polynomial encoding and KAR."""

    polynomial_degree: Annotated[Union[int, None], Field(ge=0, le=8)] = 1  # noqa: UP007 - tyro on Python 3.10
    """Degree of the learnable polynomial encoding of position; None leaves it out."""
    kar_weight: Annotated[Union[float, None], Field(ge=0, le=1e6)] = None  # noqa: UP007
    """Weight lambda of KAR; 0 trains without it. None takes 0.01, and in `peak` and `peak-lite` 0.02 for the point
    form, 0.004 for it in unbounded space, 0.1 for the unobserved one."""
    kar_warmup: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Fraction of the training over which KAR's weight rises from 0."""
    kar_queries: Annotated[Union[int, None], Field(ge=1, le=1 << 20)] = None  # noqa: UP007
    """Query points of an evaluation of KAR. None takes 512 for the point form of `peak` and `peak-lite` in a scene that
    fits its box, and 128 otherwise."""
    kar_anchors: Annotated[int, Field(ge=1, le=256)] = 8
    """Anchors near each query; the unobserved form has a bank instead."""
    kar_radius: Annotated[float, Field(ge=1e-5, le=2)] = 0.015
    """Largest distance of an anchor from its query along each axis; the scene box, or the contracted space, has side 2.
    In the latter it grows with the distance from the centre."""
    kar_n_features: Annotated[int, Field(ge=1, le=4096), tyro.conf.arg(aliases=["--pipeline.model.kar-rank"])] = 100
    """Number r of features of the similarity network g."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(renamed(state))


@dataclass
class KarOptions(PeakOptions):
    """The Kernel Alignment Regularizer of `peak` and `peak-lite`."""

    kar_form: Annotated[
        Literal["auto", "point", "unobserved", "observed", "free-space", "rays", "planes"],
        tyro.conf.arg(metavar="{auto,point,unobserved,observed}"),
    ] = "auto"
    """auto: point for up to 16 training views; beyond, where KAR gains nothing, off unless `kar_weight` is given; says
    so. point: the field at ray samples, half of them of virtual views, is regularised towards its neighbourhood.
    unobserved: opacity in cells hidden from all cameras is regularised towards similar places that cameras do see.
    observed: the field at those ray samples is regularised towards what is known nearby: sparse points are solid and
    have the colour that cameras recorded, and between a camera and a point that it saw space is empty."""
    kar_interval: Annotated[int, Field(ge=1, le=10**6)] = 2
    """point, observed: KAR is evaluated every so many steps, with as many times the weight; the unobserved form in
    every step."""
    kar_bank: Annotated[int, Field(ge=1, le=1 << 16)] = 256
    """unobserved: anchors shared by all queries."""
    kar_residual_stride: Annotated[int, Field(ge=1, le=4096)] = 4
    """The output `kar_residual` is computed on every so many pixels in each direction, and enlarged."""


@dataclass
class LossOptions:
    """The colour loss, and the regularisers of other methods."""

    loss: Literal["huber", "mse"] = "huber"
    """Colour loss."""
    distortion_weight: Annotated[float | None, Field(ge=0, le=1e6)] = None
    """Weight of the distortion loss, which gathers a ray's weight in one short stretch; 0 leaves it out. None takes
    0.03 for up to 16 training views, and for any number of an unbounded scene, whose images do not say what is empty;
    otherwise 0."""
    distortion_warmup: Annotated[float | None, Field(ge=0, le=1)] = None
    """Fraction of the training over which the distortion loss's weight rises from 0. None takes 0.5 in unbounded space,
    where it is not known at first which of many stretches of a ray is the right one, and 0 otherwise."""
    depth_weight: Annotated[Union[float, None], Field(ge=0, le=1e6)] = None  # noqa: UP007
    """Weight of the depth loss, which ends rays at the sparse points that their pixels saw; 0 leaves it out. None takes
    0.01 where it is known which pictures saw which points: from `peak photos`, or found before the training."""
    tv_weight: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    """Weight of total variation on the hash grid's dense levels, as in Plenoxels; 0 leaves it out."""
    occlusion_weight: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    """Weight of FreeNeRF's penalty on opacity near the cameras; 0 leaves it out."""
    occlusion_reach: Annotated[float, Field(ge=0, le=1e3)] = 0.3
    """How far behind its entry into the scene box (side 2) a ray is kept clear by `occlusion_weight`."""
    entropy_weight: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    """Weight of InfoNeRF's entropy of opacity along a ray, low where it hits one thing sharply; 0 leaves it out."""


@dataclass
class FieldOptions:
    """The radiance field."""

    n_levels: Annotated[int, Field(ge=1, le=32)] = 16
    """Levels of the hash grid."""
    n_features: Annotated[int, Field(ge=1, le=16)] = 2
    """Features per level."""
    log2_table_size: Annotated[int, Field(ge=4, le=28)] = 19
    """Rows of a hashed level, as a power of two."""
    base_resolution: Annotated[int, Field(ge=2, le=1 << 16)] = 16
    """Cells per side of the coarsest level."""
    finest_resolution: Annotated[int, Field(ge=2, le=1 << 20)] = 2048
    """Cells per side of the finest level, across the scene box; an unbounded scene's field, which spends half of its
    cube on what is beyond, has twice as many."""
    level_annealing: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Fraction of the training over which the grid's levels open from coarse to fine, after FreeNeRF; 0 opens all."""
    hidden_dim: Annotated[int, Field(ge=1, le=2048)] = 64
    """Width of the density network."""
    n_hidden: Annotated[int, Field(ge=1, le=32)] = 1
    """Hidden layers of the density network."""
    colour_hidden_dim: Annotated[int, Field(ge=1, le=2048)] = 64
    """Width of the colour network."""
    colour_n_hidden: Annotated[int, Field(ge=1, le=32)] = 2
    """Hidden layers of the colour network."""
    sh_levels: Annotated[int | None, Field(ge=1, le=4)] = None
    """Levels of the spherical harmonics of direction, 1 to 4; fewer make colour depend less on where one looks from.
    None takes 2 for up to 16 training views and 4 beyond, and says so."""
    n_geometry: Annotated[int, Field(ge=1, le=1024)] = 15
    """Features handed from the density to the colour network."""
    implementation: Implementation = "auto"
    """Who computes the hash grid: triton or tcnn (CUDA), numba (CPU), torch; auto takes triton on CUDA and numba on a
    CPU."""
    table_precision: Literal["float32", "float16"] = "float32"
    """What the triton kernels read the hash grid's table in; the table itself and its gradient stay float32."""
    network_precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """What the networks are multiplied in; auto takes bfloat16 where there are instructions for it (CPUs with AVX-512
    BF16, GPUs from Ampere on), several times faster, and float32 elsewhere; on older GPUs nerfstudio's own
    --mixed-precision decides."""
    network_rate: Annotated[float | None, Field(gt=0, le=1e3)] = None
    """Factor on the learning rate of the networks. None takes 0.25 for up to 16 training views of an unbounded scene,
    which faster ones learn by heart, and 1 otherwise."""
    density_bias: Annotated[float, Field(ge=-20, le=10)] = -2.0
    """Density starts at exp(this) per unit of the box's half side: thin, or a scene may stay fog."""


@dataclass
class RenderOptions:
    """Which samples a ray gets, and what stands behind them."""

    steps_per_side: Annotated[int, Field(ge=8, le=1 << 14)] = 256
    """Ray steps along one side of the scene box."""
    render_substeps: Annotated[int, Field(ge=1, le=64)] = 2
    """Rendering of a bounded scene divides a training step into so many: each training ray put its samples elsewhere in
    their steps, and what they agree on is a mean over all places."""
    eval_num_rays_per_chunk: Annotated[int, Field(ge=1, le=1 << 24)] = 1 << 13
    """Rays rendered at a time; on a CPU, few enough that a wave of samples stays in its cache."""
    occupancy_resolution: Annotated[int, Field(ge=8, le=1024)] = 128
    """Cells per side of the occupancy grid, or of each of its cascades."""
    occupancy_threshold: Annotated[float | None, Field(ge=0, lt=1)] = None
    """Opacity of one step below which a cell counts as empty; lower keeps thin parts and costs samples. None takes
    0.002, and in unbounded space 0.0005."""
    cull_cells: bool = True
    """Leave cells empty that no training camera sees, or that one sees through transparent pixels (RGBA images, random
    training background)."""
    occupancy_interval: Annotated[int, Field(ge=1, le=10**6)] = 16
    """Steps between refreshes of the occupancy grid."""
    occupancy_probes: Annotated[int, Field(ge=1, le=1 << 26)] = 1 << 15
    """Random cells probed at a refresh, so that matter can appear where no ray samples."""
    target_samples: Annotated[int, Field(ge=1, le=1 << 26)] = 1 << 18
    """Ray samples per step; the number of rays follows."""
    coarse_steps: Annotated[int, Field(ge=0, le=10**9)] = 200
    """Over so many first steps the length of a ray's steps shrinks from four times its final value: fog clears sooner,
    and thin matter is not taken for none before it has grown."""
    near_plane: Annotated[Union[float, None], Field(ge=0, le=1e6)] = None  # noqa: UP007
    """Rays begin no nearer to the camera than this, in world units. None takes, in unbounded space, half the depth of
    the nearest sparse points that the training views saw, and in rendering of those before the view where they are
    nearer: floaters grow right before cameras. Where none are known, 0.05."""
    train_background: Literal["random", "white", "black"] = "random"
    """What stands behind training rays; random teaches opacity where images have an alpha channel, and is the data
    parser's `background`, which evaluation uses, where they show that instead."""
    samples_per_ray: Annotated[int, Field(ge=1, le=4096)] = 32
    """Samples of a training ray in unbounded space, at most; chosen by what the occupancy grid knows."""
    render_samples: Annotated[int, Field(ge=1, le=4096)] = 24
    """Samples of a rendered ray in unbounded space, at most."""
    pixel_tolerance: Annotated[float, Field(ge=0, le=1)] = 0.03
    """In rendering, a pixel is interpolated where the colours and opacities of its neighbours, in [0, 1], differ by no
    more than this, and their depths by no more than 2 %; 0 renders every pixel."""
    photo_residuals: Annotated[int, Field(ge=0, le=64)] = 5
    """A rendered view gets what so many of the nearest training photos show beyond the field: their residuals, found
    again by depth. After the training each photo is rendered once for that. 0: the field alone."""
    fill_unseen: bool = True
    """In unbounded space, fill in from beside it what no training photo shows of a rendered view. Only together with
    photo residuals, whose renderings say what the photos show."""
    cone: Annotated[float, Field(ge=0, le=1)] = 1 / 256
    """In unbounded space a step is this fraction of the distance from the camera, where that is more than near it."""
    min_cameras: Annotated[int, Field(ge=1, le=10**6)] = 3
    """In unbounded space, cells that fewer training cameras see stay empty, since floaters grow there; with less than
    40 views, one in sixteen cameras is enough."""
    gradient_reach: Annotated[float, Field(ge=0, le=1e3)] = 0.2
    """In unbounded space gradients of samples nearer to the camera than this, in half box sides, are scaled down by the
    square of the distance: near a camera many rays share few cells, and floaters grow there."""
    near_annealing: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Fraction of the training over which rays of unbounded space come to begin at the near plane; at first they begin
    where the scene box does, or fog before each camera would explain what it sees."""
    cascades: Annotated[int, Field(ge=2, le=16)] = 6
    """Occupancy grids of unbounded space, each twice as large as the one before: 6 reach 32 times as far as the box."""


@dataclass
class ModelOptions(FieldOptions, RenderOptions, KarOptions, LossOptions):
    """All options of the model of `peak` and `peak-lite`."""


Options = TypeVar("Options", bound=ModelOptions)


def resolve_defaults(
    options: Options, n_views: int, unbounded: bool, sightings: bool = False, near: float | None = None
) -> Options:
    """The options with those that were left open chosen for this many training views; says which.

    KAR and the distortion loss by the number of views. Few views cannot tell a shine from a wrong surface: there colour
    depends less on direction.

    Args:
        options: stay as they are.
        n_views: number of training views.
        unbounded: whether there is something behind the scene box.
        sightings: whether it is known which view saw which sparse points.
        near: where rays begin by the sparse points, if these say it.

    Raises: PeakError on what is out of its range, on a form of KAR that is gone, and on a depth loss without sightings.
    """
    check_numbers(options, "pipeline.model")
    if options.finest_resolution < options.base_resolution:
        raise PeakError(
            f"--pipeline.model.finest-resolution {options.finest_resolution}: is below --pipeline.model.base-resolution"
            f" {options.base_resolution}; give at least that"
        )
    few = n_views <= FEW_VIEWS
    form, weight = options.kar_form, options.kar_weight
    levels, distortion = options.sh_levels, options.distortion_weight
    if form == "rays" or form == "planes":
        raise PeakError(
            f"--pipeline.model.kar-form {form}: was removed in 0.2, it gained nothing; use point or unobserved"
        )
    if form == "auto":
        form = "point"
        weight = 0.0 if weight is None and not few else weight
        logger.info("KAR: %s for %d training views", "off" if weight == 0 else "point form", n_views)
    if form == "free-space":
        form = "unobserved"
    if weight is None:
        weight = POINT_IN_UNBOUNDED_SPACE if form == "point" and unbounded else KAR_WEIGHTS[form]
    queries = options.kar_queries
    if queries is None:
        queries = POINT_QUERIES_IN_A_BOX if form == "point" and not unbounded else KAR_QUERIES
    if levels is None:
        levels = 2 if few else 4
        logger.info("colour: %d levels of spherical harmonics for %d training views", levels, n_views)
    if distortion is None:
        distortion = 0.03 if few or unbounded else 0.0
        if distortion > 0:
            scene = " of an unbounded scene" if unbounded else ""
            logger.info("distortion loss: weight %g for %d training views%s", distortion, n_views, scene)
    if options.occupancy_threshold is None:
        options = dataclasses.replace(options, occupancy_threshold=0.0005 if unbounded else 0.002)
    if options.network_rate is None:
        options = dataclasses.replace(options, network_rate=0.25 if few and unbounded else 1.0)
    if options.near_plane is None:
        options = dataclasses.replace(options, near_plane=NEAR_PLANE if near is None else near)
    if options.distortion_warmup is None:
        options = dataclasses.replace(options, distortion_warmup=0.5 if unbounded else 0.0)
    depth = options.depth_weight
    if depth is None:
        depth = DEPTH_WEIGHT if sightings else 0.0
        if depth > 0:
            logger.info("depth loss: weight %g, at the sparse points that the training views saw", depth)
    elif depth > 0 and not sightings:
        raise PeakError(
            f"--pipeline.model.depth-weight {depth}: it is not known which picture saw which sparse points: the"
            " scene has no observations.npz, and none were found in its pictures; make it with `peak photos`, or leave"
            " the option out"
        )
    options = dataclasses.replace(
        options, kar_form=form, kar_weight=weight, kar_queries=queries, sh_levels=levels, distortion_weight=distortion,
        depth_weight=depth,
    )  # fmt: skip
    multiple = 32 if unbounded else 8  # of the blocks that empty space is skipped by
    if options.occupancy_resolution < multiple or options.occupancy_resolution % multiple:
        raise PeakError(
            f"--pipeline.model.occupancy-resolution {options.occupancy_resolution}: give a multiple of {multiple}"
        )
    return options
