"""Where a browser's camera stands when it opens the viewer, and who may open it."""

from __future__ import annotations

from typing import Any

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.utils.rich_utils import CONSOLE
from nerfstudio.viewer.viewer_elements import ViewerControl
from torch import Tensor

WORLD_UP = (0.0, 0.0, 1.0)
"""Blender's scenes have it, and nerfstudio turns captures to it."""


AHEAD = 0.25
"""How far towards the scene from the camera itself: from its very place its own frustum, drawn with its image, would
hide the scene."""


def first_view(cameras: Cameras, centre: Tensor) -> tuple[Tensor, Tensor]:
    """Position (3,) a little ahead of the first camera, and the point (3,) of its axis that is nearest to `centre`.

    The viewer turns around that point, `AHEAD` of the way to which it stands. A camera that looks away from the
    centre looks one unit ahead.
    """
    pose = cameras.camera_to_worlds[0].to(centre)
    position, forward = pose[:, 3], -pose[:, 2]
    ahead = torch.dot(centre - position, forward)
    way = (ahead if ahead > 0 else 1.0) * forward
    return position + AHEAD * way, position + way


def say_who_may_look(host: str, port: int) -> None:
    """In a line: who looks can steer the training and read the pictures."""
    if host in ("127.0.0.1", "localhost", "::1"):
        line = (
            f"viewer: for this machine only; from another, `ssh -L {port}:127.0.0.1:{port} THIS_MACHINE`, then"
            f" http://127.0.0.1:{port}; --viewer.websocket-host 0.0.0.0 lets everybody in who reaches this machine"
        )
    else:
        line = f"viewer: open to everybody who reaches {host}:{port}; --viewer.websocket-host 127.0.0.1 closes it"
    CONSOLE.print(line, markup=False, highlight=False, soft_wrap=True)


class FirstView(ViewerControl):
    """Puts the camera of every browser that connects near the first training camera.

    nerfstudio leaves it to viser's default, which lies inside the box of a Blender scene. The pipeline holds one as an
    attribute; the viewer finds it there and calls `_setup`.
    """

    def __init__(self, cameras: Cameras, centre: Tensor) -> None:
        self.cameras, self.centre = cameras, centre

    def _setup(self, viewer: Any) -> None:
        super()._setup(viewer)
        say_who_may_look(viewer.config.websocket_host, viewer.viser_server.get_port())
        viewer.viser_server.on_client_connect(self.place)

    def place(self, client: Any) -> None:
        """Move the camera of a viser client."""
        from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO  # it imports a lot, and only for viewers

        position, target = (point.cpu().numpy() for point in first_view(self.cameras, self.centre))
        with client.atomic():
            client.camera.up_direction = WORLD_UP
            client.camera.position = position * VISER_NERFSTUDIO_SCALE_RATIO
            client.camera.look_at = target * VISER_NERFSTUDIO_SCALE_RATIO
