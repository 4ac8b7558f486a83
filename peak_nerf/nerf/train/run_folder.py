"""The folder of a run: where it may lie, that one training works in it, and what it reads once it was moved."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TextIO

from peak_nerf.errors import PeakError
from peak_nerf.nerf.callers import local_of
from peak_nerf.nerf.data.dataparser import PeakDataParserConfig, say_once
from peak_nerf.nerf.data.points import OBSERVATIONS
from peak_nerf.nerf.data.scene_files import find_scene
from peak_nerf.nerf.train.checkpoint_file import UNFINISHED
from peak_nerf.system.locks import lock_folder

_held: dict[Path, TextIO] = {}


def check_inside(run: Path, output_dir: Path) -> None:
    """Raises: PeakError when the names of experiment, method and timestamp lead out of the output folder."""
    if not run.resolve().is_relative_to(output_dir.resolve()):
        raise PeakError(
            f"{run}: --experiment-name and --timestamp lead out of --output-dir {output_dir}; give plain names"
        )


def hold(run: Path) -> None:
    """Keep other processes' trainings out of a run's folder, until `release`.

    Raises: PeakError when there is one already.
    """
    if run.resolve() not in _held:
        _held[run.resolve()] = lock_folder(run, "--timestamp", "training")
        for half in run.glob(f"{UNFINISHED}*"):  # of a training that was killed while it wrote one
            half.unlink()


def release(run: Path) -> None:
    """Let others in; nothing happens where it is not held."""
    file = _held.pop(run.resolve(), None)
    if file is not None:
        file.close()


def config_file() -> Path | None:
    """The config.yml that nerfstudio is about to read, if it is; it does not tell the configuration itself.

    `ns-eval`, `ns-render`, `ns-export` and `ns-viewer` read it in `eval_setup`, `ns-train --load-config` in `main`.
    """
    path = local_of("nerfstudio.utils.eval_utils", "eval_setup", "config_path")
    if path is None:
        path = getattr(local_of("nerfstudio.scripts.train", "main", "config"), "load_config", None)
    return None if path is None else Path(path)


def given_data() -> Path | None:
    """The scene that `ns-render dataset --data` or `ns-train --load-config ... --data` names anew."""
    render: Any = local_of("nerfstudio.scripts.render", "main", "self")
    data = getattr(render, "data", None) or getattr(
        local_of("nerfstudio.scripts.train", "main", "config"), "data", None
    )
    return None if data is None else Path(data)


def reattach(config: Any, run: Path, given: Path | None) -> None:
    """Let a run's configuration find itself in the folder `run`, and its scene and sparse points, wherever they are
    now; a scene that is given anew wins.

    Raises: PeakError when the scene is nowhere.
    """
    config.run_folder = run
    datamanager: Any = config.pipeline.datamanager
    for owner in (config, datamanager, datamanager.dataparser):
        data = getattr(owner, "data", None)
        if data is not None and data != Path():
            owner.data = scene_now(data, run) if given is None else given
            if not owner.data.exists():
                raise PeakError(
                    f"{owner.data}: the scene of the run {run} is no longer there; put it there again, or a link to it"
                )
    parser = datamanager.dataparser
    if isinstance(parser, PeakDataParserConfig) and parser.found_points is not None:
        here = run / OBSERVATIONS
        parser.found_points = here if here.is_file() else parser.found_points


def scene_now(data: Path, run: Path) -> Path:
    """Where the scene at `data` is, for a run that was moved with it: in the same place, or else below a folder that
    holds the run, under the last parts of its old path.

    `data` as it is where no such place holds a scene; whoever reads it says that it is missing.
    """
    if _holds_scene(data):
        return data
    parts = data.parts[1:] if data.is_absolute() else data.parts
    for folder in run.absolute().parents:
        for first in range(len(parts)):
            place = folder.joinpath(*parts[first:])
            if _holds_scene(place):
                say_once(f"the scene {data} of this run is now {place}")
                return place
    return data


def _holds_scene(path: Path) -> bool:
    try:
        find_scene(path, lambda line: None)
    except (PeakError, OSError):
        return False
    return True
