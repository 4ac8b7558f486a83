"""A training that ends with an empty field, or with fog, says so and why."""

import math
from pathlib import Path

import pytest
import torch

from peak_nerf.nerf.train.outcome import Seen, line_of, look
from tests.nerf.runs import start, tiny_config, train

NOTHING, ALL = torch.zeros(10), torch.ones(10)
HALF = torch.tensor([0.0, 1.0]).repeat(5)


@pytest.mark.parametrize(
    ("seen", "steps", "expected"),
    [
        (Seen(HALF, HALF, 0.1), 30, None),
        (Seen(ALL, None, 0.3), 5000, None),  # photos
        (Seen(ALL, ALL, 0.3), 5000, None),
        (
            Seen(NOTHING, None, 1.0),
            30,
            "the field is empty: every training view shows nothing after 30 steps",
        ),
        (Seen(0.04 * ALL, HALF, 1.0), 5000, "shows nothing; the poses or the lens do not belong to the pictures"),
        (Seen(NOTHING, NOTHING, math.nan), 5000, "empty, as the training pictures are: their alpha channel hides all"),
        (Seen(ALL, HALF, 0.1), 5000, "the field is fog: it hides everything before every training view; the poses"),
        (Seen(ALL, None, 0.95), 5000, "the field is fog"),
        (Seen(0.06 * ALL, None, 1.0), 5000, None),
    ],
)
def test_lines(seen: Seen, steps: int, expected: str | None) -> None:
    line = line_of(seen, steps)
    assert (line is None) == (expected is None)
    assert expected is None or expected in str(line)


def test_the_training_says_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pictures that are wholly transparent leave an empty field."""
    from PIL import Image

    config = tiny_config(tmp_path, steps=100)
    for path in (tmp_path / "scene" / "train").iterdir():
        Image.new("RGBA", (32, 32), (0, 0, 0, 0)).save(path)
    config.viewer.quit_on_train_completion = True
    trainer = start(config)
    trainer.train()
    assert "peak: the field is empty" in capsys.readouterr().out
    seen = look(trainer.pipeline.model, trainer.pipeline.datamanager.train_dataset)
    assert seen.alpha is not None
    assert seen.alpha.max() == 0
    assert seen.accumulation.shape == seen.alpha.shape == (8 * 16 * 16,)
    assert trainer.pipeline.model.training


def test_pictures_with_alpha_are_compared_before_their_background(tmp_path: Path) -> None:
    """A ball learned for a second is closer to its pictures than one colour is: the transparent in them is white."""
    trainer = train(tiny_config(tmp_path, steps=60, photo_residuals=0))
    seen = look(trainer.pipeline.model, trainer.pipeline.datamanager.train_dataset)
    assert seen.error < 0.5


def test_the_photos_residuals_hide_nothing(tmp_path: Path) -> None:
    trainer = train(tiny_config(tmp_path, steps=5))
    model, dataset = trainer.pipeline.model, trainer.pipeline.datamanager.train_dataset
    assert model.residuals is not None
    with_them = look(model, dataset).error
    model.residuals = None
    assert look(model, dataset).error == pytest.approx(with_them, rel=1e-6)
