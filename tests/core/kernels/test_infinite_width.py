import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peak_nerf.core.kernels.finite_width import FiniteNetwork
from peak_nerf.core.kernels.infinite_width import InfiniteNetwork, erf_moment, relu_moment
from peak_nerf.core.kernels.ntk import empirical_ntk
from peak_nerf.core.kernels.optimal import kernel_regression

POINTS = torch.tensor([[1.0, 0.0], [0.6, 0.8], [-0.28, 0.96], [0.5, -1.5]], dtype=torch.float64)

# Printed by neural-tangents 0.6.5 (float64): stax.Dense(W_std, b_std) and Relu or Erf, in turn, on sqrt(2) POINTS,
# since its first layer divides by d = 2. The upper triangle, row by row, rounded to 12 digits.
# fmt: off
PUBLISHED = {
    ("relu", 1, 2.0, 0.0, "nngp"): [
        2.0, 1.355095135533, 0.38174228501, 1.557346040901, 2.0,
        1.355095135533, 0.27455723939, 2.0, 1.8345219e-05, 5.0,
    ],
    ("relu", 1, 2.0, 0.0, "ntk"): [
        4.0, 2.200894453172, 0.152329588547, 2.159762423251, 4.0,
        2.200894453172, -0.278491225297, 4.0, -0.038160495904, 10.0,
    ],
    ("relu", 2, 1.5, 0.1, "nngp"): [
        1.075, 0.845055193925, 0.56159822508, 1.030890120743, 1.075,
        0.845055193925, 0.688700933761, 1.075, 0.614012786837, 2.340625,
    ],
    ("relu", 2, 1.5, 0.1, "ntk"): [
        2.95, 1.678047847485, 0.679221885821, 1.761301686113, 2.95,
        1.678047847485, 0.684336723474, 2.95, 0.570628917826, 6.746875,
    ],
    ("relu", 3, 2.0, 0.05, "nngp"): [
        2.2, 1.744285286682, 1.289645457576, 2.345962890749, 2.2,
        1.744285286682, 1.82557498387, 2.2, 1.729657471434, 5.2,
    ],
    ("relu", 3, 2.0, 0.05, "ntk"): [
        8.5, 4.3245214166, 2.012434131324, 4.899088298874, 8.5,
        4.3245214166, 2.556025782568, 8.5, 2.350089261446, 20.5,
    ],
    ("erf", 1, 2.0, 0.0, "nngp"): [
        1.180668941203, 0.637453378092, -0.287646256516, 0.347671613487, 1.180668941203,
        0.637453378092, -0.645338866188, 1.180668941203, -1.298900453338, 1.452889392697,
    ],
    ("erf", 1, 2.0, 0.0, "ntk"): [
        2.878321667517, 1.334110091342, -0.580288196678, 0.704250008825, 2.878321667517,
        1.334110091342, -1.352276766611, 2.878321667517, -3.372616645984, 4.231325864868,
    ],
    ("erf", 2, 1.5, 0.1, "nngp"): [
        0.775272911585, 0.495208687641, 0.069161509984, 0.334863707604, 0.775272911585,
        0.495208687641, -0.093175182276, 0.775272911585, -0.3621670922, 0.833366290768,
    ],
    ("erf", 2, 1.5, 0.1, "ntk"): [
        2.580000057133, 1.29254937443, -0.060250874913, 0.754805998241, 2.580000057133,
        1.29254937443, -0.56561355043, 2.580000057133, -1.630708662014, 3.227475679137,
    ],
    ("erf", 3, 2.0, 0.05, "nngp"): [
        1.00109005741, 0.534513407934, -0.0328806145, 0.316930149402, 1.00109005741,
        0.534513407934, -0.225222288637, 1.00109005741, -0.645799914002, 1.025649637298,
    ],
    ("erf", 3, 2.0, 0.05, "ntk"): [
        5.616350932051, 2.041904287766, -0.397140687859, 1.032862785044, 5.616350932051,
        2.041904287766, -1.227035492092, 5.616350932051, -3.9482617492, 6.726420835291,
    ],
}
# fmt: on


@pytest.mark.parametrize("case", PUBLISHED)
def test_against_the_values_that_neural_tangents_prints(case: tuple[str, int, float, float, str]) -> None:
    rows, columns = torch.triu_indices(4, 4)
    found = InfiniteNetwork(*case).matrix(POINTS)[rows, columns]
    expected = torch.tensor(PUBLISHED[case], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-11)


def test_by_hand() -> None:
    """One hidden ReLU layer, s_w^2 = 2, s_b = 0, at right angles: E[relu u relu v] = 2 / (2 pi), so NNGP = 2 / pi."""
    network = InfiniteNetwork("relu", 1, 2.0, 0.0, "nngp")
    assert float(network(torch.zeros((), dtype=torch.float64))) == pytest.approx(2 / math.pi)
    # On the diagonal the NNGP kernel keeps 2 |x|^2 and each hidden layer adds as much to the NTK.
    assert float(InfiniteNetwork("relu", 3)(torch.ones((), dtype=torch.float64))) == pytest.approx(8)


@pytest.mark.parametrize("activation", ["relu", "erf"])
def test_moments_against_quadrature(activation: str) -> None:
    """E over (u, v) by Gauss-Hermite nodes, which know nothing of arc-cosines."""
    k11, k22, k12 = 1.3, 0.7, 0.4
    nodes, weights = np.polynomial.hermite_e.hermegauss(200)
    z, w = torch.from_numpy(nodes), torch.from_numpy(weights / weights.sum())
    root = torch.linalg.cholesky(torch.tensor([[k11, k12], [k12, k22]], dtype=torch.float64))
    u = root[0, 0] * z[:, None].expand(200, 200)
    v = root[1, 0] * z[:, None] + root[1, 1] * z[None]
    phi = torch.relu if activation == "relu" else torch.erf
    expected = float((w[:, None] * w * phi(u) * phi(v)).sum())
    moment = relu_moment if activation == "relu" else erf_moment
    found = moment(*(torch.tensor(k, dtype=torch.float64) for k in (k12, k11, k22)))
    assert float(found) == pytest.approx(expected, rel=2e-3 if activation == "relu" else 1e-9)


@pytest.mark.parametrize("activation", ["relu", "erf"])
def test_finite_networks_come_near_as_one_over_root_width(activation: str) -> None:
    limit = InfiniteNetwork(activation, 2, 1.5, 0.1)  # type: ignore[arg-type]
    expected = limit.matrix(POINTS)
    errors = []
    for width in (32, 512):
        found = []
        for seed in range(24):
            torch.manual_seed(seed)
            found.append(empirical_ntk(FiniteNetwork(limit, width, 2).double(), POINTS) - expected)
        errors.append(float(torch.stack(found).square().mean().sqrt()))
    # 16 times the width: a quarter of the error, within what 24 draws allow.
    assert 2.8 < errors[0] / errors[1] < 5.7
    assert errors[1] < 0.15 * float(expected.abs().mean())


def test_the_nngp_kernel_is_the_covariance_of_wide_networks() -> None:
    limit = InfiniteNetwork("relu", 2, 2.0, 0.1, "nngp")
    torch.manual_seed(0)
    f = torch.stack([FiniteNetwork(limit, 256, 2, 64)(POINTS.float()).detach() for _ in range(40)]).double()
    covariance = torch.einsum("snk,smk->nm", f, f) / (40 * 64)
    torch.testing.assert_close(covariance, limit.matrix(POINTS), rtol=0.12, atol=0.12)


def test_regression_with_the_limit_is_what_training_a_wide_network_gives() -> None:
    """Width 512 here; `python -m benchmarks.ntk` has 4096."""
    torch.manual_seed(0)
    limit = InfiniteNetwork("relu", 1, 2.0, 0.1)
    angle = torch.linspace(0, 2 * math.pi, 13, dtype=torch.float64)[:-1]
    queries = angle + math.pi / 12
    circle = [torch.stack([a.cos(), a.sin()], dim=1) for a in (angle, queries)]
    y = (2 * angle).sin()[:, None] * 0.5
    k = limit.matrix(torch.cat(circle))
    expected = kernel_regression(k[:12, :12], y).predict(k[12:, :12])
    net = FiniteNetwork(limit, 512, 2).double()
    with torch.no_grad():
        start = [net(points) for points in circle]
    rate = float(1 / torch.linalg.eigvalsh(k[:12, :12])[-1])
    optimizer = torch.optim.SGD(net.parameters(), lr=rate, momentum=0.9)
    for _ in range(600):
        loss = 0.5 * (net(circle[0]) - start[0] - y).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 1e-5
    with torch.no_grad():
        assert float((net(circle[1]) - start[1] - expected).square().mean().sqrt()) < 0.05


@settings(deadline=None, max_examples=25)
@given(
    activation=st.sampled_from(["relu", "erf"]),
    n_hidden=st.integers(1, 4),
    bias=st.floats(0, 2),
    kind=st.sampled_from(["ntk", "nngp"]),
    seed=st.integers(0, 100),
)
def test_it_is_a_kernel_and_on_the_sphere_one_of_dot_products(
    activation: str, n_hidden: int, bias: float, kind: str, seed: int
) -> None:
    network = InfiniteNetwork(activation, n_hidden, 1.5, bias, kind)  # type: ignore[arg-type]
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    k = network.matrix(x)
    assert torch.equal(k, k.T) or float((k - k.T).abs().max()) < 1e-12
    assert float(torch.linalg.eigvalsh(k)[0]) > -1e-9 * float(k.diagonal().max())
    unit = torch.nn.functional.normalize(x, dim=1)
    c = (unit @ unit.T).fill_diagonal_(1).clamp(-1, 1)
    torch.testing.assert_close(network.matrix(unit), network(c), rtol=1e-7, atol=1e-7)


def test_complex_arguments_continue_the_real_kernel() -> None:
    network = InfiniteNetwork("relu", 2, 2.0, 0.1)
    t = torch.linspace(-0.9, 0.9, 7, dtype=torch.float64)
    torch.testing.assert_close(network(t.to(torch.complex128)).real, network(t))


def test_bad_input() -> None:
    network = InfiniteNetwork()
    with pytest.raises(ValueError, match="x2 has 1 entries that are not finite"):
        network.matrix(POINTS, torch.tensor([[torch.nan, 0.0]], dtype=torch.float64))
    with pytest.raises(ValueError, match=r"must lie in \[-1, 1\], got 2"):
        network(torch.tensor([2.0]))
    for wrong in ({"n_hidden": 0}, {"weight_variance": 0.0}, {"bias_variance": -1.0}, {"weight_variance": math.inf}):
        with pytest.raises(ValueError, match="n_hidden must be at least 1"):
            InfiniteNetwork(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="width, in_dim and out_dim"):
        FiniteNetwork(network, 0, 2)
