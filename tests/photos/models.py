"""A capture made by hand: three cameras 2 above a plate with four points, looking straight down."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from peak_nerf.photos.model import Intrinsics, Photo, SparseModel

WIDTH, HEIGHT, FOCAL = 80, 60, 40.0
FILES = ("images/a.png", "images/b.png", "images/c.png")
CENTRES = np.array([[0.0, 0.0, 2.0], [0.4, 0.0, 2.0], [0.0, 0.4, 2.0]])
POINTS = np.array([[0.0, 0.0, 0.0], [0.5, 0.0, 0.0], [0.0, 0.5, 0.0], [-0.5, 0.5, 1.0]])
SEEN = ((0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (0, 2), (2, 2), (0, 3), (1, 3))  # (image, point)

# Camera a's picture: x = 40 + 40 X / depth, y = 30 - 40 Y / depth; b's is moved by 0.4 in X, c's in Y.
PIXELS = np.array([[40, 30], [32, 30], [40, 38], [50, 30], [42, 30], [40, 20], [40, 28], [20, 10], [4, 10]])
DEPTHS = np.array([2, 2, 2, 2, 2, 2, 2, 1, 1])


def intrinsics(**changes: float) -> Intrinsics:
    values = {"fl_x": FOCAL, "fl_y": FOCAL, "cx": WIDTH / 2, "cy": HEIGHT / 2, "k1": 0.0, "k2": 0.0, "p1": 0.0, "p2": 0}
    return Intrinsics(WIDTH, HEIGHT, values | changes)


def model(**changes: object) -> SparseModel:
    poses = np.tile(np.eye(4), (3, 1, 1))  # x right, y up, looking along -z
    poses[:, :3, 3] = CENTRES
    image_index, point_index = np.array(SEEN, dtype=np.int32).T
    values = {
        "files": FILES,
        "poses": poses,
        "intrinsics": (intrinsics(),) * 3,
        "points": POINTS,
        "colors": np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [10, 20, 30]], dtype=np.uint8),
        "errors": np.array([0.25, 0.5, 0.75, 1.0], dtype=np.float32),
        "image_index": image_index,
        "point_index": point_index,
        "pixels": PIXELS.astype(np.float32),
        "pixel_errors": np.linspace(0.1, 0.9, 9).astype(np.float32),
    }
    return SparseModel(**(values | changes))  # type: ignore[arg-type]


def photos(folder: Path, names: tuple[str, ...] = ("a.jpg", "b.jpg", "c.jpg")) -> list[Photo]:
    """With their copies in `folder`/images, each of one colour."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    made = []
    for i, (name, file) in enumerate(zip(names, FILES, strict=True)):
        Image.new("RGB", (WIDTH, HEIGHT), (40 + 60 * i, 90, 120)).save(folder / file)
        made.append(Photo(name=name, file=file, size=(WIDTH, HEIGHT)))
    return made
