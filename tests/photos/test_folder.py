"""OUT.partial and OUT: what is refused, what is gone on with, and what is left in the end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from peak_nerf.errors import PeakError
from peak_nerf.photos.folder import RECORD, SceneFolder, held_scene
from peak_nerf.photos.model import Photo
from peak_nerf.photos.options import PhotosOptions
from peak_nerf.system.locks import LOCK, lock_folder


def options(folder: Path, **changes: object) -> PhotosOptions:
    return replace(PhotosOptions(source=folder / "pictures", out=folder / "scene"), **changes)  # type: ignore[arg-type]


def refused(given: PhotosOptions) -> str:
    with pytest.raises(PeakError) as caught:
        SceneFolder(given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def begun(folder: Path, **changes: object) -> SceneFolder:
    scene = SceneFolder(options(folder, **changes))
    scene.begin()
    return scene


def test_a_scene_comes_about_beside_its_place(tmp_path: Path) -> None:
    scene = begun(tmp_path)
    assert scene.path == tmp_path / "scene.partial"
    assert not (tmp_path / "scene").exists()
    for name in ("database.db", "database.db-journal", "dense.db", "static.db", "transforms.json"):
        (scene.path / name).write_text("")
    for name in ("database_masks", "mapping", "images"):
        (scene.path / name).mkdir()
        (scene.path / name / "a").write_text("")
    scene.finish()
    assert scene.path == tmp_path / "scene"
    assert sorted(path.name for path in scene.path.iterdir()) == ["images", "photos.json", "transforms.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["scene"]


def test_an_empty_folder_is_a_place_for_a_scene(tmp_path: Path) -> None:
    (tmp_path / "scene").mkdir()
    begun(tmp_path).finish()
    assert (tmp_path / "scene" / "photos.json").is_file()


def test_what_was_begun_is_read_again(tmp_path: Path) -> None:
    scene = begun(tmp_path, masks=tmp_path / "masks", max_size=800)
    photos = [
        Photo("a/ü.jpg", "images/u.jpg", "masks/u.png", (40, 30), 1.5, "one", "ab12", converted="CMYK"),
        Photo("b.jpg", state="left out", reason="broken"),
    ]
    scene.record.photos, scene.record.kind = photos, "video"
    scene.save()
    again = SceneFolder(options(tmp_path, resume=True, masks=tmp_path / "masks", max_size=800))
    assert again.record == scene.record
    assert again.record.photos is not None
    assert again.record.photos[0].size == (40, 30)  # a tuple, as it was
    assert again.path == tmp_path / "scene.partial"


def test_what_is_there_already_is_refused_with_its_remedy(tmp_path: Path) -> None:
    scene = begun(tmp_path)
    message = refused(options(tmp_path))
    assert "scene.partial: was left by an interrupted run; add --resume to go on with it" in message
    assert f"or delete {tmp_path / 'scene.partial'}" in message
    scene.finish()
    message = refused(options(tmp_path))
    assert "scene: exists already; add --resume to go on with it, or name another folder with --out" in message
    assert "delete" not in message
    (tmp_path / "scene" / "photos.json").rename(tmp_path / "scene" / "notes.txt")
    message = refused(options(tmp_path))
    assert message.endswith("scene: exists already; name another folder with --out")
    assert "nothing to resume" in refused(options(tmp_path, resume=True))


@pytest.mark.parametrize("out", ["", ".", "/", ".."])
def test_out_must_have_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert "names no folder of its own" in refused(options(tmp_path, out=Path(out)))


def test_out_must_not_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "scene").write_text("")
    assert "scene: is a file; name another folder with --out" in refused(options(tmp_path, resume=True))
    scene = SceneFolder(options(tmp_path, out=tmp_path / "scene" / "below"))
    with pytest.raises(PeakError, match=r"below\.partial: cannot be made \(.+\); name another folder with --out"):
        scene.begin()


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("max_size", 800, 1600),
        ("video_frames", 30, 40),
        ("matching", "sequential", "auto"),
        ("camera", "single", "auto"),
        ("masks", Path("/masks"), None),
        ("source", Path("/other"), None),
    ],
)
def test_a_resumed_run_has_the_options_it_was_begun_with(
    tmp_path: Path, name: str, before: object, after: object
) -> None:
    begun(tmp_path, **{name: before})
    changed = {} if name == "source" else {name: after}
    message = refused(options(tmp_path, resume=True, **changed))
    assert f"--{name.replace('_', '-')} {before}, not " in message


def test_the_same_source_by_another_path_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert SceneFolder(options(tmp_path, source=Path("pictures"), resume=True)).record.photos is None


def test_nothing_to_resume_begins_anew(tmp_path: Path) -> None:
    scene = SceneFolder(options(tmp_path, resume=True))
    scene.begin()
    assert (tmp_path / "scene.partial" / "photos.json").is_file()


@pytest.mark.parametrize("text", ["", "{", '{"options": {}, "version": 2}', '{"options": {}, "photos": [{"size": 3}]}'])
def test_a_damaged_record_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    begun(tmp_path)
    (tmp_path / "scene.partial" / "photos.json").write_text(text)
    message = refused(options(tmp_path, resume=True))
    assert "photos.json: cannot be read (" in message
    assert "begin again with another --out" in message


def test_a_scene_that_could_not_get_its_name_is_finished_later(tmp_path: Path) -> None:
    scene = begun(tmp_path)
    (tmp_path / "scene").mkdir()
    (tmp_path / "scene" / "notes.txt").write_text("someone was faster")
    with pytest.raises(PeakError, match=r"scene: cannot be written .+--resume"):
        scene.finish()
    (tmp_path / "scene" / "notes.txt").unlink()
    again = SceneFolder(options(tmp_path, resume=True))
    assert again.record.finished
    assert not again.was_finished
    again.finish()
    assert SceneFolder(options(tmp_path, resume=True)).was_finished


def test_discard_leaves_nothing(tmp_path: Path) -> None:
    begun(tmp_path).discard()
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------------ one at a time


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize("name", ["scene", "scene.partial"])
def test_two_at_once_are_refused(tmp_path: Path, name: str, resume: bool) -> None:
    """Without --resume, too: what another one has begun is not to be deleted."""
    scene = begun(tmp_path)
    if name == "scene":
        scene.finish()
    with (
        lock_folder(tmp_path / name, "--out", "other"),
        pytest.raises(PeakError) as caught,
        held_scene(options(tmp_path, resume=resume)),
    ):
        pass
    assert str(caught.value) == (
        f"{tmp_path / name}: another `peak photos` is at work here; wait for it or give another --out"
    )
    with held_scene(options(tmp_path, resume=True)):
        pass  # it has ended


def test_a_scene_is_held_until_the_end(tmp_path: Path) -> None:
    given = options(tmp_path, out=tmp_path / "new" / "scene")
    with held_scene(given) as scene:
        with pytest.raises(PeakError, match=r"scene\.partial: another .* is at work"), held_scene(given):
            pass
        scene.begin()
        scene.finish()
        with pytest.raises(PeakError, match=r"scene: another .* is at work"), held_scene(replace(given, resume=True)):
            pass
        assert (scene.path / LOCK).exists()
    assert [path.name for path in (tmp_path / "new" / "scene").iterdir()] == [RECORD]


def test_nothing_is_left_where_nothing_was_begun(tmp_path: Path) -> None:
    given = options(tmp_path, out=tmp_path / "new" / "scene")
    with held_scene(given):
        pass
    with held_scene(given) as scene:
        scene.begin()
        scene.discard()
    assert list(tmp_path.iterdir()) == []
