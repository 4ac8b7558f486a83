"""`benchmarks/gpu.py --quick` where nothing is installed but what it says that it needs."""

import runpy
import sys
from pathlib import Path

HIDDEN = (
    "nerfstudio", "jaxtyping", "beartype", "pydantic", "tyro", "rich", "numba", "scipy", "cv2", "skimage",
    "torchmetrics", "torchvision", "safetensors", "matplotlib", "ruamel", "tifffile", "threadpoolctl", "pycolmap",
    "plyfile",
)  # fmt: skip


class Without:
    """A finder of modules that does not find those."""

    def __init__(self, finder) -> None:
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in HIDDEN else self.finder.find_spec(name, path, target)


if __name__ == "__main__":
    sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
    from tests.quick_interpreter import quicken

    quicken()
    sys.argv = ["benchmarks/gpu.py", "--quick", "--data", *sys.argv[1:]]
    runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "gpu.py"), run_name="__main__")
