"""Compiles all of our Triton kernels down to a GPU's code, for which none is needed: `python -m tests.triton_compiled`.

The interpreter runs much that the compiler refuses.
"""

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from peak_nerf.core import hash_grid_triton as grid
from peak_nerf.nerf.render import marcher_triton as marcher
from peak_nerf.nerf.render import volrend_triton as volrend

NEWEST, OLDEST = 90, 80
"""Compute capabilities, of an H100 and an A100. All kernels are compiled for the first, a few for the other too."""
TYPES = dict.fromkeys(("n", "n_levels", "n_rays", "n_rows", "resolution", "budget"), "i32")
TYPES |= dict.fromkeys(("dt", "cone", "reference", "opaque", "explore"), "fp32")
TYPES |= dict.fromkeys(("levels_ptr", "ends_ptr", "ray_ptr", "cell_ptr", "starts_ptr"), "*i64")
TYPES |= dict.fromkeys(("found_ptr", "taken_ptr"), "*i32") | dict.fromkeys(("candidates_ptr", "blocks_ptr"), "*u8")
TYPES |= {"total_ptr": "*fp64"}
"""Of arguments by name; pointers are to float32 where nothing else is said."""


def compiled(
    kernel, constants: dict, types: dict | None = None, num_warps: int = 4, architectures: tuple[int, ...] = (NEWEST,)
) -> None:
    types = TYPES | (types or {})
    signature = {name: "constexpr" if name in constants else types.get(name, "*fp32") for name in kernel.arg_names}
    for architecture in architectures:
        binary = triton.compile(
            ASTSource(fn=kernel, signature=signature, constexprs=constants),
            target=GPUTarget("cuda", architecture, 32),
            options={"num_warps": num_warps},
        )
        assert binary.asm["cubin"]
    print("ok", kernel.__name__, constants)


if __name__ == "__main__":
    single = {"ACC": tl.float32, "BLOCK": grid.BLOCK}
    for kernel in (grid._forward, grid._table_gradient, grid._input_gradient):
        compiled(kernel, {"D": 3, "F": 2, **single}, architectures=(NEWEST, OLDEST))
        compiled(kernel, {"D": 4, "F": 3, **single, "n": 1})  # arguments of 1 are constants, too
    compiled(grid._forward, {"D": 1, "F": 1, **single}, {"table_ptr": "*fp16"})
    double = dict.fromkeys(("x_ptr", "table_ptr", "slope_ptr", "out_ptr", "grad_ptr"), "*fp64")
    compiled(grid._table_gradient, {"D": 2, "F": 2, **single, "ACC": tl.float64}, double)
    tile = {"R": volrend.RAYS, "S": volrend.SAMPLES}
    compiled(volrend._weights, tile)
    compiled(volrend._weights_gradient, tile)
    compiled(volrend._weights_gradient, {**tile, "n_rays": 1})
    compiled(volrend._accumulate, {**tile, "C": 3}, architectures=(NEWEST, OLDEST))
    for cascades, grows, limited in ((1, False, False), (6, True, True)):
        for mode in (marcher.COUNT, marcher.CHOOSE, marcher.WRITE):
            if limited or mode.value != marcher.CHOOSE.value:
                constants = {"K": cascades, "GROWS": grows, "LIMITED": limited, "BLUR": 2, "MODE": mode.value}
                compiled(marcher._march, {**constants, "BLOCK": marcher.RAYS}, num_warps=1)
    compiled(marcher._march, {**constants, "BLOCK": marcher.RAYS, "n_rays": 1, "budget": 1}, num_warps=1)
