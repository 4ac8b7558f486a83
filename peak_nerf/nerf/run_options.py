"""What a suite can set about a radiance field: data and length of the training, and every option of the model by the
name it has after `--pipeline.model.`"""

# No `from __future__ import annotations`: the options of the model come in as types.
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import Field

from peak_nerf.nerf.options import KAR_FORMS, RENAMED, ModelOptions

METHODS: Mapping[str, Mapping[str, Any]] = {
    "peak": {},
    "plain": {"kar_weight": 0.0, "polynomial_degree": None, "distortion_weight": 0.0, "depth_weight": 0.0},
}
"""What each method changes in the preset. A comparator is `plain` with its own option as a setting."""
PRESETS = ("peak-lite", "peak", "peak-nerfacto")
NONE = "none"
"""What a suite writes where an option takes None, which its YAML cannot say."""
VIEW_INDICES = r"^\d+( \d+)*$"


@dataclass
class NerfSettings:
    """A radiance field, trained by nerfstudio's own trainer and evaluated on the scene's test views."""

    scene: Path
    """The scene's folder; in a suite its name, found in nerf_synthetic/, llff/ or posed/ under the data root."""
    views: int | Literal["all"] | None = None
    """Training views, evenly spaced over the train split; without this and view_indices, all."""
    view_indices: Annotated[str, Field(pattern=VIEW_INDICES)] | None = None
    """Training views by their place in the train split, counted from 0, such as "26 86 2 55"."""
    downscale_factor: int | None = None
    """Train and evaluate on the images of `images_N`; None as `peak-data` does."""
    use_alpha: bool = True
    """Off, images with an alpha channel are put before the background as they are read."""
    plain_background: bool = True
    """Off, pictures before plain white are taken as they are."""
    triangulate: Literal["auto", "always", "never"] = field(
        default="auto", metadata={"choices": ("auto", "always", "never")}
    )
    """Whether sparse points are looked for where the scene has none, as `peak-data` has it."""
    stereo: Literal["auto", "always", "never"] = field(
        default="auto", metadata={"choices": ("auto", "always", "never")}
    )
    """Whether depth is looked for between the sparse points, as `--pipeline.datamanager.stereo` has it."""
    method: str = field(default="peak", metadata={"choices": tuple(METHODS)})
    """`peak`: the preset as it is. `plain`: without KAR, polynomial encoding and distortion loss."""
    preset: str = field(default="peak-lite", metadata={"choices": PRESETS})
    """The method of `ns-train` whose configuration this starts from."""
    steps: int | None = None
    """Length of the training in steps. Without this and budget_seconds, the preset's own."""
    budget_seconds: float | None = None
    """Length of the training in seconds, without evaluations and checkpoints."""
    background: Literal["white", "black", "random"] | None = None
    """Behind transparent images when they are evaluated; None for white."""
    run_folder: Path | None = None
    """Also keep nerfstudio's own run (checkpoint, config.yml) under this folder, for ns-viewer and ns-render."""
    kar_rate: float | None = None
    """Learning rate of KAR's g; None for the preset's own."""
    seed: int = 42
    """Of everything random."""


def _is_plain(hint: Any) -> bool:
    """Whether a suite's values can stand for it: numbers, texts, fixed words."""
    if get_origin(hint) is Annotated:
        return _is_plain(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType):
        return all(_is_plain(part) for part in get_args(hint))
    return hint in (bool, int, float, str, NoneType) or get_origin(hint) is Literal


def _option(name: str, hint: Any) -> tuple[Any, Any]:
    """Type and field of an option that is None unless a suite sets it; old names and words are accepted."""
    metadata: dict[str, Any] = {"aliases": tuple(old for old, new in RENAMED.items() if new == name)}
    bare = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    if get_origin(bare) is Literal:
        metadata["choices"] = KAR_FORMS if name == "kar_form" else get_args(bare)
    if name == "kar_form":
        metadata["value_aliases"] = {"free-space": "unobserved"}
    takes_none = NoneType in get_args(bare)
    return (
        Union[hint, Literal["none"], None] if takes_none else Union[hint, None],  # noqa: UP007 - hints are values here
        field(default=None, metadata=metadata),
    )


def options_of(config: type[Any], without: tuple[str, ...] = ()) -> list[tuple[str, Any, Any]]:
    """The fields of a configuration that a suite can set: name, type and field, as `make_dataclass` takes them."""
    hints = get_type_hints(config, include_extras=True)
    names = [f.name for f in dataclasses.fields(config) if not f.name.startswith("_") and f.name not in without]
    return [(name, *_option(name, hints[name])) for name in names if _is_plain(hints[name])]


def _with_model_options() -> type[NerfSettings]:
    own = tuple(f.name for f in dataclasses.fields(NerfSettings))
    options = options_of(ModelOptions, without=own)
    return dataclasses.make_dataclass("NerfOptions", options, bases=(NerfSettings,), namespace={"__module__": __name__})


if TYPE_CHECKING:
    NerfOptions = NerfSettings
else:
    NerfOptions = _with_model_options()


def model_changes(options: NerfSettings) -> dict[str, Any]:
    """What the method and the options change in the preset's model, by name; options come last."""
    own = {f.name for f in dataclasses.fields(NerfSettings)}
    names = [f.name for f in dataclasses.fields(options) if f.name not in own]
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    return {**METHODS[options.method], **{k: None if v == NONE else v for k, v in given.items()}}
