"""The photographs of configs/studies/colour.yaml lie where the suite looks for them."""

from pathlib import Path

import numpy as np
from PIL import Image
from ruamel.yaml import YAML
from skimage import data

from data_scripts.write_photographs import write

SUITE = Path(__file__).parents[2] / "configs" / "studies" / "colour.yaml"


def test_the_suite_finds_them_as_they_were(tmp_path: Path) -> None:
    write(tmp_path)
    for name in YAML(typ="safe").load(SUITE)["data"]["image"]:
        found = np.asarray(Image.open(tmp_path / "images" / f"{name}.png"))
        np.testing.assert_array_equal(found, getattr(data, name)())
