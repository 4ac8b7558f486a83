"""Triton's sampler and compositing, without a GPU; that they compile is in `tests/core/test_hash_grid_triton.py`."""

from pathlib import Path

from tests.interpreted import needs_triton, run


@needs_triton
def test_kernels_equal_the_plain_ones(tmp_path: Path) -> None:
    assert run(["-m", "tests.nerf.render.triton_rendering"], tmp_path).count("ok") == 15
