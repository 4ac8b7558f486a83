"""The fetch script against a server of our own: no test needs the network."""

from __future__ import annotations

import io
import json
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from peak_nerf.errors import PeakError
from tests.data_scripts.scripts import load_script

script = load_script("fetch_nerf_synthetic")


def archive(scenes: tuple[str, ...] = ("lego", "mic"), without: str = "") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("__MACOSX/nerf_synthetic/lego/train/r_0.png", b"junk")
        for scene in scenes:
            for split, n in {"train": 3, "val": 11, "test": 9}.items():
                frames = [{"file_path": f"./{split}/r_{i}", "transform_matrix": np.eye(4).tolist()} for i in range(n)]
                content = json.dumps({"camera_angle_x": 0.7, "frames": frames})
                file.writestr(f"nerf_synthetic/{scene}/transforms_{split}.json", content)
                for i in range(n):
                    picture = np.full((8, 8, 4), 10 * i, dtype=np.uint8)
                    png = io.BytesIO()
                    Image.fromarray(picture).save(png, "PNG")
                    name = f"nerf_synthetic/{scene}/{split}/r_{i}.png"
                    if name != without:
                        file.writestr(name, png.getvalue())
                    if split == "test":
                        file.writestr(f"nerf_synthetic/{scene}/test/r_{i}_depth_0001.png", b"not asked for")
    return buffer.getvalue()


class Server:
    """Serves one file, with ranges; what it was asked and what it does wrong can be read and set."""

    def __init__(self) -> None:
        self.data, self.cut, self.etag, self.kind = archive(), 0, '"one"', "application/zip"
        self.ranges: list[str | None] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                wanted = self.headers.get("Range")
                server.ranges.append(wanted)
                same = self.headers.get("If-Range", server.etag) == server.etag
                start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and same else 0
                if start >= len(server.data):
                    self.send_error(416)
                    return
                body = server.data[start:]
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Content-Type", server.kind)
                self.send_header("ETag", server.etag)
                self.end_headers()
                self.wfile.write(body[: server.cut] if server.cut else body)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/nerf_synthetic.zip"


@pytest.fixture
def server() -> Iterator[Server]:
    served = Server()
    thread = threading.Thread(target=served.http.serve_forever, daemon=True)
    thread.start()
    yield served
    served.http.shutdown()
    served.http.server_close()


def settings(server: Server, out: Path, **changes: object):
    return script.Settings(out, **{"scenes": ("lego", "mic"), "size": 4, "url": server.url, **changes})


def test_scenes_are_thinned_and_the_zip_is_gone(server: Server, tmp_path: Path, capsys) -> None:
    assert script.fetch(settings(server, tmp_path)) == {}
    lego = tmp_path / "nerf_synthetic" / "lego"
    counts = {split: len(list((lego / split).iterdir())) for split in ("train", "val", "test")}
    assert counts == {"train": 3, "val": 2, "test": 2}
    frames = json.loads((lego / "transforms_test.json").read_text())["frames"]
    assert [frame["file_path"] for frame in frames] == ["./test/r_0", "./test/r_8"]
    with Image.open(lego / "test" / "r_8.png") as picture:
        assert picture.size == (4, 4)
    source = json.loads((tmp_path / "nerf_synthetic" / "SOURCE.json").read_text())
    assert f"sha256 {source['sha256']} (unverified" in capsys.readouterr().out
    assert sorted(p.name for p in (tmp_path / "nerf_synthetic").iterdir()) == ["SOURCE.json", "lego", "mic"]
    server.ranges.clear()
    assert script.fetch(settings(server, tmp_path)) == {}
    assert server.ranges == []  # all there already


def test_a_cut_download_goes_on(server: Server, tmp_path: Path) -> None:
    server.cut = 1000
    with pytest.raises(PeakError, match="goes on from"):
        script.fetch(settings(server, tmp_path))
    server.cut = 0
    assert script.fetch(settings(server, tmp_path)) == {}
    assert server.ranges == [None, "bytes=1000-"]


def test_a_file_that_changed_meanwhile_comes_whole(server: Server, tmp_path: Path) -> None:
    server.cut = 1000
    with pytest.raises(PeakError):
        script.fetch(settings(server, tmp_path))
    server.cut, server.etag, server.data = 0, '"two"', archive(("mic", "lego"))
    assert script.fetch(settings(server, tmp_path)) == {}


def test_what_is_missing_is_named(server: Server, tmp_path: Path, capsys) -> None:
    server.data = archive(("lego",), without="nerf_synthetic/lego/train/r_2.png")
    missing = script.fetch(settings(server, tmp_path))
    assert missing == {
        "lego": "the zip has no lego/train/r_2.png",
        "mic": "the zip has no mic/transforms_train.json",
    }
    assert sorted(p.name for p in (tmp_path / "nerf_synthetic").iterdir()) == ["SOURCE.json", "nerf_synthetic.zip"]


def test_a_scene_with_a_gap_is_written_anew(server: Server, tmp_path: Path, capsys) -> None:
    script.fetch(settings(server, tmp_path, keep_zip=True))
    gap = tmp_path / "nerf_synthetic" / "lego" / "train" / "r_1.png"
    gap.unlink()
    assert script.fetch(settings(server, tmp_path)) == {}
    assert "lacks 1 files, such as ./train/r_1.png" in capsys.readouterr().out
    assert gap.is_file()
    assert len(server.ranges) == 1


def test_errors(server: Server, tmp_path: Path) -> None:
    with pytest.raises(PeakError, match="there are chair"):
        script.fetch(settings(server, tmp_path, scenes=("legos",)))
    with pytest.raises(PeakError, match="no such file"):
        script.fetch(settings(server, tmp_path, zip=tmp_path / "none.zip"))
    with pytest.raises(PeakError, match="instead of 00; not the file"):
        script.fetch(settings(server, tmp_path / "a", sha256="00"))
    server.kind = "text/html"
    with pytest.raises(PeakError, match="web page instead of the file"):
        script.fetch(settings(server, tmp_path / "b"))
    server.kind = "application/zip"
    (tmp_path / "broken.zip").write_bytes(b"PK broken")
    with pytest.raises(PeakError, match="is no whole zip"):
        script.fetch(settings(server, tmp_path / "c", zip=tmp_path / "broken.zip"))
    assert script.fetch(settings(server, tmp_path / "d", size=3)) == dict.fromkeys(
        ("lego", "mic"), "--size 3: the pictures are 8 x 8; give a divisor of 8"
    )


def test_shrinking_weighs_colour_by_alpha() -> None:
    """Two opaque red pixels and two transparent blue ones: half-transparent red."""
    block = np.array([[[255, 0, 0, 255], [0, 0, 255, 0]], [[0, 0, 255, 0], [255, 0, 0, 255]]], dtype=np.uint8)
    assert script.shrunk(block, 1).tolist() == [[[255, 0, 0, 128]]]
