r"""KAR in unobserved regions: where no camera sees, opacity is regularised towards similar places that cameras do see.

With few views, much of what the visual hull leaves occupied is hidden behind surfaces in every training image. The data
say nothing about the density there; new views look straight at it, and see fog.

Symbols:
    f          log density, see `relative_log_density`: 0 where empty, 1 where solid
    x          queries: points in occupied cells that no training ray has reached lately
    X          the bank: m anchors shared by all queries
    T          transmittance in front of a sample
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from peak_nerf.core.kar import KernelAlignmentRegularizer, kernel_alignment_residual
from peak_nerf.nerf.losses.kar import KarForm, KarStep
from peak_nerf.nerf.options import KarOptions
from peak_nerf.nerf.render.marked import Marked
from peak_nerf.nerf.render.renderer import VolumeRenderer

LOG_EMPTY, LOG_SOLID = -6.0, 5.0
"""Log densities, per unit of the half box, that count as empty and as solid."""
SEEN = 0.05
"""A camera sees a sample when at least this fraction of its light comes through."""
FORGET = 64
"""Steps after which a cell that no ray has reached counts as hidden."""
REFRESH = 16
"""Steps between searches for hidden cells."""


def relative_log_density(density: Float[Tensor, " n"]) -> Float[Tensor, "n 1"]:
    """f = (log density - LOG_EMPTY) / (LOG_SOLID - LOG_EMPTY), held to [0, 1], with shape (n, 1).

    On a log scale, since the opacity of solid fog has no gradient left by which it could thin out.
    """
    log_density = density.clamp_min(1e-8).log().clamp(LOG_EMPTY, LOG_SOLID)
    return ((log_density - LOG_EMPTY) / (LOG_SOLID - LOG_EMPTY))[:, None]


class SeenCells:
    """When a training ray last reached each cell of the occupancy grid, in steps of the training.

    Not part of a checkpoint: a resumed run looks for `FORGET` steps before it calls anything hidden.
    """

    def __init__(self, n_cells: int, device: torch.device) -> None:
        self.step = 0
        self.last = torch.zeros(n_cells, dtype=torch.int32, device=device)

    def observe(self, cells: Int[Tensor, " n"], reached: Bool[Tensor, " n"]) -> None:
        """One step on: those of these cells have been reached."""
        self.step += 1
        # Not by an index of those: a GPU's host would have to wait for their number.
        self.last.scatter_reduce_(0, cells, torch.where(reached, self.step, 0).to(self.last.dtype), "amax")

    def hidden(self, occupied: Bool[Tensor, " n_cells"]) -> Bool[Tensor, " n_cells"]:
        """Occupied cells that no ray has reached for `FORGET` steps; none in the first `FORGET` steps."""
        if self.step <= FORGET:
            return torch.zeros_like(occupied)
        return occupied & (self.last < self.step - FORGET)


class KarUnobserved(KarForm):
    r"""lambda (mean_X ||f(X) - A(X, X) f(X)|| + mean_x ||f(x) - A(x, X) f(X)||), the bank's f(X) without gradient.

    The first term teaches g which places are alike, where cameras tell; the second applies it where they do not.
    Half of the bank are samples of the step's rays that cameras see, half lie anywhere in the box: most are empty.
    What cameras see has no gradient, so the weight may be large, and a scene seen from all sides has few queries.

    Source: Li et al., ICML 2025, section 3.4; queries, bank and f are ours.
    """

    def __init__(self, kar: KernelAlignmentRegularizer, renderer: VolumeRenderer, options: KarOptions) -> None:
        super().__init__(kar, renderer, options)
        self.interval = 1  # it keeps watch of what rays reach
        occupied = renderer.occupancy.occupied
        self.seen = SeenCells(occupied.numel(), occupied.device)
        self._look(occupied)

    def _look(self, occupied: Tensor) -> None:
        """Search for hidden cells."""
        self.hidden = Marked(self.seen.hidden(occupied.view(-1)))

    def compute(self, step: KarStep) -> Tensor | None:
        """Both terms; None where there is nothing to compare yet."""
        samples, density, n_bank = step.rendered.samples, step.rendered.density, self.options.kar_bank
        occupancy = self.renderer.occupancy
        reached = step.rendered.transmittance > SEEN
        self.seen.observe(samples.cell, reached)
        if self.seen.step % REFRESH == 0:
            self._look(occupancy.occupied)
        if len(samples) < 2 or self.seen.step <= FORGET:
            return None
        seen = Marked(reached)
        if seen.fewer_than(2):
            return None
        chosen = seen.draw(n_bank // 2)
        anywhere = 2 * torch.rand(n_bank - len(chosen), 3, device=reached.device) - 1
        bank = torch.cat((samples.x[chosen].detach().clamp(-1, 1), anywhere))
        f_bank = torch.cat((relative_log_density(density[chosen].detach()), self._f(anywhere).detach()))
        g_bank = self.kar.similarity_features(bank)
        itself = torch.arange(len(bank), device=bank.device)
        loss = self.kar.mean_norm(kernel_alignment_residual(f_bank, g_bank, f_bank, g_bank, itself))
        if not self.hidden.fewer_than(1):
            x = self.renderer.to_field(occupancy.points_in(self.hidden.draw(self.n_queries)))
            with torch.no_grad():
                g = self.kar.similarity_features(x)
            residual = kernel_alignment_residual(self._f(x), g, f_bank, g_bank.detach())
            loss = loss + self.hidden.mask.any() * self.kar.mean_norm(residual)
        return loss

    def residual(self, x: Tensor, directions: Tensor) -> Tensor:
        """f - A f at points, against a bank drawn anew from the grid: half from anywhere, half from occupied cells."""
        occupancy = self.renderer.occupancy
        bank = self.renderer.to_field(occupancy.points_in(occupancy.random_cells(self.options.kar_bank)))
        g, g_bank = self.kar.similarity_features(x.clamp(-1, 1)), self.kar.similarity_features(bank)
        return kernel_alignment_residual(self._f(x), g, self._f(bank), g_bank)

    def _f(self, x: Tensor) -> Tensor:
        """f(x); what rendering skips counts as empty, whatever the network says there."""
        occupancy = self.renderer.occupancy
        density, _ = self.renderer.field.density(x)
        return relative_log_density(density * occupancy.occupied.view(-1)[self.renderer.cells(x)])
