"""What the profile of a training is added up by."""

import json

import pytest
import torch

from benchmarks.photos import PARTS, Settings, main, part_of, profiled
from peak_nerf.core.hash_grid import HashGridEncoding
from peak_nerf.errors import PeakError
from tests.nerf.scene_factory import write_nerfstudio_scene


@pytest.mark.parametrize(
    ("file", "function", "part"),
    [
        ("/x/peak_nerf/core/hash_grid_numba.py", "forward", "hash grid"),
        ("/x/peak_nerf/core/relu_mlp_numba.py", "backward", "networks"),
        ("/x/peak_nerf/nerf/render/marcher_numba.py", "sample", "choosing samples"),
        ("~", "<built-in method torch._fused_adam_>", "Adam"),
        ("/x/torch/functional.py", "norm", "the rest"),
    ],
)
def test_functions_are_counted_for_what_they_do(file: str, function: str, part: str) -> None:
    assert part_of(file, function) == part


def test_fractions_follow_the_work() -> None:
    encoding = HashGridEncoding(3, n_levels=8, n_features=2, log2_table_size=14, implementation="auto")
    x = torch.rand(20_000, 3)
    encoding(x)
    _, spent = profiled(lambda: [encoding(x) for _ in range(20)] and None)
    assert set(spent) == {*PARTS, "the rest"}
    assert sum(spent.values()) == pytest.approx(1)
    assert spent["hash grid"] > 0.5
    assert spent["Adam"] == spent["networks"] == 0


def test_a_scene_is_profiled(tmp_path) -> None:
    write_nerfstudio_scene(tmp_path / "photos", n=9, size=32)
    settings = Settings(tmp_path / "photos", early_steps=2, warmup_steps=5, late_steps=2, out=tmp_path / "figures.json")
    main(settings)
    from nerfstudio.utils import writer  # after the trainer: nerfstudio imports itself in a circle

    # They would outlive the folder, and every later trainer of the process writes to them.
    event_files = [w for w in writer.EVENT_WRITERS if isinstance(w, writer.TensorboardWriter)]
    assert not [w for w in event_files if "/speed/" in str(w.tb_writer.log_dir)]
    figures = json.loads(settings.out.read_text())
    for when in ("early", "late"):
        assert 0 < figures[when]["samples_per_ray"] <= 33
        assert figures[when]["candidates_per_ray"] >= figures[when]["samples_per_ray"] / 2
        assert figures[when]["rays_per_s"] > 0
    assert figures["early"]["step_lengths"] > figures["late"]["step_lengths"] >= 1
    assert (figures["frame"]["width"], figures["frame"]["height"]) == (32, 32)


def test_no_scene_is_one_line(tmp_path) -> None:
    with pytest.raises(PeakError, match="nowhere: no such folder"):
        main(Settings(tmp_path / "nowhere"))
