"""One training step on half a batch, for `test_ddp.py`: nothing random, so that two halves add up to the whole."""

import random
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from tests.nerf.runs import nerfacto_config, tiny_config

N_RAYS, PERIOD = 64, 8


def build(method: str, folder: Path, rank: int | None) -> tuple[Any, Any, dict[str, Tensor]]:
    """The model and rank's half of a batch, or all of it; the same model everywhere."""
    random.seed(0)  # nerfstudio shuffles images by it
    torch.manual_seed(0)
    if method == "peak-lite":
        model = {"kar_form": "point", "train_background": "white", "cull_cells": False}
        config = tiny_config(folder, network_precision="float32", **model)
    else:
        tiny_config(folder)  # writes the scene
        config = nerfacto_config(folder / "scene", folder / "out")
        config.pipeline.model.num_proposal_samples_per_ray = (24, 16)
    pipeline = config.pipeline.setup(device="cpu", test_mode="val", world_size=1, local_rank=0)
    torch.manual_seed(1)
    rays, batch = pipeline.datamanager.next_train(0)
    # Both halves have the same rays, so that evenly spaced samples of the whole are those of the halves; what the rays
    # should have seen differs.
    first = torch.arange(N_RAYS // 2)
    rays, image = rays[torch.cat((first, first))], batch["image"][:N_RAYS]
    half = slice(None) if rank is None else slice(rank * N_RAYS // 2, (rank + 1) * N_RAYS // 2)
    model = pipeline.model
    if method == "peak-lite":
        # A grid that starts near zero is nearly constant: KAR's gradients would be of the size of rounding.
        torch.nn.init.uniform_(model.field.grid.table, -0.1, 0.1)
    model.progress = 1.0
    model.config.kar_queries = 4 * PERIOD * (2 if rank is None else 1)
    return model.train(), rays[half], {"image": image[half]}


def backward(model: Any, wrapped: Any, rays: Any, batch: dict[str, Tensor]) -> None:
    """As nerfstudio's pipeline: forward through DDP, losses from the model."""
    with mock.patch("torch.rand", _rand), mock.patch("torch.randint", _randint):
        outputs = wrapped(rays)
        metrics = model.get_metrics_dict(outputs, batch)
        losses = model.get_loss_dict(outputs, batch, metrics)
    assert losses["kar"] > 0
    sum(losses.values()).backward()


def gradients(model: Any) -> dict[str, Tensor]:
    """By name of the parameter."""
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def one_process(method: str, folder: Path) -> dict[str, Tensor]:
    """The gradients on the whole batch."""
    model, rays, batch = build(method, folder, None)
    backward(model, model, rays, batch)
    return gradients(model)


def _rand(*size: Any, **_: Any) -> Tensor:
    """Numbers that repeat every `PERIOD` rows, the same in both halves of a batch."""
    size = tuple(size[0]) if len(size) == 1 and not isinstance(size[0], int) else size
    rows = torch.arange(size[0]) % PERIOD if size else torch.zeros(1)
    columns = torch.arange(max(1, int(torch.tensor(size[1:]).prod())) if len(size) > 1 else 1)
    values = ((rows[:, None] * 0.137 + columns * 0.311 + 0.05) % 1.0).to(torch.float32)
    return values.reshape(size)


def _randint(high: int, size: tuple[int, ...], **_: Any) -> Tensor:
    """Evenly spaced numbers below high."""
    n = size[0]
    return (torch.arange(n) * high) // n
