"""The fetch script against a server of our own: no test needs the network."""

from __future__ import annotations

import hashlib
import io
import re
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from peak_nerf.errors import PeakError
from tests.data_scripts.scripts import FOLDER, load_script

SCRIPT = FOLDER / "fetch_test_images.py"
GREY = np.random.default_rng(0).integers(0, 256, (512, 512), dtype=np.uint8)
RGB = np.random.default_rng(1).integers(0, 256, (256, 256, 3), dtype=np.uint8)


script = load_script("fetch_test_images")
Source = script.Source


def tiff(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "TIFF")
    return buffer.getvalue()


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("__MACOSX/pictures/lake.tif", b"junk")
        file.writestr("pictures/lake.tif", tiff(GREY))
        file.writestr("pictures/jetplane.tif", tiff(GREY[::-1]))
    return buffer.getvalue()


FILES = {
    "/grey": tiff(GREY),
    "/rgb": tiff(RGB),
    "/zip": archive(),
    "/sorry": b"<html>File not found</html>",
    "/small": tiff(GREY[:100, :100]),
    "/wide": tiff(GREY[:300]),
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str]]]:
    """Address of a server with `FILES`, and the paths it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            if self.path == "/slow":
                time.sleep(1.0)
                return
            data = FILES.get(self.path, FILES["/grey"] if self.path == "/cut" else None)
            if data is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[:1000] if self.path == "/cut" else data)

        def log_message(self, *_: object) -> None:
            pass

    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}", asked
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def test_the_table() -> None:
    assert list(script.SOURCES) == ["baboon", "boat", "cameraman", "jetplane", "lake", "livingroom"]
    for source in (source for sources in script.SOURCES.values() for source in sources):
        assert source.url.startswith(("https://", "http://"))
        assert source.sha256 is None or len(bytes.fromhex(source.sha256)) == 32
        assert (source.member is not None) == source.url.endswith(".zip")


def test_pictures_come_grey_small_and_once(server, tmp_path, monkeypatch, capsys) -> None:
    url, asked = server
    digest = hashlib.sha256(FILES["/rgb"]).hexdigest()
    sources = {
        "boat": (Source(url + "/grey"),),
        "baboon": (Source(url + "/rgb", digest),),
        "lake": (Source(url + "/zip", member="lake.tif"),),
        "jetplane": (Source(url + "/zip", member="jetplane.tif"),),
    }
    monkeypatch.setattr(script, "SOURCES", sources)
    out = tmp_path / "pictures"
    assert script.fetch(script.Settings(out)) == []
    assert sorted(p.name for p in out.iterdir()) == ["baboon.png", "boat.png", "jetplane.png", "lake.png"]
    pictures = {name: np.asarray(Image.open(out / f"{name}.png")) for name in sources}
    blocks = GREY.reshape(256, 2, 256, 2).mean(axis=(1, 3))
    luma = RGB @ [0.299, 0.587, 0.114]
    for name, expected in (("boat", blocks), ("baboon", luma), ("lake", blocks), ("jetplane", blocks[::-1])):
        assert pictures[name].shape == (256, 256)
        assert np.abs(pictures[name] - expected).max() <= 0.51  # rounded to 8 bits
    assert asked.count("/zip") == 1
    said = capsys.readouterr().out
    assert f"{url}/grey: unverified, sha256 {hashlib.sha256(FILES['/grey']).hexdigest()}" in said
    assert f"{url}/rgb: unverified" not in said

    asked.clear()
    (out / "boat.png").unlink()
    assert script.fetch(script.Settings(out)) == []
    assert asked == ["/grey"]
    assert f"{out / 'lake.png'}: there already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("path", "options", "reason"),
    [
        ("/nothing", {}, "cannot be fetched .*404"),
        ("/slow", {}, "cannot be fetched .*; check the network"),
        ("/cut", {}, "cannot be fetched|1000 of"),
        ("/sorry", {}, "/sorry: not a picture that can be read"),
        ("/grey", {"sha256": "0" * 64}, "has sha256 [0-9a-f]{64} instead of 0{64}; not the file it was"),
        ("/grey", {"member": "lake.tif"}, "is no readable zip"),
        ("/zip", {"member": "boat.tif"}, "holds no boat.tif"),
        ("/small", {}, "is 100 x 100 pixels"),
        ("/wide", {}, "is 512 x 300 pixels"),
    ],
)
def test_what_cannot_be_had(path, options, reason, server, tmp_path, monkeypatch, capsys) -> None:
    """The others are fetched all the same, and nothing half-made is left."""
    url, _ = server
    sources = {"lake": (Source(url + path, **options),), "boat": (Source(url + "/grey"),)}
    monkeypatch.setattr(script, "SOURCES", sources)
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--out", str(tmp_path / "out"), "--timeout", "0.3"])
    with pytest.raises(SystemExit) as end:
        script.main()
    assert end.value.code == 1
    said = capsys.readouterr().err
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["boat.png"]
    first, last = said.strip().splitlines()
    assert first.startswith("lake: not had. ")
    assert re.search(reason, first)
    assert last.startswith("1 of 2 missing: lake.")


def test_the_second_address_helps_out(server, tmp_path, monkeypatch) -> None:
    url, asked = server
    monkeypatch.setattr(script, "SOURCES", {"boat": (Source(url + "/sorry"), Source(url + "/grey"))})
    assert script.fetch(script.Settings(tmp_path)) == []
    assert asked == ["/sorry", "/grey"]


def test_too_large_a_file(server, tmp_path, monkeypatch, capsys) -> None:
    url, _ = server
    monkeypatch.setattr(script, "MAX_BYTES", 1000)
    monkeypatch.setattr(script, "SOURCES", {"boat": (Source(url + "/grey"),)})
    assert script.fetch(script.Settings(tmp_path)) == ["boat"]
    assert "is larger than" in capsys.readouterr().err


def test_settings_that_cannot_be(server, tmp_path, monkeypatch) -> None:
    url, _ = server
    monkeypatch.setattr(script, "SOURCES", {"boat": (Source(url + "/grey"),)})
    with pytest.raises(PeakError, match="--timeout: must be above 0"):
        script.fetch(script.Settings(tmp_path, timeout=0))
    (tmp_path / "file").touch()
    with pytest.raises(PeakError, match="cannot be written"):
        script.fetch(script.Settings(tmp_path / "file"))


def test_help() -> None:
    result = subprocess.run([sys.executable, SCRIPT, "--help"], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0
    assert "--out" in result.stdout
    assert "--timeout" in result.stdout
