import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from peak_nerf.core.encodings import PolynomialEncoding
from peak_nerf.core.field import FieldConfig, HashGridConfig, PeakField
from peak_nerf.core.hash_grid import HashGridEncoding
from peak_nerf.core.kar import KernelAlignmentRegularizer
from peak_nerf.core.kernels.layers import trainable_layers
from peak_nerf.core.kernels.ntk import empirical_ntk, ntk_vector_product

GRID = HashGridConfig(
    n_levels=4, n_features=2, log2_table_size=5, base_resolution=3, finest_resolution=12, init_scale=1.0
)


def explicit_ntk(module: nn.Module, x1: Tensor, x2: Tensor) -> Tensor:
    """(n, m, c, c): one backward pass per point and output, and the plain product of the Jacobians."""
    parameters = [p for p in module.parameters() if p.requires_grad]

    def jacobian(x: Tensor) -> Tensor:
        f = module(x).reshape(len(x), -1)
        rows = []
        for i in range(len(x)):
            for k in range(f.shape[1]):
                g = torch.autograd.grad(f[i, k], parameters, retain_graph=True, allow_unused=True)
                flat = [torch.zeros_like(p) if one is None else one for p, one in zip(parameters, g, strict=True)]
                rows.append(torch.cat([one.flatten() for one in flat]))
        return torch.stack(rows).reshape(len(x), f.shape[1], -1)

    return torch.einsum("nap,mbp->nmab", jacobian(x1), jacobian(x2))


def points(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.rand(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


FIELDS = {
    "torch grid": FieldConfig(GRID, 2, implementation="torch", hidden_dim=8),
    "numba grid": FieldConfig(GRID, 2, implementation="numba", hidden_dim=8),
    "polynomial, siren": FieldConfig(None, 3, backbone="siren", hidden_dim=8),
    "fourier, no bias": FieldConfig(None, None, n_frequencies=5, bias=False, hidden_dim=8),
    "coordinates": FieldConfig(None, None, hidden_dim=8, n_hidden=1),
}


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("in_dim", [1, 2, 3])
def test_a_field_against_explicit_jacobians(name: str, in_dim: int) -> None:
    torch.manual_seed(0)
    field = PeakField(in_dim, 2, FIELDS[name]).double()
    x1, x2 = points(5, in_dim), points(4, in_dim, seed=1)
    expected = explicit_ntk(field, x1, x2)
    assert relative_error(empirical_ntk(field, x1, x2, "full", chunk_size=3), expected) < 1e-10
    trace = torch.einsum("nmkk->nm", expected)
    assert relative_error(empirical_ntk(field, x1, x2, chunk_size=2), trace) < 1e-10


@pytest.mark.parametrize("name", FIELDS)
def test_of_points_with_themselves_it_is_symmetric_to_the_bit(name: str) -> None:
    torch.manual_seed(0)
    field = PeakField(2, 3, FIELDS[name])
    x = points(7, 2).float()
    k = empirical_ntk(field, x, chunk_size=3)
    assert torch.equal(k, k.T)
    full = empirical_ntk(field, x, outputs="full", chunk_size=3)
    assert torch.equal(full, full.permute(1, 0, 3, 2))
    assert relative_error(full, explicit_ntk(field, x, x)) < 1e-5


@pytest.mark.parametrize("name", FIELDS)
def test_vector_product_is_the_kernel_times_the_vector(name: str) -> None:
    torch.manual_seed(0)
    field = PeakField(2, 2, FIELDS[name]).double()
    x1, x2, v = points(5, 2), points(6, 2, seed=1), torch.randn(6, 2, dtype=torch.float64)
    expected = torch.einsum("nmab,mb->na", explicit_ntk(field, x1, x2), v)
    assert relative_error(ntk_vector_product(field, x1, x2, v, chunk_size=4), expected) < 1e-10


@settings(deadline=None, max_examples=15)
@given(n=st.integers(1, 6), m=st.integers(1, 6), chunk_size=st.integers(1, 7), seed=st.integers(0, 50))
def test_chunks_do_not_change_it(n: int, m: int, chunk_size: int, seed: int) -> None:
    torch.manual_seed(seed)
    field = PeakField(2, 1, FIELDS["polynomial, siren"]).double()
    x1, x2 = points(n, 2, seed), points(m, 2, seed + 1)
    whole = empirical_ntk(field, x1, x2)
    assert relative_error(empirical_ntk(field, x1, x2, chunk_size=chunk_size), whole) < 1e-12
    assert relative_error(empirical_ntk(field, x1, chunk_size=chunk_size), empirical_ntk(field, x1, x1)) < 1e-12


def test_by_hand() -> None:
    """f = a relu(w x): df/da = relu(w x), df/dw = a x [w x > 0]; at a = 3, w = 2, K(x, x') = (4 + 9) x x' above 0."""
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False))
    with torch.no_grad():
        net[0].weight.fill_(2.0)
        net[2].weight.fill_(3.0)
    k = empirical_ntk(net, torch.tensor([[1.0], [5.0], [-1.0]]))
    torch.testing.assert_close(k, torch.tensor([[13.0, 65.0, 0.0], [65.0, 325.0, 0.0], [0.0, 0.0, 0.0]]))


def test_frozen_parameters_do_not_count_and_g_does_not_either() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    net[0].weight.requires_grad_(False)
    net[2].bias.requires_grad_(False)
    x = points(5, 2)
    assert relative_error(empirical_ntk(net, x, outputs="full"), explicit_ntk(net, x, x)) < 1e-12
    plain = PeakField(2, 1, FIELDS["coordinates"])
    k = empirical_ntk(plain, x.float())
    plain.kar = KernelAlignmentRegularizer(2)  # as an image field has it: no part of f
    assert torch.equal(empirical_ntk(plain, x.float()), k)


class Odd(nn.Module):
    """Parameters in unusual places: its own, one layer called twice, inputs of three dimensions, a module with both."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 4)
        self.twice = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.attention = nn.MultiheadAttention(2, 1, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        z = self.norm(self.twice(torch.tanh(self.twice(torch.tanh(self.first(x))))))
        pairs = torch.tanh(self.first(torch.stack([x, 2 * x], dim=1))).mean(dim=1)
        return torch.stack([z, z * pairs], dim=-1)


def test_layers_called_twice_and_with_more_dimensions() -> None:
    torch.manual_seed(0)
    net, x = Odd().double(), points(5, 2)
    assert relative_error(empirical_ntk(net, x, outputs="full", chunk_size=2), explicit_ntk(net, x, x)) < 1e-12
    v = torch.randn(5, 8, dtype=torch.float64)
    expected = torch.einsum("nmab,mb->na", explicit_ntk(net, x, x), v)
    assert relative_error(ntk_vector_product(net, x, x, v, chunk_size=2), expected) < 1e-12


class Hidden(nn.Module):
    """Uses a layer's weight outside the layer's forward, as tied networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.tanh(self.layer(x)), self.layer.weight.T)


def test_what_layers_cannot_do_is_refused_and_the_jacobian_does() -> None:
    torch.manual_seed(0)
    net, x = Hidden().double(), points(4, 3)
    with pytest.raises(ValueError, match=r"'layer\.weight' works outside its own layer's forward.*'jacobian'"):
        empirical_ntk(net, x)
    found = empirical_ntk(net, x, outputs="full", method="jacobian", chunk_size=3)
    assert relative_error(found, explicit_ntk(net, x, x)) < 1e-12
    shared = nn.Linear(3, 3)
    tied = nn.Sequential(shared, nn.Tanh(), nn.Sequential(shared))
    assert relative_error(empirical_ntk(tied.double(), x, outputs="full"), explicit_ntk(tied, x, x)) < 1e-12
    other = nn.Linear(3, 3)
    other.weight = shared.weight
    with pytest.raises(ValueError, match="two layers"):
        empirical_ntk(nn.Sequential(shared, nn.Tanh(), other).double(), x)


def test_layers_are_the_smallest_owners() -> None:
    names = [name for name, _ in trainable_layers(Odd())]
    # Attention has parameters of its own, so its inner projection is not taken apart.
    assert names == ["first", "twice", "norm", "attention"]
    assert [name for name, _ in trainable_layers(nn.Linear(1, 1))] == [""]


def test_rows_that_mix_are_refused() -> None:
    net = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    with pytest.raises(ValueError, match="eval mode"):
        empirical_ntk(net, torch.randn(8, 2))
    net.eval()
    x = torch.randn(8, 2)
    assert relative_error(empirical_ntk(net, x, outputs="full"), explicit_ntk(net, x, x)) < 1e-5


def test_memory_is_bounded_by_the_chunk() -> None:
    """A 64 x 64 kernel of a network with 66,000 parameters: no tensor comes near 64 Jacobians of it."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        n = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = func(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, tuple | list) else [result]:
                if isinstance(tensor, Tensor):
                    self.n = max(self.n, tensor.numel())
            return result

    net = nn.Sequential(nn.Linear(2, 256), nn.Tanh(), nn.Linear(256, 256), nn.Tanh(), nn.Linear(256, 1))
    with Largest() as mode:
        empirical_ntk(net, torch.randn(64, 2), chunk_size=16)
    assert mode.n <= 66_000


def test_corners_of_the_grid_make_its_features() -> None:
    torch.manual_seed(0)
    grid = HashGridEncoding(2, 3, 2, 5, 3, 12, init_scale=1.0, low=-1.0, high=1.0, implementation="numba")
    x = points(20, 2).float()
    rows, weights = grid.corners(x)
    features = (weights[..., None] * grid.table[rows]).sum(dim=2).flatten(1)
    torch.testing.assert_close(grid(x), features)
    torch.testing.assert_close(weights.sum(dim=2), torch.ones(20, 3))


def test_bad_input() -> None:
    net, x = nn.Linear(2, 1), torch.zeros(3, 2)
    with pytest.raises(ValueError, match="x1 is empty"):
        empirical_ntk(net, torch.zeros(0, 2))
    with pytest.raises(ValueError, match="x2 has 2 entries that are not finite"):
        empirical_ntk(net, x, torch.full((1, 2), torch.nan))
    with pytest.raises(ValueError, match="chunk_size"):
        empirical_ntk(net, x, chunk_size=0)
    with pytest.raises(ValueError, match="chunk_size"):
        ntk_vector_product(net, x, x, torch.zeros(3, 1), chunk_size=0)
    with pytest.raises(Exception, match="outputs"):  # the checker of types, in tests, is first to say so
        empirical_ntk(net, x, outputs="all")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"v must have shape \(3, 1\)"):
        ntk_vector_product(net, x, x, torch.zeros(3, 2))
    with pytest.raises(ValueError, match="no parameter that trains"):
        empirical_ntk(nn.Tanh(), x)
    with pytest.raises(ValueError, match="one output per row"):
        empirical_ntk(nn.Sequential(net, nn.Flatten(0), nn.Unflatten(0, (1, 3))), x)
    broken = nn.Linear(2, 1)
    nn.init.constant_(broken.weight, torch.inf)
    with pytest.raises(ValueError, match="not finite"):
        empirical_ntk(broken, torch.ones(3, 2))


def test_a_polynomial_encoding_alone() -> None:
    encoding = PolynomialEncoding(1, 2).double()
    x = points(4, 1)
    assert relative_error(empirical_ntk(encoding, x, outputs="full"), explicit_ntk(encoding, x, x)) < 1e-12
