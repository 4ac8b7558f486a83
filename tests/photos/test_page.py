"""index.html: what it says, that it needs nothing from outside, that names from outside cannot break it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from peak_nerf.errors import PeakError
from peak_nerf.photos import page
from peak_nerf.photos.model import Intrinsics, Photo, SparseModel
from peak_nerf.photos.page import camera_line, write_page
from tests.photos import models
from tests.photos.test_review import empty

NASTY = "<b>&.jpg"


@dataclass
class Training:
    method: str = "peak"
    psnr: float = 22.126
    ssim: float = 0.7412
    lpips: float | None = 0.2131
    n_test: int = 1
    steps: int = 1400
    seconds: float = 247.3
    gif: str | None = "flythrough.gif"
    comparison: str | None = "side by side.png"
    run: str = "runs/peak/run"


class Reader(HTMLParser):
    """Start tags with their attributes, and text by the class of the innermost element that has one."""

    VOID = ("meta", "img", "input", "br")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def words(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.text))


def written(folder: Path, photos: list[Photo], model: SparseModel | None = None, **options: object) -> str:
    model = models.model() if model is None else model
    write_page(folder, photos, model, **{"name": "fern", "source_name": "photos", **options})  # type: ignore[arg-type]
    return (folder / "index.html").read_text()


def left_out(folder: Path) -> list[Photo]:
    (folder / "left_out").mkdir()
    Image.new("RGB", (30, 40)).save(folder / "left_out/d.jpg")
    blurred = Photo("d.jpg", "left_out/d.jpg", state="left out", reason="too blurred (sharpness 3.1, median 14.2)")
    return [blurred, Photo("e <&.heic", state="left out", reason="broken (<eof>)")]


def test_counts_names_and_states(tmp_path: Path) -> None:
    photos = models.photos(tmp_path, (NASTY, 'b".jpg', "c.jpg"))
    html = written(tmp_path, [*photos[:1], *left_out(tmp_path), *photos[1:]])
    read = Reader(html)
    words = read.words()
    assert "3 of 5 photos have a pose" in words
    assert {"1 <b>&.jpg used 4 points", '4 b".jpg used 3 points', "5 c.jpg used 2 points"} <= set(
        re.findall(r"\d \S+ used \d points", words)
    )
    assert "2 d.jpg left out too blurred (sharpness 3.1, median 14.2)" in words
    assert "3 e <&.heic left out broken (<eof>)" in words
    assert "no picture" in words
    assert "6 % covered" in words  # 4 of 64 cells
    assert NASTY not in html
    assert "<eof>" not in html
    assert "b" not in {tag for tag, attributes in read.tags if tag == "b" and attributes}
    # Cameras link to their photos' cards.
    links = {attributes["href"] for attributes in read.all("a")}
    assert links == {"#photo-1", "#photo-4", "#photo-5"}
    ids = {attributes.get("id") for attributes in read.all("figure")} - {None}
    assert ids == {f"photo-{i}" for i in range(1, 6)}


def test_the_page_needs_nothing_from_outside(tmp_path: Path) -> None:
    html = written(tmp_path, [*models.photos(tmp_path), *left_out(tmp_path)])
    sources = [image["src"] for image in Reader(html).all("img")]
    assert len(sources) == 4
    assert all(source is not None and source.startswith("data:image/jpeg;base64,") for source in sources)
    bare = re.sub(r"data:image/\w+;base64,[\w+/=]+", "", html)
    assert "http" not in bare
    assert "url(" not in bare
    assert "@import" not in bare
    assert "<link" not in bare
    assert set(re.findall(r'(?:src|href)="([^"]*)"', bare)) == {"", "#photo-1", "#photo-2", "#photo-3"}
    assert [path.name for path in tmp_path.iterdir() if "index" in path.name] == ["index.html"]


def test_drawings_are_xml(tmp_path: Path) -> None:
    html = written(tmp_path, models.photos(tmp_path, (NASTY, 'b".jpg', "c.jpg")))
    svgs = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)]
    assert [svg.attrib["class"] for svg in svgs] == ["map", "map", "bars", "bars", "matrix", "dots", "dots", "dots"]


def test_without_left_out_photos_and_extras_their_sections_are_not_there(tmp_path: Path) -> None:
    headings = re.findall(r"<h2>(.*?)</h2>", written(tmp_path, models.photos(tmp_path)))
    assert headings == [
        "Worth a look",
        "Where the photos were taken",
        "How well they hold together",
        "The photos",
        "In this folder",
    ]
    photos = [*models.photos(tmp_path), *left_out(tmp_path)]
    for name in ("flythrough.gif", "side by side.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    everything = {"how": ["exhaustive <matching>"], "notes": ["a note & more"], "commands": ["ls"]}
    html = written(tmp_path, photos, training=Training(), **everything)
    assert re.findall(r"<h2>(.*?)</h2>", html) == [
        "New views",
        "Worth a look",
        "Next",
        "Where the photos were taken",
        "How well they hold together",
        "The photos",
        "Left out",
        "What was done",
        "In this folder",
    ]
    assert "<li>exhaustive &lt;matching&gt;</li>" in html
    # The caller's notes come first.
    assert Reader(html).words().index("a note & more") < Reader(html).words().index("Left out, too blurred")


def test_training_comes_with_its_figures_pictures_and_viewer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = models.photos(tmp_path)
    Image.new("RGB", (4, 4)).save(tmp_path / "flythrough.gif")
    Image.new("RGB", (40, 40)).save(tmp_path / "side by side.png")
    train = f"ns-train peak --data {tmp_path}"
    viewer = f"ns-viewer --load-config {tmp_path}/runs/peak/run/config.yml"
    html = written(tmp_path, photos, training=Training(), commands=[train, viewer])
    words = Reader(html).words()
    assert "peak , 1,400 steps in 4 min 7 s; measured on 1 photo that it did not see." in words
    assert "22.13 dB PSNR 0.741 SSIM 0.213 LPIPS" in words
    assert re.findall(r'"command"><code>(.*?)</code>', html) == [viewer, train]
    sources = [image["src"] or "" for image in Reader(html).all("img")]
    assert sources[0].startswith("data:image/gif;base64,R0lGOD")
    assert sources[1].startswith("data:image/png;base64,iVBORw")

    monkeypatch.setattr(page, "EMBEDDED", 0)
    html = written(tmp_path, photos, training=replace(Training(), lpips=None, gif=None, seconds=12))
    assert "LPIPS" not in html
    assert "1,400 steps in 12 s" in html
    assert Reader(html).all("img")[0]["src"] == "side%20by%20side.png"


def test_a_folder_with_a_space_is_quoted_in_the_viewers_command(tmp_path: Path) -> None:
    folder = tmp_path / "my scene"
    html = written(folder, models.photos(folder), training=replace(Training(), gif=None, comparison=None))
    command = f"ns-viewer --load-config &#39;{folder}/runs/peak/run/config.yml&#39;"
    assert f"<code>{command}</code>" in html


@pytest.mark.parametrize("n_point", [0, 1])
def test_a_model_of_hardly_any_points(tmp_path: Path, n_point: int) -> None:
    model = empty()
    if n_point:
        keep = models.model().point_index == 0
        model = models.model(
            points=models.POINTS[:1],
            colors=np.zeros((1, 3), np.uint8),
            errors=np.array([0.25], np.float32),
            **{k: getattr(models.model(), k)[keep] for k in ("image_index", "point_index", "pixels", "pixel_errors")},
        )
    html = written(tmp_path, models.photos(tmp_path), model)
    words = Reader(html).words()
    assert f" {n_point} points {0.25 * n_point:.2f} px mean reprojection error {3.0 * n_point} photos" in words
    assert "nan" not in words.lower()
    assert words.count(f"used {n_point} points") == 3


def test_beyond_eighty_photos_no_matrix_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "MATRIX", 2)
    html = written(tmp_path, models.photos(tmp_path))
    assert 'class="matrix"' not in html
    assert "share points" not in html


def test_thumbnails_are_small_and_of_every_kind(tmp_path: Path) -> None:
    photos = models.photos(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (900, 1600, 4), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / models.FILES[0])
    Image.fromarray(noise[..., 0]).save(tmp_path / models.FILES[1])
    html = written(tmp_path, photos)
    dots = re.findall(r'<svg class="dots" viewBox="([^"]*)"', html)
    assert dots == ["0 0 320 180", "0 0 320 180", "0 0 80 60"]
    assert len(html) < 200_000


def test_a_copy_that_is_gone_and_a_picture_that_nobody_took(tmp_path: Path) -> None:
    photos = models.photos(tmp_path)
    with pytest.raises(ValueError, match=r"images/c\.png is in the model and not among the photos"):
        written(tmp_path, photos[:2])
    (tmp_path / models.FILES[1]).unlink()
    with pytest.raises(PeakError, match=r"images/b\.png: cannot be read .*; run `peak photos` again"):
        written(tmp_path, photos)
    assert not (tmp_path / "index.html").exists()
    models.photos(tmp_path)
    with pytest.raises(PeakError, match=r"flythrough\.gif: cannot be read"):
        written(tmp_path, photos, training=Training())


def test_camera_lines_by_hand() -> None:
    # The diagonal is 100 pixels: 43.27 mm * 40 / 100.
    assert camera_line(models.intrinsics()) == (
        "80 × 60 px, focal length 40 px (as 17 mm on 35 mm film); no distortion"
    )
    assert camera_line(models.intrinsics(fl_y=44.0, k1=-0.1)) == (
        "80 × 60 px, focal length 40 × 44 px (as 18 mm on 35 mm film); distortion -7.3 px in the corners (k1 -0.100)"
    )
    fisheye = Intrinsics(80, 60, {"fl_x": 40, "fl_y": 40, "cx": 40, "cy": 30, "k3": 0.01}, "OPENCV_FISHEYE")
    assert camera_line(fisheye) == "Fisheye, 80 × 60 px, focal length 40 px; k3 +0.010"


def test_different_cameras_are_listed_with_their_photos(tmp_path: Path) -> None:
    lenses = (models.intrinsics(), models.intrinsics(fl_x=50.0), models.intrinsics())
    words = Reader(written(tmp_path, models.photos(tmp_path), models.model(intrinsics=lenses))).words()
    assert words.index("focal length 40 px") < words.index("focal length 50 × 40 px")
    assert "no distortion · 2 photos" in words
    assert "no distortion · 1 photo " in words
