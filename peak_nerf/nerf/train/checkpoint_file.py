"""Checkpoints as files: written whole, found by step, and looked at before anything of them is used.

A checkpoint is a zip archive, uncompressed, of a pickle that says what there is and a member for each tensor's numbers.
torch.load refuses to call what it does not know; what remains are damaged members, and files made to fill memory.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import pickletools
import re
import tempfile
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from peak_nerf.errors import PeakError, first_line
from peak_nerf.nerf.callers import local_of
from peak_nerf.nerf.render.field import PeakRadianceField

NAMED = re.compile(
    r"collections OrderedDict|torch \w+Storage|torch\._utils _rebuild_(tensor_v2|parameter)|_codecs encode"
    r"|numpy(\._?core\.multiarray scalar| dtype|\.dtypes Float64DType)"
)
"""What the pickle of a checkpoint names; the last are schedulers of nerfstudio's own."""
UNFINISHED = ".checkpoint-"
"""How the name of a checkpoint begins that is being written."""
BYTES = {
    "Double": 8,
    "Float": 4,
    "Half": 2,
    "BFloat16": 2,
    "Long": 8,
    "Int": 4,
    "Short": 2,
    "Char": 1,
    "Byte": 1,
    "Bool": 1,
}
"""Of a number, by kind of storage."""
MOST_PICKLE = 64 << 20
"""Bytes of the pickle: it holds no tensor."""
LARGEST = 1e15
"""Of a number in a checkpoint; those of trainings stay below 1e9."""
LAST_STEP = 10**9
ADDED = ("occupancy.opacity", "occupancy.candidates")
"""Tensors that checkpoints of before lack."""


def write_checkpoint(state: Any, path: Path) -> None:
    """torch.save to a temporary file outside the folder's listing, then rename: a reader sees all of it or nothing.

    nerfstudio lists the checkpoint folder and takes every name for a step, so the temporary file is next to the folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=UNFINISHED, dir=path.parent.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def latest_checkpoint(
    folder: Path, step: int | None = None, remedy: str = "--load-dir wants the nerfstudio_models folder of a run"
) -> Path:
    """The checkpoint of `step`, or the newest one. Raises: PeakError when there is none."""
    if not folder.is_dir():
        raise PeakError(f"{folder}: no such checkpoint folder; {remedy}")
    found = {
        int(match[1]): path for path in folder.iterdir() if (match := re.fullmatch(r"step-(\d{9,})\.ckpt", path.name))
    }
    if not found or (step is not None and step not in found):
        wanted = "step-*.ckpt" if step is None else f"step-{step:09d}.ckpt"
        raise PeakError(f"{folder}: holds no {wanted}; {remedy}")
    return found[max(found) if step is None else step]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The state that the file holds, its tensors mapped from the file; of a few MiB, whatever it asks for.

    `step` is a number of steps, `pipeline` maps names to finite tensors.
    Raises: PeakError when it is damaged, no checkpoint, names what no checkpoint needs, or has numbers beyond any.
    """
    problem = "cannot be loaded"
    remedy = "copy it again, or take another checkpoint of the run"
    try:
        _check_archive(path)
        state: Any = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except PeakError:
        raise
    except zipfile.BadZipFile:
        size = path.stat().st_size
        what = "it is empty" if size == 0 else "it is cut short, or no checkpoint"
        raise PeakError(f"{path}: {problem} ({what}); {remedy}") from None
    except Exception as error:  # of pickles, archives and tensors; MemoryError where sizes are false
        raise PeakError(f"{path}: {problem} ({first_line(error)}); {remedy}") from error
    wrong = _wrong(state)
    if wrong:
        raise PeakError(f"{path}: {problem} ({wrong}); {remedy}")
    return state


def check_command_checkpoint() -> None:
    """Where `ns-eval`, `ns-render`, `ns-export` or `ns-viewer` are about to load one, look at it; tell them its step.

    They would take any file of the folder for a checkpoint.
    Raises: PeakError as `latest_checkpoint` and `read_checkpoint` do.
    """
    config = local_of("nerfstudio.utils.eval_utils", "eval_setup", "config")
    if config is not None:
        path = latest_checkpoint(config.load_dir, config.load_step, "copy it from where the run was trained")
        read_checkpoint(path)
        config.load_step = int(path.stem.partition("-")[2])


def load_weights(pipeline: Any, load: Callable[[dict[str, Any], int], None], state: dict[str, Any], step: int) -> None:
    """`load(state, step)`, which by itself leaves at random what the state does not hold.

    Raises: PeakError when it holds other tensors than the pipeline's model wants, or renders to NaN.
    """
    path: Path | None = local_of("nerfstudio.utils.eval_utils", "eval_load_checkpoint", "load_path") or local_of(
        "peak_nerf.nerf.train.trainer", "_load_checkpoint", "checkpoint"
    )
    held = {name.removeprefix("module.").removeprefix("_model.").removeprefix("module."): state[name] for name in state}
    wanted = pipeline.model.state_dict()
    missing = [name for name in wanted if name not in held and not name.endswith(ADDED)]
    try:
        if missing:
            raise RuntimeError(f"it lacks {missing[0]}, and {len(missing) - 1} others")
        if any(name in held and held[name].is_floating_point() != wanted[name].is_floating_point() for name in wanted):
            raise RuntimeError("it has whole numbers where others belong")
        load(state, step)
    except PeakError as error:  # of the hash grid
        raise PeakError(str(error).replace("checkpoint: ", f"{path or 'checkpoint'}: ", 1)) from None
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
        reason = next((shape for name in wanted if (shape := _other_shape(name, wanted, held))), first_line(error))
        raise PeakError(
            f"{path or 'checkpoint'}: cannot be loaded ({reason}); is it of this method and these settings?"
        ) from None
    field = getattr(pipeline.model, "field", None)
    if isinstance(field, PeakRadianceField) and not _is_finite(field):
        raise PeakError(f"{path or 'checkpoint'}: its weights are too large, it renders to NaN; take an earlier one")


def _other_shape(name: str, wanted: Mapping[str, Tensor], held: Mapping[str, Any]) -> str:
    """That the model's settings and the checkpoint differ in the shape of a tensor, or nothing."""
    if name not in held or name.endswith(ADDED):
        return ""
    if held[name].is_floating_point() != wanted[name].is_floating_point():
        return f"{name} is of {held[name].dtype}"
    if held[name].shape == wanted[name].shape:
        return ""
    return f"these settings ask for {name} of shape {tuple(wanted[name].shape)}, it holds {tuple(held[name].shape)}"


@torch.no_grad()
def _is_finite(field: PeakRadianceField) -> bool:
    """Whether density and colour are, at some points of the field's cube."""
    first = next(field.parameters())
    points = torch.linspace(-0.99, 0.99, 8, device=first.device)
    u = torch.cartesian_prod(points, points, points)
    density, geometry = field.density(u)
    colour = field.colour(geometry, torch.nn.functional.normalize(u, dim=-1))
    return bool(torch.isfinite(density).all() and torch.isfinite(colour).all())


def _check_archive(path: Path) -> None:
    """Raises: PeakError, zipfile.BadZipFile and others when the archive is not one that torch.save has written."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        size = path.stat().st_size
        unpacked = sum(member.file_size for member in members)
        if unpacked > size or any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise ValueError(f"it would unpack to {unpacked / 2**30:.2g} GiB, and has {size / 2**30:.2g}")
        pickles = [member for member in members if member.filename.endswith("/data.pkl")]
        if len(pickles) != 1 or pickles[0].file_size > MOST_PICKLE:
            raise ValueError("it is no checkpoint")
        try:
            damaged = archive.testzip()
        except (zlib.error, NotImplementedError, OSError):
            damaged = "an archive member"
        if damaged is not None:
            raise ValueError(f"{damaged} is damaged")
        prefix = pickles[0].filename.removesuffix("data.pkl") + "data/"
        sizes = {m.filename.removeprefix(prefix): m.file_size for m in members if m.filename.startswith(prefix)}
        _check_pickle(archive.read(pickles[0]), sizes)


def _check_pickle(content: bytes, sizes: Mapping[str, int]) -> None:
    """Read the pickle without making anything of it.

    sizes: bytes of the members with tensors' numbers, by name.
    Raises: ValueError when it names what no checkpoint needs, some of which torch would fill memory with, or wants more
    of a member than there is.
    """
    for opcode, argument, _ in pickletools.genops(io.BytesIO(content)):
        if opcode.name in ("STACK_GLOBAL", "INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"):
            raise ValueError(f"its pickle has {opcode.name}, as no checkpoint has")
        if opcode.name == "GLOBAL" and not NAMED.fullmatch(str(argument)):
            raise ValueError(f"it names {str(argument).replace(' ', '.')}, as no checkpoint does: nothing was run")
    _Sizes(io.BytesIO(content), sizes).load()


class _Nothing:
    """Stands for whatever a pickle would make."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


class _Sizes(pickle._Unpickler):
    """Python's own unpickler, in Python, whose memo a false index does not blow up; makes nothing but containers."""

    def __init__(self, file: io.BytesIO, sizes: Mapping[str, int]) -> None:
        super().__init__(file)
        self.sizes = sizes

    def find_class(self, module: str, name: str) -> Any:
        if name == "OrderedDict":
            return OrderedDict
        return name.removesuffix("Storage") if name.endswith("Storage") else _Nothing

    def persistent_load(self, pid: Any) -> _Nothing:
        _, kind, key, _, count = pid
        if key not in self.sizes or count * BYTES[kind] != self.sizes[key]:
            raise ValueError(f"it says that the tensor {key} has {count} numbers, which is not what it holds of it")
        return _Nothing()


def _wrong(state: Any) -> str:
    """What keeps the state from being one of a training, or nothing."""
    if not isinstance(state, dict):
        return "it is no checkpoint"
    if "pipeline" not in state or "step" not in state:
        return f"it has no {'pipeline' if 'pipeline' not in state else 'step'}"
    step, weights = state["step"], state["pipeline"]
    if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step <= LAST_STEP:
        return f"its step is {str(step)[:20]}"
    if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights):
        return "its pipeline is not a table of tensors"
    for name, value in weights.items():
        if not isinstance(value, Tensor):
            return f"{name} is no tensor"
        if value.numel() * value.element_size() > max(value.untyped_storage().nbytes(), 1):
            return f"{name} is larger than what the file holds of it"
        if value.is_floating_point() and value.numel():
            least, most = (float(end) for end in torch.aminmax(value))
            if not math.isfinite(least) or not math.isfinite(most):
                return f"its weights {name} are not finite"
            if max(-least, most) > LARGEST:
                return f"its weights {name} are up to {max(-least, most):.3g}"
    seconds = state.get("seconds", 0.0)
    if not isinstance(seconds, (int, float)) or not 0 <= seconds < math.inf:
        return f"its seconds are {str(seconds)[:20]}"
    for name in ("optimizers", "schedulers", "scalers"):
        if not isinstance(state.get(name, {}), dict):
            return f"its {name} are not a table"
    return ""
