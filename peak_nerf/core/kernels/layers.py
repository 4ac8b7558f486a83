r"""The Jacobian df(x)/dtheta, held layer by layer in factors instead of as one (n, c, n_parameters) array.

Each module that owns parameters is a layer z = layer(a; theta_l). With the cotangents delta(x) = df(x)/dz, a layer's
contribution to the Jacobian is delta(x)^T dz/dtheta_l, and of the kernel

    K_l(x, x') = delta(x)^T [dz(x)/dtheta_l  dz(x')/dtheta_l^T] delta(x').

For a linear layer the bracket is (a(x)^T a(x') + 1) I, for a grid it is what two points share of its vertices: nothing
of the size of theta ever arises. For any other layer its own, usually small, Jacobian is taken as it is.

Rows must not mix: f(x_i) may depend on x_i only (no batch norm in training mode).
"""

# n, m: points   c: outputs of f   a: input of a layer   z: output of a layer   delta: df/dz (c, n, ...)

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, cast, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from peak_nerf.core.hash_grid import HashGridEncoding
from peak_nerf.errors import PeakError


@runtime_checkable
class LayerJacobian(Protocol):
    """J_l, one layer's columns of the Jacobian of f at n points."""

    def gram(self, other: Any, trace: bool) -> Float[Tensor, "n m ..."]:
        """J_l J_l'^T: (n, m) summed over equal outputs, or (n, m, c, c)."""

    def apply(self, u: Mapping[str, Tensor]) -> Float[Tensor, "n c"]:
        """J_l u, for a direction u with the layer's parameter names."""

    def apply_transposed(self, v: Float[Tensor, "n c"]) -> dict[str, Tensor]:
        """J_l^T v, by parameter name."""


@dataclass
class _Call:
    """One call of a layer: what went in, and the zeros added to what came out, whose gradient is the cotangent."""

    inputs: tuple[Any, ...]
    kwargs: dict[str, Any]
    perturbation: Tensor


@dataclass
class _Layer:
    name: str
    module: nn.Module
    calls: list[_Call] = field(default_factory=list)

    @property
    def parameters(self) -> dict[str, Tensor]:
        return {name: p for name, p in self.module.named_parameters() if p.requires_grad}


@dataclass(frozen=True)
class LinearJacobian:
    """z = W a + b: the kernel is (delta^T delta')(a^T a' + 1), as far as W and b train."""

    layer: nn.Linear
    a: Float[Tensor, "n i"]
    delta: Float[Tensor, "c n o"]

    def gram(self, other: LinearJacobian, trace: bool) -> Float[Tensor, "n m ..."]:
        """J_l J_l'^T of this layer, summed over outputs or for each pair of them."""
        shared = torch.zeros(len(self.a), len(other.a), dtype=self.a.dtype, device=self.a.device)
        if self.layer.weight.requires_grad:
            shared.addmm_(self.a, other.a.T)
        if self.layer.bias is not None and self.layer.bias.requires_grad:
            shared.add_(1)
        return _times_cotangents(shared, self.delta, other.delta, trace)

    def apply(self, u: Mapping[str, Tensor]) -> Float[Tensor, "n c"]:
        """J_l u."""
        z = self.a @ u["weight"].T if "weight" in u else self.a.new_zeros(self.delta.shape[1:])
        return torch.einsum("cno,no->nc", self.delta, z + u["bias"] if "bias" in u else z)

    def apply_transposed(self, v: Float[Tensor, "n c"]) -> dict[str, Tensor]:
        """J_l^T v, by parameter name."""
        slope = torch.einsum("cno,nc->no", self.delta, v)
        both = {"weight": slope.T @ self.a, "bias": slope.sum(dim=0)}
        return {name: both[name] for name, p in self.layer.named_parameters() if p.requires_grad}


@dataclass(frozen=True)
class GridJacobian:
    """z = W_l(x) table, level by level: two points share sum_r W_l(x, r) W_l(x', r) over the table's rows r."""

    layer: HashGridEncoding
    a: Float[Tensor, "n d"]
    delta: Float[Tensor, "c n o"]

    def gram(self, other: GridJacobian, trace: bool) -> Float[Tensor, "n m ..."]:
        """J_l J_l'^T of this layer, summed over outputs or for each pair of them."""
        n, m, n_features = len(self.a), len(other.a), self.layer.n_features
        rows, weights = self.layer.corners(torch.cat([self.a, other.a]))
        result: Tensor | None = None
        for level in range(self.layer.n_levels):
            used, place = rows[:, level].unique(return_inverse=True)
            # Columns of `there` are the other points' weights on the rows in use; equal rows of one point add up.
            there = torch.zeros(len(used), m, dtype=weights.dtype, device=weights.device)
            column = torch.arange(m, device=there.device)[:, None].expand_as(place[n:])
            there.index_put_((place[n:], column), weights[n:, level], accumulate=True)
            shared = F.embedding_bag(place[:n], there, per_sample_weights=weights[:n, level], mode="sum")
            part = slice(level * n_features, (level + 1) * n_features)
            term = _times_cotangents(shared.to(self.delta.dtype), self.delta[..., part], other.delta[..., part], trace)
            result = term if result is None else result.add_(term)
        return cast(Tensor, result)

    def apply(self, u: Mapping[str, Tensor]) -> Float[Tensor, "n c"]:
        """J_l u."""
        return torch.einsum("cno,no->nc", self.delta, functional_call(self.layer, dict(u), (self.a,)))

    def apply_transposed(self, v: Float[Tensor, "n c"]) -> dict[str, Tensor]:
        """J_l^T v, by parameter name."""
        slope = torch.einsum("cno,nc->no", self.delta, v)
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(self.layer(self.a), [self.layer.table], slope)
        return {"table": gradient}


@dataclass(frozen=True)
class DenseJacobian:
    """Any other layer: J_l as it is, (n, c, n_parameters of the layer), summed over the layer's calls."""

    sizes: dict[str, torch.Size]
    jacobian: Float[Tensor, "n c p"]

    def gram(self, other: DenseJacobian, trace: bool) -> Float[Tensor, "n m ..."]:
        """J_l J_l'^T of this layer, summed over outputs or for each pair of them."""
        if trace:
            return self.jacobian.flatten(1) @ other.jacobian.flatten(1).T
        n, c, p = self.jacobian.shape
        product = self.jacobian.reshape(n * c, p) @ other.jacobian.reshape(-1, p).T
        return product.reshape(n, c, -1, c).transpose(1, 2)

    def apply(self, u: Mapping[str, Tensor]) -> Float[Tensor, "n c"]:
        """J_l u."""
        return self.jacobian @ torch.cat([u[name].reshape(-1) for name in self.sizes])

    def apply_transposed(self, v: Float[Tensor, "n c"]) -> dict[str, Tensor]:
        """J_l^T v, by parameter name."""
        flat = torch.einsum("nc,ncp->p", v, self.jacobian)
        parts = flat.split([size.numel() for size in self.sizes.values()])
        return {name: part.reshape(size) for (name, size), part in zip(self.sizes.items(), parts, strict=True)}


def _times_cotangents(
    shared: Float[Tensor, "n m"], delta: Float[Tensor, "c n o"], other: Float[Tensor, "c m o"], trace: bool
) -> Float[Tensor, "n m ..."]:
    if trace:
        return shared.mul_(delta.transpose(0, 1).flatten(1) @ other.transpose(0, 1).flatten(1).T)
    return shared[:, :, None, None] * torch.einsum("cno,dmo->nmcd", delta, other)


def trainable_layers(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The smallest submodules that own the module's trainable parameters, each once, by name ("" for itself)."""
    seen: set[nn.Module] = set()

    def search(name: str, part: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        if part in seen:
            return
        seen.add(part)
        if any(p.requires_grad for p in part.parameters(recurse=False)):
            yield name, part
            return
        for child_name, child in part.named_children():
            yield from search(f"{name}.{child_name}" if name else child_name, child)

    return list(search("", module))


def layer_jacobians(
    module: nn.Module, x: Float[Tensor, "n d"], check: bool = False, whole: bool = False
) -> tuple[Float[Tensor, "n c"], dict[str, LayerJacobian]]:
    """f(x) with outputs flattened to (n, c), and J by layer; layers that the forward does not call are left out.

    check: compare J^T v with autograd for a random v, and f of one row with f of all.
    whole: take the module as one layer, whatever it is made of.

    Raises: ValueError when f does not give one finite output per row; with `check`, when a parameter is used outside
        its layer's own forward (or in two layers), or rows mix; PeakError on a tiny-cuda-nn grid.
    """
    if not any(p.requires_grad for p in module.parameters()):
        raise ValueError("the module has no parameter that trains")
    layers = [_Layer("", module)] if whole else [_Layer(name, part) for name, part in trainable_layers(module)]
    with torch.enable_grad(), _recording(layers):
        f = module(x)
    if f.shape[:1] != x.shape[:1]:
        raise ValueError(f"the module must return one output per row, got {tuple(f.shape)} for {tuple(x.shape)}")
    f = f.reshape(len(x), -1)
    if not bool(f.isfinite().all()):
        raise ValueError("the module's outputs are not finite")
    if check:
        _check_rows(module, x, f.detach())
    called = [layer for layer in layers if layer.calls]
    points = [call.perturbation for layer in called for call in layer.calls]
    v = torch.randn(f.shape, dtype=f.dtype, generator=torch.Generator().manual_seed(0)).to(f.device)
    parameters = {f"{layer.name}.{name}": p for layer in layers for name, p in layer.parameters.items()}
    found = torch.autograd.grad(f, list(parameters.values()), v, True, allow_unused=True) if check else None
    slopes = []
    for k in range(f.shape[1]):
        rest = check or k + 1 < f.shape[1]
        slopes.append(torch.autograd.grad(f[:, k].sum(), points, retain_graph=rest, allow_unused=True))
    deltas = iter(
        torch.stack([torch.zeros_like(z) if s is None else s for s in slope])
        for z, slope in zip(points, zip(*slopes, strict=True), strict=True)
    )
    jacobians = {layer.name: _layer_jacobian(layer, [next(deltas) for _ in layer.calls]) for layer in called}
    if found is not None:
        _check_transposed(jacobians, v, dict(zip(parameters, found, strict=True)))
    return f.detach(), jacobians


@contextmanager
def _recording(layers: list[_Layer]) -> Iterator[None]:
    """While this is open, the layers' calls are recorded and their outputs perturbed by zeros that take gradients."""

    def hook_of(layer: _Layer) -> Callable[..., Tensor]:
        def hook(_: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any], z: Tensor) -> Tensor:
            if not isinstance(z, Tensor):
                raise ValueError(f"layer {layer.name!r} returns {type(z).__name__}; only layers that return one tensor")
            perturbation = torch.zeros_like(z, requires_grad=True)
            layer.calls.append(_Call(tuple(_kept(a) for a in inputs), kwargs, perturbation))
            # A sum is a new tensor: what follows may work in place without touching the perturbation.
            return z + perturbation

        return hook

    handles = [layer.module.register_forward_hook(hook_of(layer), with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _kept(a: Any) -> Any:
    return a.detach() if isinstance(a, Tensor) else a


def _layer_jacobian(layer: _Layer, deltas: list[Tensor]) -> LayerJacobian:
    module, call, delta = layer.module, layer.calls[0], deltas[0]
    once = len(layer.calls) == 1 and len(call.inputs) == 1 and not call.kwargs and call.inputs[0].ndim == 2
    if type(module) is nn.Linear and once:
        return LinearJacobian(module, call.inputs[0], delta)
    if isinstance(module, HashGridEncoding) and once and hasattr(module, "table"):
        return GridJacobian(module, call.inputs[0], delta)
    if "tinycudann" in type(module).__module__:
        raise PeakError("NTK: tiny-cuda-nn's grid cannot be read; build the field with implementation 'torch'")
    parameters = {name: p.detach() for name, p in layer.parameters.items()}
    parts = [_dense(module, parameters, c, d) for c, d in zip(layer.calls, deltas, strict=True)]
    return DenseJacobian({name: p.shape for name, p in parameters.items()}, torch.stack(parts).sum(dim=0))


def _dense(module: nn.Module, parameters: dict[str, Tensor], call: _Call, delta: Tensor) -> Float[Tensor, "n c p"]:
    n = delta.shape[1]
    dims = tuple(0 if isinstance(a, Tensor) and a.shape[:1] == (n,) else None for a in call.inputs)

    def row(inputs: tuple[Any, ...], slope: Tensor) -> Tensor:
        """(c, ...) cotangents of one row to (c, p)."""
        one = tuple(a if d is None else a[None] for a, d in zip(inputs, dims, strict=True))
        pull = vjp(lambda p: functional_call(module, p, one, call.kwargs)[0], parameters)[1]
        return torch.cat([g.flatten(1) for g in vmap(pull)(slope)[0].values()], dim=1)

    return vmap(row, in_dims=(dims, 1))(call.inputs, delta).detach()


def _check_rows(module: nn.Module, x: Tensor, f: Tensor) -> None:
    try:
        with torch.no_grad():
            alone = module(x[:1]).reshape(1, -1)
    except ValueError as error:  # batch norm in training mode, of a single row
        raise ValueError(f"f of one row fails ({error}); put the module in eval mode") from error
    if not torch.allclose(alone, f[:1], rtol=1e-3, atol=1e-3 * float(f.abs().max())):
        raise ValueError("f of one row depends on the other rows, or on chance; put the module in eval mode")


def _check_transposed(jacobians: dict[str, LayerJacobian], v: Tensor, found: dict[str, Tensor | None]) -> None:
    ours = {
        f"{layer}.{name}": g
        for layer, jacobian in jacobians.items()
        for name, g in jacobian.apply_transposed(v).items()
    }
    for name, gradient in found.items():
        mine = ours.get(name)
        if gradient is None:
            continue
        error = gradient if mine is None else gradient - mine
        if float(error.norm()) > 1e-3 * float(gradient.norm()):
            raise ValueError(
                f"parameter {name!r} works outside its own layer's forward, or in two layers; layer by layer its"
                " contribution to the kernel would be wrong. Use method 'jacobian'"
            )
