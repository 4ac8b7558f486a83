"""PEAK for nerfstudio's own models: a mixin that adds the polynomial encoding and the Kernel Alignment Regularizer.

`docs/plugin.md` shows how a method's author uses it; `nerfacto.py` is the example that we ship.

Symbols:
    f          what KAR compares: (opacity of a sample, colour), with shape (n, 4)
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from nerfstudio.cameras.rays import Frustums, RayBundle, RaySamples
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes
from nerfstudio.field_components.encodings import HashEncoding
from nerfstudio.field_components.field_heads import FieldHeadNames
from nerfstudio.field_components.mlp import MLP, MLPWithHashEncoding
from torch import Tensor, nn
from torch.nn import Parameter

from peak_nerf.core.encodings import PolynomialEncoding
from peak_nerf.core.hash_grid import HashGridEncoding
from peak_nerf.core.kar import KernelAlignmentRegularizer
from peak_nerf.errors import PeakError
from peak_nerf.metrics import lpips_weights
from peak_nerf.nerf.ddp import seen_by_ddp
from peak_nerf.nerf.options import KAR_QUERIES
from peak_nerf.nerf.options import PeakOptions as PeakOptions
from peak_nerf.nerf.progress import progress_callback
from peak_nerf.system.waiting import sleep_when_busy

KAR_WEIGHT = 1e-2
"""Weight of KAR where none is given."""

if TYPE_CHECKING:
    from nerfstudio.models.base_model import Model as _Base
else:
    _Base = object


class PeakModelMixin(_Base):
    """Stands before a nerfstudio model: `class MyPeakModel(PeakModelMixin, MyModel)`, its config with `PeakOptions`.

    Adds the loss `kar`, the parameter group `kar`, and to `self.field.mlp_base` the polynomial encoding. Works under
    nerfstudio's DDP; needs no download, and runs hash grids without tiny-cuda-nn by our kernels.

    Override where a model differs: `hashed_networks` (what gets the encoding), `kar_samples` (where queries are),
    `kar_values` (what f is), `kar_coordinates` (what g sees).

    Source: Li et al., ICML 2025, sections 3.3 and 3.4.
    """

    config: Any
    field: Any

    def populate_modules(self) -> None:
        """The model's own modules, then the encoding and g."""
        sleep_when_busy()
        with without_lpips_download(type(self)):
            super().populate_modules()
        weight = KAR_WEIGHT if self.config.kar_weight is None else self.config.kar_weight
        queries = KAR_QUERIES if self.config.kar_queries is None else self.config.kar_queries
        c = self.config = dataclasses.replace(self.config, kar_weight=weight, kar_queries=queries)
        if weight < 0 or c.kar_queries < 1 or c.kar_anchors < 1 or not c.kar_radius > 0:
            raise PeakError("--pipeline.model.kar-*: give a weight of 0 or more; queries, anchors and radius above 0")
        self.polynomials: list[PolynomialEncoding] = []
        device = self.kwargs.get("device", "cpu")
        if c.polynomial_degree is not None:
            self.polynomials = [add_polynomial(net, c.polynomial_degree) for net in self.hashed_networks()]
        replace_hash_encodings(self, device)
        self.kar: KernelAlignmentRegularizer | None = None
        if weight > 0:
            self.kar = KernelAlignmentRegularizer(3, n_features=c.kar_n_features, weight=weight, warmup=c.kar_warmup)
        self.progress = 0.0

    # What a method's author may override

    def hashed_networks(self) -> list[MLPWithHashEncoding]:
        """The networks that the polynomial encoding is added to."""
        base = getattr(self.field, "mlp_base", None)
        if not isinstance(base, MLPWithHashEncoding):
            raise PeakError(
                f"{type(self).__name__}: its field has no mlp_base of nerfstudio's MLPWithHashEncoding; override"
                " hashed_networks, or pass --pipeline.model.polynomial-degree None"
            )
        return [base]

    def kar_samples(self, outputs: dict[str, Any]) -> RaySamples:
        """The samples of a training step, (n_rays, n_samples), that queries are drawn from."""
        return outputs["ray_samples_list"][-1]

    def kar_values(self, samples: RaySamples) -> Tensor:
        """f at n samples, with shape (n, 4)."""
        found = self.field.forward(samples)
        assert samples.deltas is not None
        opacity = -torch.expm1(-found[FieldHeadNames.DENSITY] * samples.deltas)
        return torch.cat((opacity, found[FieldHeadNames.RGB]), -1)

    def kar_coordinates(self, x: Tensor) -> Tensor:
        """Positions (..., 3) in the world as g sees them: the scene box, or the contracted space, in [-1, 1]^3."""
        if getattr(self.field, "spatial_distortion", None) is not None:
            return self.field.spatial_distortion(x) / 2
        return SceneBox.get_normalized_positions(x, self.field.aabb) * 2 - 1

    # KAR

    def kar_loss(self, outputs: dict[str, Any]) -> Tensor:
        """Weighted KAR of a training step."""
        assert self.kar is not None
        c = self.config
        samples = self.kar_samples(outputs).flatten()
        samples = samples[torch.randint(len(samples.frustums.origins), (c.kar_queries,), device=self.device)]
        x = samples.frustums.get_positions().detach()
        anchors = x[:, None] + self._reach(x)[:, None] * (2 * torch.rand(len(x), c.kar_anchors, 3).to(x) - 1)
        f = self.kar_values(_joined(samples, x, anchors))
        f_anchor = f[len(x) :].reshape(len(x), c.kar_anchors, -1)
        loss = self.kar(self.kar_coordinates(x), f[: len(x)], self.kar_coordinates(anchors), f_anchor)
        return self.kar.weight_at(min(1.0, self.progress)) * loss

    def _reach(self, x: Tensor) -> Tensor:
        """How far anchors lie from queries x (n, 3) in the world, along each axis."""
        radius = self.config.kar_radius
        if getattr(self.field, "spatial_distortion", None) is None:
            return radius * (self.field.aabb[1] - self.field.aabb[0]).expand_as(x) / 2
        return 2 * radius * x.abs().amax(-1, keepdim=True).clamp(min=1).expand_as(x)

    # nerfstudio's own methods

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        """The model's groups; a_k are in that of the field, g in `kar`."""
        groups = super().get_param_groups()
        if self.kar is not None:
            groups["kar"] = list(self.kar.parameters())
        return groups

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """The model's own, and one that knows how far the training is."""
        followed = progress_callback(self, training_callback_attributes.trainer)
        return [followed, *super().get_training_callbacks(training_callback_attributes)]

    def get_outputs(self, ray_bundle: RayBundle) -> dict[str, Any]:
        """The model's outputs; in training with what DDP must see of g."""
        outputs: dict[str, Any] = super().get_outputs(ray_bundle)
        if self.training and self.kar is not None:
            outputs["kar_parameters"] = seen_by_ddp(self.kar)
        return outputs

    def get_loss_dict(self, outputs: Any, batch: Any, metrics_dict: Any = None) -> dict[str, Tensor]:
        """The model's losses and `kar`."""
        losses = super().get_loss_dict(outputs, batch, metrics_dict)
        if self.training and self.kar is not None:
            losses["kar"] = self.kar_loss(outputs)
        return losses

    def get_metrics_dict(self, outputs: Any, batch: Any) -> dict[str, Tensor]:
        """The model's metrics and the polynomial's a_k."""
        metrics = super().get_metrics_dict(outputs, batch)
        for polynomial in self.polynomials[:1]:
            metrics.update({f"a_{k}": a_k for k, a_k in enumerate(polynomial.coefficients.detach())})
        return metrics

    def get_image_metrics_and_images(self, outputs: Any, batch: Any) -> tuple[dict[str, float], dict[str, Tensor]]:
        """The model's; a metric that could not be had is absent."""
        metrics, images = super().get_image_metrics_and_images(outputs, batch)
        lacking = {name for name in metrics if isinstance(getattr(self, name, None), MissingMetric)}
        return {name: value for name, value in metrics.items() if name not in lacking}, images


def _joined(samples: RaySamples, x: Tensor, anchors: Tensor) -> RaySamples:
    """Queries (n, 3), then their anchors (n, k, 3), as samples; each anchor is looked at as its query is."""
    n, k, _ = anchors.shape
    own = torch.arange(n, device=x.device)
    query = torch.cat((own, own.repeat_interleave(k)))
    zeros = x.new_zeros(len(query), 1)
    frustums = Frustums(
        origins=torch.cat((x, anchors.reshape(-1, 3))),
        directions=samples.frustums.directions[query],
        starts=zeros,
        ends=zeros,
        pixel_area=samples.frustums.pixel_area[query],
    )
    cameras = None if samples.camera_indices is None else samples.camera_indices[query]
    assert samples.deltas is not None
    return RaySamples(frustums=frustums, camera_indices=cameras, deltas=samples.deltas[query])


# ------------------------------------------------------------------------------------------------------ encodings


class PolynomialBeside(nn.Module):
    """gamma(2 x - 1) behind another encoding of x in [0, 1]^3."""

    def __init__(self, encoding: nn.Module, polynomial: PolynomialEncoding) -> None:
        super().__init__()
        self.encoding, self.polynomial = encoding, polynomial

    def forward(self, x: Tensor) -> Tensor:
        """Features of (n, 3)."""
        features = self.encoding(x)
        return torch.cat((features, self.polynomial(2 * x - 1).to(features.dtype)), -1)


def add_polynomial(network: MLPWithHashEncoding, degree: int) -> PolynomialEncoding:
    """Put the polynomial encoding beside the network's hash grid; the MLP behind is made anew, as wide as it then must.

    The network stays the object that it is; where tiny-cuda-nn had fused grid and MLP, both are apart afterwards.
    """
    network.build_nn_modules()
    network.tcnn_encoding = None
    grid = network.model[0]
    polynomial = PolynomialEncoding(3, degree, coordinate_map="raw")
    mlp = MLP(
        in_dim=grid.get_out_dim() + polynomial.out_dim,
        num_layers=network.num_layers,
        layer_width=network.layer_width,
        out_dim=network.out_dim,
        skip_connections=network.skip_connections,
        activation=network.activation,
        out_activation=network.out_activation,
        implementation="torch",
    )
    network.model = nn.Sequential(PolynomialBeside(grid, polynomial), mlp)
    return polynomial


class FastHashEncoding(HashGridEncoding):
    """Our grid in the place of nerfstudio's torch one, which is tens of times slower on a CPU."""

    def get_out_dim(self) -> int:
        """As nerfstudio's encodings."""
        return self.out_dim

    def forward(self, in_tensor: Tensor) -> Tensor:
        """Features of positions (..., 3) in [0, 1]^3."""
        return super().forward(in_tensor.reshape(-1, 3)).reshape(*in_tensor.shape[:-1], self.out_dim)


def replace_hash_encodings(module: nn.Module, device: torch.device | str) -> None:
    """Let our grid, dense where its levels are small enough, stand in for every hash encoding not of tiny-cuda-nn."""
    replaced: dict[nn.Module, nn.Module] = {}  # one encoding may have several names
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if not isinstance(child, HashEncoding) or child.tcnn_encoding is not None:
                continue
            if child not in replaced:
                levels, coarsest = child.num_levels, child.min_res
                finest = round(coarsest * float(child.growth_factor) ** (levels - 1))
                sizes = (levels, child.features_per_level, child.log2_hashmap_size, coarsest, finest)
                replaced[child] = FastHashEncoding(3, *sizes, init_scale=child.hash_init_scale, device=device)
            setattr(parent, name, replaced[child])


# ---------------------------------------------------------------------------------------------------------- LPIPS


class MissingMetric(nn.Module):
    """Stands for a metric whose weights are not on this machine; its value is NaN, and the mixin leaves it out."""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def forward(self, *_: Any) -> Tensor:
        """Not a number."""
        return torch.tensor(float("nan"))


@contextlib.contextmanager
def without_lpips_download(model: type) -> Iterator[None]:
    """Within, a model that builds LPIPS gets a `MissingMetric` unless LPIPS's weights are here: it would download them.

    model: the model's class; a module of its bases may have imported LPIPS by name.
    """
    name = "LearnedPerceptualImagePatchSimilarity"
    if lpips_weights() is not None:
        yield
        return
    import torchmetrics.image
    import torchmetrics.image.lpip

    modules: list[Any] = [torchmetrics.image, torchmetrics.image.lpip]
    modules += [sys.modules[base.__module__] for base in model.__mro__ if base.__module__ in sys.modules]
    found = {module: getattr(module, name) for module in modules if hasattr(module, name)}
    try:
        for module in found:
            setattr(module, name, MissingMetric)
        yield
    finally:
        for module, real in found.items():
            setattr(module, name, real)
