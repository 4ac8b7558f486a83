r"""The Kernel Alignment Regularizer (KAR): f(x) should be the average of f over similar points, f(x) = A(x, X) f(X).

A(x, X) = softmax(g(x)^T g(X)) with a compact learned network g, so that A f is attention with queries g(x), keys g(X)
and values f(X). Source: Li et al., ICML 2025, section 3.4.
"""

# x: queries, n   X: anchors, m shared or k per query   d: input dimension   c: channels of f   r: features of g

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from peak_nerf.core.anchors import AnchorSampler
from peak_nerf.core.backbones import Siren

Similarity = Literal["cosine", "dot"]
Norm = Literal["l2", "squared", "huber"]


def _logits(
    g_query: Float[Tensor, "n r"], g_anchor: Float[Tensor, "m r"], self_index: Int[Tensor, " n"] | None
) -> Float[Tensor, "n m"]:
    """Logits g(x)^T g(X), with -inf where an anchor is the query itself."""
    logits = g_query @ g_anchor.T
    if self_index is not None:
        itself = self_index.clamp(min=0)[:, None]
        logits.scatter_(1, itself, torch.where(self_index[:, None] >= 0, -torch.inf, logits.gather(1, itself)))
    return logits


class _ChunkedAttention(torch.autograd.Function):
    """softmax(q k^T) v, a chunk of queries at a time in both directions: memory chunk_size * m, never n * m.

    Not `scaled_dot_product_attention`: on the CPU it builds an n x m matrix as soon as there is a mask or the values
    are not as wide as the keys. This is about as fast there, and excludes the query without a mask.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, self_index: Tensor | None, chunk_size: int) -> Tensor:
        out, log_z = q.new_empty(len(q), v.shape[1]), q.new_empty(len(q), 1)
        with torch.autocast(q.device.type, enabled=False):
            for start in range(0, len(q), chunk_size):
                rows = slice(start, start + chunk_size)
                logits = _logits(q[rows], k, None if self_index is None else self_index[rows])
                largest = logits.amax(dim=1, keepdim=True)
                unnormalised = logits.sub_(largest).exp_()
                z = unnormalised.sum(dim=1, keepdim=True)
                out[rows] = unnormalised @ v / z
                log_z[rows] = largest + z.log()
        ctx.save_for_backward(q, k, v, self_index, out, log_z)
        ctx.chunk_size = chunk_size
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, self_index, out, log_z = ctx.saved_tensors
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        # d softmax: dS = A * (dA - sum_j A dA), and sum_j A dA = grad_out . out.
        inner = (grad_out * out).sum(dim=1, keepdim=True)
        with torch.autocast(q.device.type, enabled=False):
            for start in range(0, len(q), ctx.chunk_size):
                rows = slice(start, start + ctx.chunk_size)
                logits = _logits(q[rows], k, None if self_index is None else self_index[rows])
                attention = logits.sub_(log_z[rows]).exp_()
                grad_v.addmm_(attention.T, grad_out[rows])
                grad_logits = (grad_out[rows] @ v.T).sub_(inner[rows]).mul_(attention)
                grad_q[rows] = grad_logits @ k
                grad_k.addmm_(grad_logits.T, q[rows])
        return grad_q, grad_k, grad_v, None, None


def _common_dtype(*tensors: Tensor) -> list[Tensor]:
    """All in one dtype, at least float32: under autocast g is in half precision, too coarse for a softmax."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return [tensor.to(dtype) for tensor in tensors]


def kernel_alignment_residual(
    f_query: Float[Tensor, "n c"],
    g_query: Float[Tensor, "n r"],
    f_anchor: Float[Tensor, "m c"],
    g_anchor: Float[Tensor, "m r"],
    self_index: Int[Tensor, " n"] | None = None,
    chunk_size: int = 512,
) -> Float[Tensor, "n c"]:
    r"""Residual f(x) - A(x, X) f(X) with A = softmax(g(x)^T g(X)), for anchors shared by all queries.

    Memory is chunk_size * m + O(n + m), forward and backward. Differentiable once, in all four tensors. Without
    queries the result is empty and still hangs on the graph of every argument.

    Args:
        f_query: values f(x) of the queries.
        g_query: features g(x) of the queries.
        f_anchor: values f(X) of the anchors.
        g_anchor: features g(X) of the anchors.
        self_index: position of each query among the anchors, -1 for none; that anchor gets weight 0.
        chunk_size: queries at a time; does not change the result.

    Raises: ValueError when m is 0, when chunk_size is below 1, or when a query's only anchor is itself.
    Source: Li et al., ICML 2025, section 3.4, the equation above (11).
    """
    if len(f_anchor) == 0:
        raise ValueError("the kernel alignment residual needs at least 1 anchor")
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
    if len(f_anchor) == 1 and self_index is not None and bool((self_index >= 0).any()):
        raise ValueError("a query's only anchor is the query itself")
    f_query, g_query, f_anchor, g_anchor = _common_dtype(f_query, g_query, f_anchor, g_anchor)
    average: Tensor = _ChunkedAttention.apply(g_query, g_anchor, f_anchor, self_index, chunk_size)
    return f_query - average


def kernel_alignment_residual_local(
    f_query: Float[Tensor, "n c"],
    g_query: Float[Tensor, "n r"],
    f_anchor: Float[Tensor, "n k c"],
    g_anchor: Float[Tensor, "n k r"],
) -> Float[Tensor, "n c"]:
    r"""Residual f(x_i) - A(x_i, X_i) f(X_i) with A = softmax(g(x_i)^T g(X_i)), each query having anchors of its own.

    Memory O(n k), as the arguments. Raises: ValueError when k is 0.
    Source: as `kernel_alignment_residual`, with X restricted to a neighbourhood of x.
    """
    if f_anchor.shape[1] == 0:
        raise ValueError("the kernel alignment residual needs at least 1 anchor")
    f_query, g_query, f_anchor, g_anchor = _common_dtype(f_query, g_query, f_anchor, g_anchor)
    attention = torch.einsum("nkr,nr->nk", g_anchor, g_query).softmax(dim=1)
    return f_query - (attention[:, :, None] * f_anchor).sum(dim=1)


def dirichlet_energy(f: Float[Tensor, "n c"], g: Float[Tensor, "n r"]) -> Float[Tensor, ""]:
    r"""Squared Dirichlet energy tr(f^T L f) = 1/2 sum_ij W_ij ||f_i - f_j||^2 on the graph that g spans.

    W = (A + A^T) / 2 with A = softmax(g g^T), diagonal excluded, and L = diag(W 1) - W, its symmetric graph Laplacian.
    This is *not* Prop. 3.6 as printed, which equates a sum of norms with one norm; it is the quadratic form that the
    name Dirichlet energy stands for. Holds n x n matrices.

    Raises: ValueError when n is below 2.
    """
    if len(f) < 2:
        raise ValueError(f"the Dirichlet energy needs at least 2 points, got {len(f)}")
    f, g = _common_dtype(f, g)
    attention = _logits(g, g, torch.arange(len(g), device=g.device)).softmax(dim=1)
    w = (attention + attention.T) / 2
    # The energy ignores constants; taking one out first keeps the difference of two large numbers small.
    f = f - f.mean(dim=0)
    return (f * (w.sum(dim=1, keepdim=True) * f - w @ f)).sum()


class KernelAlignmentRegularizer(nn.Module):
    r"""KAR = mean over x of ||f(x) - A(x, X) f(X)||, with A(x, X) = softmax(g(x)^T g(X)) and g learned along with f.

    Args:
        in_dim: input dimension d of x, at least 1.
        n_features: number r of features of g.
        hidden_dim, n_hidden, omega_0: the SIREN s: R^d -> R^r behind g.
        similarity: "cosine": g = sqrt(tau) s / ||s||, so the logits are tau cos(s(x), s(X)) with tau > 0 learned; A
            can be sharp. "dot" is the paper's: g = softmax(s), a softmax activation on g's output, so the
            logits lie in [0, 1] and no anchor ever weighs more than e times another.
        temperature: tau at the start, above 0; only for "cosine".
        norm: "l2", the paper's vector norm per query; "squared", its square, which forgives small residuals; or
            "huber", 2 delta (sqrt(||.||^2 + delta^2) - delta), squared below delta and linear above, which forgives an
            edge that A could not foresee too.
        huber_delta: delta in units of f, above 0.
        weight: factor lambda of the loss once warm, at least 0. `forward` leaves it out, see `weight_at`.
        warmup: fraction of the training over which the weight rises linearly from 0, in [0, 1].
        chunk_size: queries at a time when anchors are shared.

    Raises: ValueError outside these ranges.
    Source: Li et al., ICML 2025, section 3.4; the cosine logits and the warm-up are ours.
    """

    def __init__(
        self,
        in_dim: int,
        n_features: int = 100,
        hidden_dim: int = 100,
        n_hidden: int = 1,
        omega_0: float = 30.0,
        similarity: Similarity = "cosine",
        temperature: float = 10.0,
        norm: Norm = "l2",
        huber_delta: float = 0.03,
        weight: float = 1e-2,
        warmup: float = 0.1,
        chunk_size: int = 512,
    ) -> None:
        super().__init__()
        if similarity not in get_args(Similarity) or norm not in get_args(Norm):
            raise ValueError(
                f"similarity must be of {get_args(Similarity)} and norm of {get_args(Norm)},"
                f" got {similarity!r}, {norm!r}"
            )
        if not 0 < temperature < math.inf or not 0 < huber_delta < math.inf:
            raise ValueError(f"temperature and huber_delta must be above 0, got {temperature}, {huber_delta}")
        if not weight >= 0 or not 0 <= warmup <= 1 or chunk_size < 1:
            raise ValueError(
                "weight must be at least 0, warmup in [0, 1] and chunk_size at least 1,"
                f" got {weight}, {warmup}, {chunk_size}"
            )
        self.in_dim, self.n_features = in_dim, n_features
        self.similarity, self.norm, self.huber_delta = similarity, norm, huber_delta
        self.weight, self.warmup, self.chunk_size = weight, warmup, chunk_size
        self.siren = Siren(in_dim, n_features, hidden_dim=hidden_dim, n_hidden=n_hidden, omega_0=omega_0)
        if similarity == "cosine":
            self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))

    @classmethod
    def as_published(cls, in_dim: int, n_features: int = 100, weight: float = 1e-2) -> KernelAlignmentRegularizer:
        r"""The paper's own regulariser: g = softmax(s(x)), A = softmax(g(x)^T g(X)), ||f - A f||_2, no warm-up.

        Args:
            in_dim: input dimension d.
            n_features: number r of features of g and its width; 100 in the paper's experiments.
            weight: lambda of the loss.

        Source: Li et al., ICML 2025, section 3.4 and Algorithm 1.
        """
        return cls(in_dim, n_features, n_features, similarity="dot", norm="l2", weight=weight, warmup=0.0)

    def similarity_features(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch r"]:
        """g(x). Its dot products are the logits, the temperature included."""
        if self.similarity == "dot":
            return self.siren(x).softmax(dim=-1)
        return (self.log_temperature / 2).exp() * F.normalize(self.siren(x), dim=-1)

    def residual(
        self,
        x_query: Float[Tensor, "n d"],
        f_query: Float[Tensor, "n c"],
        x_anchor: Float[Tensor, "*anchors d"],
        f_anchor: Float[Tensor, "*anchors c"],
        self_index: Int[Tensor, " n"] | None = None,
    ) -> Float[Tensor, "n c"]:
        """Residual vectors f(x) - A f(X), for anchors of shape (m, d) shared by all queries, or (n, k, d).

        Raises: ValueError without anchors, or on a self_index with anchors per query.
        """
        g_query, g_anchor = self.similarity_features(x_query), self.similarity_features(x_anchor)
        if x_anchor.ndim == 2:
            return kernel_alignment_residual(f_query, g_query, f_anchor, g_anchor, self_index, self.chunk_size)
        if self_index is not None:
            raise ValueError("self_index is for shared anchors; leave the query out of its own anchors instead")
        return kernel_alignment_residual_local(f_query, g_query, f_anchor, g_anchor)

    def forward(
        self,
        x_query: Float[Tensor, "n d"],
        f_query: Float[Tensor, "n c"],
        x_anchor: Float[Tensor, "*anchors d"],
        f_anchor: Float[Tensor, "*anchors c"],
        self_index: Int[Tensor, " n"] | None = None,
    ) -> Float[Tensor, ""]:
        """The KAR loss without its weight; arguments as in `residual`. Without queries it is 0, still on the graph."""
        return self.mean_norm(self.residual(x_query, f_query, x_anchor, f_anchor, self_index))

    def mean_norm(self, residual: Float[Tensor, "n c"]) -> Float[Tensor, ""]:
        """Mean over queries of what `norm` names; 0 without queries."""
        if self.norm == "l2":
            # It has gradient 0, not NaN, at a zero residual.
            norms = torch.linalg.vector_norm(residual, dim=1)
        else:
            norms = residual.square().sum(dim=1)
            if self.norm == "huber":
                delta = self.huber_delta
                norms = 2 * delta * ((norms + delta**2).sqrt() - delta)
        return norms.sum() / max(len(norms), 1)

    def field_loss(
        self,
        field: Callable[[Tensor], Tensor],
        anchors: AnchorSampler,
        x_query: Float[Tensor, "n d"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, ""]:
        """The KAR loss of a field at the queries, without weight.

        field: takes (n, d) to (n, ...); called once, on queries and anchors together; further dimensions are channels.
        """
        x_anchor = anchors.sample(x_query, generator=generator)
        points = torch.cat([x_query, x_anchor.flatten(0, -2)])
        f = field(points)
        f = f.reshape(len(points), math.prod(f.shape[1:]))
        f_anchor = f[len(x_query) :].reshape(*x_anchor.shape[:-1], f.shape[1])
        return self(x_query, f[: len(x_query)], x_anchor, f_anchor)

    @torch.no_grad()
    def attention(
        self,
        x_query: Float[Tensor, "n d"],
        x_anchor: Float[Tensor, "*anchors d"],
        self_index: Int[Tensor, " n"] | None = None,
    ) -> Float[Tensor, "n n_anchor"]:
        """A(x, X) in full, (n, m) or (n, k), for display; without gradient."""
        g_query, g_anchor = _common_dtype(self.similarity_features(x_query), self.similarity_features(x_anchor))
        if x_anchor.ndim == 2:
            return _logits(g_query, g_anchor, self_index).softmax(dim=1)
        return torch.einsum("nkr,nr->nk", g_anchor, g_query).softmax(dim=1)

    def weight_at(self, progress: float) -> float:
        """The loss's weight at a fraction `progress` of the training. Raises: ValueError outside [0, 1]."""
        if not 0 <= progress <= 1:
            raise ValueError(f"progress must be in [0, 1], got {progress}")
        return self.weight if progress >= self.warmup else self.weight * progress / self.warmup
