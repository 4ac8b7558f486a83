"""The Triton grid in the interpreter, against the plain one: `TRITON_INTERPRET=1 python -m tests.core.triton_grid`."""

import pytest
import torch
from torch import Tensor

from peak_nerf.core.hash_grid import HashGridEncoding, choose_implementation
from tests.quick_interpreter import quicken

SIZES = {"n_levels": 3, "log2_table_size": 8, "base_resolution": 4, "finest_resolution": 24}


def edge_inputs(in_dim: int) -> Tensor:
    """Random positions; corners of the box and vertices of the first level; outside; NaN in one coordinate or all."""
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * in_dim).reshape(-1, in_dim)
    others = torch.tensor([0.25, 0.5, 0.75, -0.5, -1e-6, 1 + 1e-6, 7.0, float("nan"), float("inf"), -float("inf")])
    one_nan = torch.rand(1, in_dim)
    one_nan[0, -1] = float("nan")
    return torch.cat([torch.rand(60, in_dim), corners, others[:, None].expand(-1, in_dim), one_nan])


def pair(in_dim: int, dtype: torch.dtype, **options) -> tuple[HashGridEncoding, HashGridEncoding]:
    """The same random grid by Triton's kernels and in plain torch; the one loads the other's state."""
    plain = HashGridEncoding(in_dim, init_scale=1.0, implementation="torch", **SIZES | options).to(dtype)
    kernels = HashGridEncoding(in_dim, implementation="triton", **SIZES | options).to(dtype)
    kernels.load_state_dict(plain.state_dict())
    return kernels, plain


def values_and_gradients(grid: HashGridEncoding, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x = x.clone().requires_grad_(True)
    out = grid(x)
    (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape)).sum().backward()
    return out.detach(), grid.table.grad, x.grad


def assert_agree(in_dim: int, x: Tensor, dtype: torch.dtype = torch.float32, **options) -> None:
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    kernels, plain = pair(in_dim, dtype, **options)
    for ours, theirs in zip(values_and_gradients(kernels, x), values_and_gradients(plain, x), strict=True):
        # Input gradients grow with the resolution: compare them relative to it.
        scale = max(1.0, theirs.abs().max().item() if theirs.numel() else 1.0)
        assert ours.dtype == theirs.dtype
        assert torch.allclose(ours, theirs, atol=tolerance * scale, rtol=0), (in_dim, (ours - theirs).abs().max())


def check_kernels_agree_with_torch() -> None:
    for in_dim, n_features, hash_all in ((1, 2, False), (2, 1, True), (3, 2, False), (3, 3, True), (4, 2, False)):
        n_levels = 2 if in_dim == 4 else 3
        assert_agree(in_dim, edge_inputs(in_dim), n_features=n_features, n_levels=n_levels, hash_all_levels=hash_all)


def check_float64() -> None:
    assert_agree(2, edge_inputs(2).double(), torch.float64)


def check_no_points_and_views_of_others() -> None:
    assert_agree(3, torch.empty(0, 3))
    assert_agree(2, torch.rand(40, 6)[::2, ::3])


def check_box_of_another_place() -> None:
    assert_agree(2, 2 * torch.rand(30, 2) - 1, low=-1.0, high=1.0)


def check_half_precision_reads_rounded_entries_and_leaves_the_table() -> None:
    kernels, plain = pair(3, torch.float32)
    kernels.read_in_half()
    before = kernels.table.detach().clone()
    plain.table.data.copy_(plain.table.half().float())
    x = torch.rand(50, 3)
    ours, theirs = values_and_gradients(kernels, x), values_and_gradients(plain, x)
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == torch.float32
        assert torch.allclose(a, b, atol=1e-5 * max(1.0, b.abs().max().item()), rtol=0)
    assert torch.equal(kernels.table, before)


def check_states_go_from_one_to_the_other() -> None:
    """A field trained on a GPU opens on a CPU, and the other way round."""
    compiled = HashGridEncoding(3, init_scale=1.0, implementation="numba", **SIZES)
    kernels = HashGridEncoding(3, implementation="triton", **SIZES)
    kernels.load_state_dict(compiled.state_dict())
    x = edge_inputs(3)
    assert torch.allclose(kernels(x), compiled(x), atol=1e-6)
    compiled.load_state_dict(kernels.state_dict())


def check_what_is_chosen() -> None:
    assert choose_implementation("auto", "cpu") == ("triton", "Triton's interpreter")
    assert choose_implementation("auto", "cpu", 5)[0] == "numba"


def check_too_many_numbers() -> None:
    kernels, _ = pair(3, torch.float32)
    with pytest.raises(ValueError, match="fewer at a time"):
        kernels(torch.empty(1, 3).expand(2**30, 3))


if __name__ == "__main__":
    quicken()
    for name, check in list(globals().items()):
        if name.startswith("check_"):
            torch.manual_seed(0)
            check()
            print("ok", name)
