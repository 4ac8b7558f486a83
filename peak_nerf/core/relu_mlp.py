"""A network of linear layers and ReLU on the CPU by compiled kernels, as one autograd node; torch is the reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from peak_nerf.core.compiled import compiled_kernels_take
from peak_nerf.system.parallel import parallel_for

MIN_ROWS = 8192
"""With fewer rows, preparing the call takes about as long as what it saves."""
CHUNK_ROWS, MAX_CHUNKS = 216, 32
"""Weight gradients are summed over chunks of at least so many rows, at most so many chunks, whatever the number of
threads: it changes no result."""


def relu_mlp(x: Float[Tensor, "... in_dim"], layers: Sequence[nn.Module]) -> Float[Tensor, "... out_dim"]:
    """layers[-1](relu(... relu(layers[0](x)) ...)), by the compiled kernels where `kernels_apply`."""
    if not kernels_apply(x, layers):
        for layer in layers[:-1]:
            x = F.relu_(layer(x))  # in place: the backward of a linear layer never reads its own output
        return cast(Tensor, layers[-1](x))
    out = _Fused.apply(x.reshape(-1, x.shape[-1]), len(layers), *_parameters(layers))
    return cast(Tensor, out).reshape(*x.shape[:-1], -1)


def kernels_apply(x: Tensor, layers: Sequence[nn.Module]) -> bool:
    """Whether the compiled kernels take this call: `compiled_kernels_take` all of it, and there are enough rows.

    torch takes it where a layer has a hook or is not just an `nn.Linear` (as weight norm and the like make it).
    """
    return (
        x.numel() >= MIN_ROWS * x.shape[-1]
        and all(type(layer) is nn.Linear and not _has_hook(layer) for layer in layers)
        and len({layer.bias is None for layer in layers}) == 1
        and compiled_kernels_take(x, *_parameters(layers))
    )


def _parameters(layers: Sequence[nn.Module]) -> list[Tensor]:
    """W, b, W, b, ... or W, W, ..."""
    return [p for layer in layers for p in (layer._parameters["weight"], layer._parameters["bias"]) if p is not None]


def _has_hook(layer: nn.Module) -> bool:
    """Whether somebody wants to see this layer's own input, output or gradient."""
    return bool(layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks)


class _Fused(torch.autograd.Function):
    """All layers as one node. Differentiated twice, its gradient is torch's, of the same function."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, n_layers: int, *parameters: Tensor) -> Tensor:
        from peak_nerf.core import relu_mlp_numba as kernels  # numba takes a second to import

        has_bias = len(parameters) > n_layers
        widths = np.array([x.shape[1], *(len(w) for w in (parameters[::2] if has_bias else parameters))])
        wide = kernels.padded(widths)
        transposed = np.zeros(int(((1 + widths[:-1]) * wide[1:]).sum()), np.float32)
        packed = np.zeros(int((widths[1:] * wide[:-1]).sum()), np.float32)
        kernels.pack(_array(torch.cat([p.reshape(-1) for p in parameters])), has_bias, widths, transposed, packed)
        out = torch.empty(len(x), int(widths[-1]))
        points, result = _array(x), out.numpy()
        parallel_for(lambda i, j: kernels.forward(points, transposed, widths, result, i, j), len(x), CHUNK_ROWS)
        ctx.save_for_backward(x, *parameters)
        ctx.network = (transposed, packed, widths, has_bias)
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        x, *parameters = ctx.saved_tensors
        needed = [ctx.needs_input_grad[0], *ctx.needs_input_grad[2:]]
        if torch.is_grad_enabled():  # create_graph=True
            found = _differentiable_gradients(x, parameters, ctx.network[-1], grad_out)
        else:
            found = _gradients(x, grad_out, ctx.network, needed[0], any(needed[1:]))
        grad_x, *rest = (g if need else None for g, need in zip(found, needed, strict=True))
        return grad_x, None, *rest


def _gradients(
    x: Tensor, grad_out: Tensor, network: tuple[Any, ...], for_x: bool, for_parameters: bool
) -> list[Tensor]:
    """Gradients of x and of the parameters; undefined numbers where they are not asked for."""
    from peak_nerf.core import relu_mlp_numba as kernels

    _, packed, widths, has_bias = network
    fan_in, fan_out = widths[:-1], widths[1:]
    chunk_rows = max(CHUNK_ROWS, -(-len(x) // (MAX_CHUNKS * kernels.BLOCK)) * kernels.BLOCK)
    n_chunks = -(-len(x) // chunk_rows)
    grad_x = torch.empty(x.shape) if for_x else x.new_empty(0, x.shape[1])
    sums = np.empty((n_chunks, len(packed) + fan_out.sum()), np.float32)
    call = (_array(x), _array(grad_out), *network, for_parameters, for_x, grad_x.numpy(), sums, chunk_rows)
    parallel_for(lambda i, j: kernels.backward(*call, i, j), n_chunks, chunks_per_thread=n_chunks)
    total = torch.from_numpy(sums.sum(axis=0))
    parts = total.split([*(fan_out * kernels.padded(fan_in)).tolist(), *fan_out.tolist()])
    gradients = [grad_x]
    for layer in range(len(fan_in)):
        gradients.append(parts[layer].view(int(fan_out[layer]), -1)[:, : int(fan_in[layer])].contiguous())
        if has_bias:
            gradients.append(parts[len(fan_in) + layer])
    return gradients


def _differentiable_gradients(x: Tensor, parameters: list[Tensor], has_bias: bool, grad_out: Tensor) -> list[Tensor]:
    """The same by torch, as functions of all arguments."""
    # Views: of themselves x could depend on a parameter, and the gradient would be that of both ways.
    inputs = [t.view_as(t) for t in (x, *parameters)]
    y, *rest = inputs
    step = 2 if has_bias else 1
    for at in range(0, len(rest), step):
        y = F.linear(y if at == 0 else F.relu(y), *rest[at : at + step])
    return list(torch.autograd.grad(y, inputs, grad_out, create_graph=True))


def _array(x: Tensor) -> np.ndarray:
    return x.detach().contiguous().numpy()
