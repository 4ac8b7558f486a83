"""`peak photos`: from a folder of photos, a video or poses of others to a scene that nerfstudio trains on."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from peak_nerf.errors import MachineError, PeakError
from peak_nerf.nerf.data.colmap import Z_UP, cut_short
from peak_nerf.photos.calls import load
from peak_nerf.photos.colmap import Search, Workspace, image_name
from peak_nerf.photos.convert import sparse_model
from peak_nerf.photos.display import Display
from peak_nerf.photos.folder import SceneFolder, held_scene
from peak_nerf.photos.imported import Imported, import_colmap, import_llff, kind_of
from peak_nerf.photos.mapping import Mapped, Mapper, NoPoses, registered_names
from peak_nerf.photos.model import Photo, SparseModel
from peak_nerf.photos.options import PhotosOptions, PoseOptions, SourceOptions, TrainOptions
from peak_nerf.photos.page import write_page
from peak_nerf.photos.pairs import choose_pairs
from peak_nerf.photos.pictures import prepare_pictures
from peak_nerf.photos.scene import write_scene
from peak_nerf.photos.train import TrainingSummary, train_scene
from peak_nerf.system.choices import check_options

SEED = 42
"""Of the training; poses have a seed of their own."""


class Hopeless(PeakError):
    """These photos cannot become a scene: nothing is kept."""


def photos_command(
    source: tyro.conf.OmitArgPrefixes[Annotated[SourceOptions, tyro.conf.arg(name="photos")]],
    poses: tyro.conf.OmitArgPrefixes[PoseOptions],
    training: tyro.conf.OmitArgPrefixes[TrainOptions],
) -> int:
    """Find the cameras of photos or of a video, without a GPU, and leave a scene that any nerfstudio method reads.

    In OUT: transforms.json, upright copies in images/, sparse_pc.ply, observations.npz (which photo saw which point
    where), COLMAP's own sparse/0, and index.html: look there first. With --train also a radiance field, its figures on
    held-out photos and a moving picture.
    """
    options = PhotosOptions(**vars(source), **vars(poses), **vars(training))
    check_options(options)
    display = Display(Console(stderr=True))
    with held_scene(options) as folder:
        try:
            summary = _run(options, folder, display)
        except KeyboardInterrupt:
            display.say("Interrupted. Finished stages are kept: go on with the same command and --resume.")
            raise
    _say_end(folder, summary, display)
    return 0


def _run(options: PhotosOptions, folder: SceneFolder, display: Display) -> TrainingSummary | None:
    """The scene, where it is not finished, and the training, where it is asked for."""
    if not folder.record.finished:
        try:
            _make_scene(options, folder, display)
        except OSError as error:  # of what is not written by write_atomically: folders, lists, copies of a database
            raise MachineError(f"{folder.path}: cannot be written ({error}); free space and add --resume") from error
        except MachineError as error:
            if "--resume" in str(error):
                raise
            raise MachineError(f"{error}, then add --resume") from error
    elif not folder.was_finished:
        folder.finish()  # whole, but OUT could not be written
    elif not options.train:
        display.say(f"{folder.out} is finished; add --train to train on it")
    if not options.train:
        return None
    summary = train_scene(
        folder.out.resolve(), seconds=options.train_seconds, seed=SEED, say=display.say, resume=options.resume
    )
    _write_page(folder, folder.out, _model_of(folder), options, summary)
    return summary


def _make_scene(options: PhotosOptions, folder: SceneFolder, display: Display) -> None:
    """All stages, without those that a former run has finished."""
    load()
    kind = kind_of(options.source)
    if kind in ("colmap", "llff") and options.masks is not None:
        raise PeakError(
            f"--masks {options.masks}: are for photos without poses, and {options.source} has poses; omit it"
        )
    folder.record.kind = kind
    folder.begin()
    if folder.record.how is None:
        try:
            if kind in ("colmap", "llff"):
                mapped = _imported(options, folder, kind, display)
            else:
                _read_pictures(options, folder, display)
                mapped = _find_poses(options, folder, display)
        except Hopeless:
            folder.discard()
            raise
        _keep(mapped, folder)
    else:
        display.say("poses: were found before")
    model = _model_of(folder)
    write_scene(folder.partial, model, folder.record.photos or [], Z_UP)
    _write_page(folder, folder.partial, model, options, None)
    folder.finish()


def _keep(mapped: Mapped, folder: SceneFolder) -> None:
    """Write sparse/0 and what became of each photo, from which `--resume` goes on."""
    sparse, model = folder.partial / "sparse" / "0", mapped.model
    sparse.mkdir(parents=True, exist_ok=True)
    try:
        model.write_binary(sparse)
    except ValueError as error:  # what COLMAP raises on a file that it cannot open
        raise MachineError(f"{sparse}: cannot be written ({error}); free space and add --resume") from error
    if file := cut_short(sparse):
        raise MachineError(f"{file}: cannot be written whole; free space and add --resume")
    photos = folder.record.photos or []
    _note_states(photos, mapped)
    folder.record.how, folder.record.notes = mapped.how, mapped.notes
    folder.save()


# ---------------------------------------------------------------------------------------------------------- stages


def _read_pictures(options: PhotosOptions, folder: SceneFolder, display: Display) -> None:
    if folder.record.photos is not None:
        display.say(f"pictures: {len(folder.record.photos)} were read before")
        return
    with display.stage("pictures"):
        try:
            folder.record.photos = prepare_pictures(
                options.source,
                folder.partial,
                max_size=options.max_size,
                video_frames=options.video_frames,
                masks=options.masks,
                camera=options.camera,
                on_progress=display.on_progress,
                should_stop=lambda: None,
            )
        except PeakError as error:
            raise _unless_of_the_machine(error) from None
    folder.save()
    for photo in folder.record.photos:
        if photo.state == "left out":
            display.say(f"  {photo.name} is left out: {photo.reason}")


def _find_poses(options: PhotosOptions, folder: SceneFolder, display: Display) -> Mapped:
    photos = folder.record.photos or []
    work = Workspace(folder.partial, photos, Search())
    with display.stage("features"):
        work.find_features(display.on_progress)
    by_name = [work.ids[image_name(photo)] for photo in photos if photo.state == "used"]
    chosen, how = choose_pairs(
        options.matching, len(by_name), folder.record.kind == "video", lambda: [work.descriptors(i) for i in by_name]
    )
    pairs = sorted((min(by_name[a], by_name[b]), max(by_name[a], by_name[b])) for a, b in chosen)
    with display.stage(f"matches, {how}"):
        work.match(pairs, display.on_progress)
    with display.stage("poses"):
        try:
            mapped = Mapper(work, folder.partial, pairs, display.on_progress).map(display.say)
        except NoPoses as error:
            raise Hopeless(f"{options.source}: {error}") from None
    mapped.how.insert(0, f"{len(pairs)} pairs of pictures compared: {how}")
    return mapped


def _imported(options: PhotosOptions, folder: SceneFolder, kind: str, display: Display) -> Mapped:
    read: Callable[..., Imported] = import_colmap if kind == "colmap" else import_llff
    with display.stage(f"poses of {options.source}"):
        try:
            imported = read(options.source, folder.partial, options.max_size, display.on_progress)
        except PeakError as error:
            raise _unless_of_the_machine(error) from None
    folder.record.photos = imported.photos
    return Mapped(imported.model, imported.how)


def _unless_of_the_machine(error: PeakError) -> PeakError:
    """What is finished counts when the machine is at fault, such as by a full disk; bad photos cannot be mended."""
    return error if isinstance(error, MachineError) else Hopeless(*error.args)


# --------------------------------------------------------------------------------------------------------- results


def _note_states(photos: list[Photo], mapped: Mapped) -> None:
    posed = set(registered_names(mapped.model))
    apart = {name: i for i, names in enumerate(mapped.others, start=2) for name in names}
    for photo in photos:
        if photo.state == "used" and image_name(photo) not in posed:
            photo.state = "left out"
            scene = apart.get(image_name(photo))
            photo.reason = (
                "no overlap with the others"
                if scene is None
                else f"shows another scene, or a side that no photo connects (no. {scene})"
            )


def _model_of(folder: SceneFolder) -> SparseModel:
    """From sparse/0 of the scene, as it was written."""
    colmap, photos = load(), folder.record.photos or []
    sparse = folder.path / "sparse" / "0"
    try:
        model = colmap.Reconstruction(sparse)
    except Exception as error:  # whatever it raises on a damaged file
        raise PeakError(f"{sparse}: cannot be read ({error}); make the scene again with another --out") from error
    used = [photo for photo in photos if photo.state == "used"]
    files = {image_name(photo): str(photo.file) for photo in used}
    return sparse_model(model, sparse, files, {image_name(photo): photo.size for photo in used})


def _write_page(
    folder: SceneFolder, scene: Path, model: SparseModel, options: PhotosOptions, summary: TrainingSummary | None
) -> None:
    out = shlex.quote(str(folder.out))
    resumed = f"peak photos {shlex.quote(str(options.source))} --out {out} --resume --train"
    commands = [f"ns-train peak --data {out}", *([] if summary else [resumed])]
    record = folder.record
    write_page(
        scene,
        record.photos or [],
        model,
        name=folder.out.resolve().name,
        source_name=str(options.source),
        how=record.how or [],
        notes=record.notes,
        commands=commands,
        training=summary,
    )


def _say_end(folder: SceneFolder, summary: TrainingSummary | None, display: Display) -> None:
    photos = folder.record.photos or []
    n = sum(photo.state == "used" for photo in photos)
    display.say(f"{n} of {len(photos)} pictures have a pose; see {folder.out / 'index.html'}")
    left: dict[str, list[str]] = {}
    for photo in photos:
        if photo.state == "left out":
            left.setdefault(photo.reason, []).append(photo.name)
    for reason, names in left.items():
        display.say(f"  left out, {reason}: {', '.join(names)}")
    if summary is not None:
        display.say(f"{summary.psnr:.2f} dB on {summary.n_test} held-out photos; {folder.out / summary.gif}")
    else:
        display.say(f"Train: ns-train peak --data {shlex.quote(str(folder.out))}")
