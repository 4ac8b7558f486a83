import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from peak_nerf.errors import PeakError
from peak_nerf.tasks.kernels.formula import parse_kernel

C = torch.linspace(-1, 1, 9, dtype=torch.float64)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("exp(c-1)", (C - 1).exp()),
        ("0.5 + c/2", 0.5 + C / 2),
        ("1 - sqrt((1-c)/2)", 1 - ((1 - C) / 2).sqrt()),
        ("c^3", C**3),
        ("-c**2 + pi", math.pi - C**2),
        ("(sqrt(1-c**2) + c*(pi-acos(c)))/pi", ((1 - C**2).sqrt() + C * (math.pi - C.acos())) / math.pi),
        ("2", torch.full_like(C, 2)),
    ],
)
def test_formulas(text: str, expected: torch.Tensor) -> None:
    torch.testing.assert_close(parse_kernel(text)(C), expected)
    inside = C[1:-1]
    torch.testing.assert_close(parse_kernel(text)(inside.to(torch.complex128)).real, expected[1:-1])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a formula"),
        ("exp(c", "is not a formula"),
        ("x + 1", "'x' is unknown"),
        ("abs(c)", "function 'abs' is unknown"),
        ("__import__('os').getcwd()", "not allowed"),
        ("c.real", "not allowed"),
        ("exp(c, 2)", "not allowed"),
        ("'c'", "not allowed"),
        ("True", "not allowed"),
        ("1" * 600, "shorten it"),
    ],
)
def test_anything_else_is_refused(text: str, message: str) -> None:
    with pytest.raises(PeakError, match=message):
        parse_kernel(text)


@given(st.text(max_size=30))
def test_no_text_does_anything_but_parse_or_be_refused(text: str) -> None:
    try:
        kernel = parse_kernel(text)
    except PeakError:
        return
    assert kernel(C).shape == C.shape
