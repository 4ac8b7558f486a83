"""What nerfstudio's data-parallel training must be shown."""

from __future__ import annotations

from torch import Tensor, nn


def seen_by_ddp(module: nn.Module) -> list[Tensor]:
    """The parameters as outputs of a forward pass.

    nerfstudio's DDP looks for unused parameters in the graph of the model's outputs. Parameters that only a loss uses
    would count as unused, be marked ready at once, and once more by their gradient, which is an error.
    """
    return [parameter.view_as(parameter) for parameter in module.parameters()]
