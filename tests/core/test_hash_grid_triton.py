"""The Triton grid, without a GPU: its values under the interpreter, and whether it compiles for GPUs."""

from pathlib import Path

from tests.interpreted import needs_triton, run


@needs_triton
def test_kernels_equal_the_plain_grid(tmp_path: Path) -> None:
    assert run(["-m", "tests.core.triton_grid"], tmp_path).count("ok") == 8


@needs_triton
def test_kernels_compile_for_gpus(tmp_path: Path) -> None:
    assert run(["-m", "tests.triton_compiled"], tmp_path, interpret=False).count("ok") == 18
