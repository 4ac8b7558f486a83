r"""KAR on planes, the separable form: rows of a small plane should be averages of its rows, columns of its columns.

The Dirichlet energy of Prop. 3.6 in its squared form, see `core.kar.dirichlet_energy`, on planes through ray samples.

Symbols:
    f          (opacity of one step, colour) at the points of a plane, (side, side, 4)
"""

from __future__ import annotations

import torch
from torch import Tensor

from peak_nerf.core.kar import dirichlet_energy
from peak_nerf.nerf.losses.kar import KarStep
from peak_nerf.nerf.losses.kar_samples import KarAtPoints

SIDE = 12
"""Points along each side of a plane."""


class KarOnPlanes(KarAtPoints):
    """Queries and anchors are one plane a step: side x side points `kar_radius` / 2 apart, along two axes of the box.

    The plane's middle is a sample of the batch's rays and all of it is looked at from there. In the viewer the residual
    is that of the point form. Source: Li et al., ICML 2025, Prop. 3.6.
    """

    @property
    def asks_unseen(self) -> bool:
        """Its queries are a plane's."""
        return False

    def ask(self, step: KarStep) -> Tensor | None:
        """(tr(F_r^T L_r F_r) + tr(F_c^T L_c F_c)) / side^2 on a plane drawn anew."""
        if not len(step.samples):
            return None
        device = step.directions.device
        chosen = torch.randint(len(step.samples), (1,), device=device)
        axes = torch.randperm(3, device=device)[:2]
        offset = (torch.arange(SIDE, device=device) - (SIDE - 1) / 2) * (self.config.kar_radius / 2)
        x = step.samples.x[chosen].expand(SIDE, SIDE, 3).clone()
        x[:, :, axes[0]] += offset[:, None]
        x[:, :, axes[1]] += offset
        x = x.clamp(-1, 1)
        seen_from = step.directions[step.samples.ray[chosen]].expand(SIDE**2, 3)
        f = self._f(x.reshape(-1, 3), seen_from).reshape(SIDE, SIDE, -1)
        # g is asked on the plane's two centre lines.
        g_rows = self.kar.similarity_features(x.mean(dim=1))
        g_columns = self.kar.similarity_features(x.mean(dim=0))
        energy = dirichlet_energy(f.flatten(1), g_rows) + dirichlet_energy(f.transpose(0, 1).flatten(1), g_columns)
        return energy / SIDE**2
