"""The grid's implementations agree with each other, with nerfstudio's own, and with values worked out by hand."""

import sys
import types

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peak_nerf.core.hash_grid import HashGridEncoding, choose_implementation, tcnn_config
from peak_nerf.errors import PeakError
from peak_nerf.system import accelerator


def pair(in_dim: int, dtype: torch.dtype = torch.float32, **options) -> tuple[HashGridEncoding, HashGridEncoding]:
    """The same random grid as a numba and as a torch module."""
    options = {"n_levels": 6, "log2_table_size": 10, "base_resolution": 4, "finest_resolution": 64, **options}
    compiled = HashGridEncoding(in_dim, init_scale=1.0, implementation="numba", **options).to(dtype)
    plain = HashGridEncoding(in_dim, implementation="torch", **options).to(dtype)
    plain.load_state_dict(compiled.state_dict())
    return compiled, plain


def values_and_gradients(grid: HashGridEncoding, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x = x.clone().requires_grad_(True)
    out = grid(x)
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape)
    (out * weight).sum().backward()
    assert x.grad is not None
    assert grid.table.grad is not None
    return out.detach(), grid.table.grad, x.grad


def assert_agree(in_dim: int, x: torch.Tensor, dtype: torch.dtype = torch.float32, **options) -> None:
    compiled, plain = pair(in_dim, dtype, **options)
    for ours, theirs in zip(values_and_gradients(compiled, x), values_and_gradients(plain, x), strict=True):
        # Input gradients grow with the resolution: compare them relative to it.
        scale = max(1.0, theirs.abs().max().item() if theirs.numel() else 1.0)
        assert ours.dtype == theirs.dtype
        assert torch.allclose(ours, theirs, atol=1e-5 * scale, rtol=0), (ours - theirs).abs().max()


@pytest.mark.parametrize("in_dim", [1, 2, 3, 4])
@pytest.mark.parametrize("n_features", [1, 2, 3, 4])
def test_numba_agrees_with_torch_on_random_input(in_dim: int, n_features: int) -> None:
    torch.manual_seed(0)
    # Kinks at cell walls make input gradients jump: keep the positions off the walls of every level.
    assert_agree(in_dim, torch.rand(700, in_dim), n_features=n_features)


@pytest.mark.parametrize("hash_all_levels", [False, True])
@pytest.mark.parametrize("in_dim", [2, 3])
def test_numba_agrees_with_torch_at_edges(in_dim: int, hash_all_levels: bool) -> None:
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * in_dim)
    vertices = torch.tensor([0.25, 0.5, 0.75, 1 / 4]).repeat(in_dim, 1).T
    outside = torch.tensor([-0.5, -1e-6, 1 + 1e-6, 7.0]).repeat(in_dim, 1).T
    assert_agree(in_dim, torch.cat([corners, vertices, outside]), hash_all_levels=hash_all_levels)


def test_empty_batch() -> None:
    assert_agree(3, torch.empty(0, 3))


def test_float64_and_non_contiguous_input() -> None:
    torch.manual_seed(1)
    assert_agree(3, torch.rand(3, 300, dtype=torch.float64).T, torch.float64)
    assert_agree(3, torch.rand(600, 6)[::2, ::2])
    # float32 positions into a float64 table come back as float32.
    compiled, _ = pair(3, torch.float64)
    assert compiled(torch.rand(5, 3)).dtype == torch.float32


def test_nan_reads_nothing_outside_the_table() -> None:
    compiled, plain = pair(3)
    x = torch.full((4, 3), float("nan"))
    assert torch.equal(compiled(x), compiled(torch.zeros(4, 3)))
    assert torch.equal(plain(x), plain(torch.zeros(4, 3)))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1.5, 2.5, width=32), min_size=2, max_size=2))
def test_value_is_the_bilinear_interpolation(position: list[float]) -> None:
    """One dense level with 4 cells per side, against interpolation written out."""
    grid = HashGridEncoding(
        2, n_levels=1, n_features=1, base_resolution=4, finest_resolution=4, init_scale=1.0, implementation="numba"
    )
    table = grid.table.detach().reshape(5, 5)  # [second coordinate, first coordinate]
    px, py = (min(max(p, 0.0), 1.0) * 4 for p in position)
    ix, iy = min(int(px), 3), min(int(py), 3)
    wx, wy = px - ix, py - iy
    lower = (1 - wx) * table[iy, ix] + wx * table[iy, ix + 1]
    upper = (1 - wx) * table[iy + 1, ix] + wx * table[iy + 1, ix + 1]
    expected = (1 - wy) * lower + wy * upper
    assert grid(torch.tensor([position], dtype=torch.float32)).item() == pytest.approx(expected.item(), abs=1e-5)


def test_equals_nerfstudio_when_every_level_is_hashed() -> None:
    from nerfstudio.field_components.encodings import HashEncoding

    theirs = HashEncoding(
        num_levels=8, min_res=16, max_res=512, log2_hashmap_size=14, features_per_level=2, implementation="torch"
    )
    theirs.hash_table.data.uniform_(-1, 1)
    x = torch.rand(500, 3)
    expected = theirs(x)
    expected.square().sum().backward()
    for implementation in ("numba", "torch"):
        ours = HashGridEncoding(
            3,
            n_levels=8,
            log2_table_size=14,
            base_resolution=16,
            finest_resolution=512,
            hash_all_levels=True,
            implementation=implementation,
        )
        ours.table.data.copy_(theirs.hash_table.data)
        out = ours(x)
        assert torch.allclose(out, expected, atol=1e-5)
        out.square().sum().backward()
        assert torch.allclose(ours.table.grad, theirs.hash_table.grad, atol=1e-4)


def test_checkpoint_of_another_layout_is_refused() -> None:
    grid = HashGridEncoding(3, n_levels=4, implementation="torch")
    state = grid.state_dict()
    other = HashGridEncoding(3, n_levels=4, finest_resolution=2048, implementation="torch")
    with pytest.raises(PeakError, match="finest_resolution 1024"):
        other.load_state_dict(state)
    state["layout"] = state["layout"].clone()
    state["layout"][0] = 1  # as tiny-cuda-nn would have written it
    with pytest.raises(PeakError, match="layout \\(tcnn"):
        grid.load_state_dict(state)


def test_auto_says_what_it_took_and_why(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="peak_nerf"):
        HashGridEncoding(2, n_levels=2)
    assert len(caplog.records) == 1
    assert "numba (CPU," in caplog.text


def test_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_implementation("auto", "cpu")[0] == "numba"
    assert choose_implementation("torch", "cpu") == ("torch", "asked for")
    with pytest.raises(PeakError, match="not CUDA"):
        choose_implementation("tcnn", "cpu")
    with pytest.raises(PeakError, match="CPU only"):
        choose_implementation("numba", "cuda")
    with pytest.raises(PeakError, match="'triton': the device is not CUDA; use implementation 'auto' or 'torch'"):
        choose_implementation("triton", "cpu")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert choose_implementation("auto", "cpu") == ("torch", "numba is not installed")
    assert choose_implementation("auto", "mps") == ("torch", "numba is not installed")
    chosen, why = choose_implementation("auto", "cuda")
    assert chosen == "torch"
    assert why.startswith("Triton is not installed")
    with pytest.raises(PeakError, match="'triton': Triton is not installed"):
        choose_implementation("triton", "cuda")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr(accelerator, "launcher_needs", lambda: None)
    assert choose_implementation("auto", "cuda") == ("triton", "CUDA and Triton are here")
    assert choose_implementation("auto", "cuda", 5) == ("torch", "its kernels have up to 4 dimensions")
    assert choose_implementation("tcnn", "cuda") == ("tcnn", "asked for")
    monkeypatch.setattr(accelerator, "launcher_needs", lambda: "Triton needs a C compiler")
    assert choose_implementation("auto", "cuda") == ("torch", "Triton needs a C compiler")


def test_a_gpu_that_triton_does_not_compile_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "launcher_needs", lambda: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    assert choose_implementation("auto", "cuda") == ("torch", "the GPU is older than what Triton compiles for")


def test_half_precision_is_tritons() -> None:
    with pytest.raises(PeakError, match="half precision is of implementation 'triton', this grid's is 'numba'"):
        HashGridEncoding(3, n_levels=2, half_precision=True)


def test_what_tiny_cuda_nn_is_handed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contract: the configuration and shapes of tinycudann.Encoding, played by a recorder."""
    calls: dict = {}

    class Encoding(torch.nn.Module):
        def __init__(self, n_input_dims: int, encoding_config: dict, dtype: torch.dtype) -> None:
            super().__init__()
            calls.update(n_input_dims=n_input_dims, config=encoding_config, dtype=dtype)
            self.n_output_dims = encoding_config["n_levels"] * encoding_config["n_features_per_level"]
            self.params = torch.nn.Parameter(torch.zeros(8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            calls["input"] = tuple(x.shape)
            return torch.zeros(x.shape[0], self.n_output_dims, dtype=torch.float16)

    fake = types.ModuleType("tinycudann")
    fake.Encoding = Encoding  # type: ignore[attr-defined]
    fake.__spec__ = object()  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "tinycudann", fake)
    asked: dict = {"implementation": "tcnn", "device": "cuda"}
    grid = HashGridEncoding(3, n_levels=16, log2_table_size=19, finest_resolution=2048, **asked)
    assert grid.implementation == "tcnn"
    out = grid(torch.rand(7, 3))
    assert out.shape == (7, 32)
    assert out.dtype == torch.float32
    growth = (2048 / 16) ** (1 / 15)
    assert calls == {
        "n_input_dims": 3,
        "dtype": torch.float32,
        "input": (7, 3),
        "config": {
            "otype": "HashGrid",
            "n_levels": 16,
            "n_features_per_level": 2,
            "log2_hashmap_size": 19,
            "base_resolution": 16,
            "per_level_scale": growth,
            "interpolation": "Linear",
        },
    }
    assert tcnn_config(16, 2, 19, 16, growth) == calls["config"]
    with pytest.raises(PeakError, match="hash_all_levels"):
        HashGridEncoding(3, hash_all_levels=True, **asked)


@pytest.mark.parametrize("bad", [{"in_dim": 0}, {"in_dim": 9}, {"n_levels": 0}, {"finest_resolution": 2}])
def test_sizes_that_make_no_grid(bad: dict) -> None:
    with pytest.raises(ValueError, match=r"must be|needs"):
        HashGridEncoding(**{"in_dim": 3, **bad})
