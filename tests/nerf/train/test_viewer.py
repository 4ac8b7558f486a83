"""The viewer opens a little ahead of the first training camera, looking at the scene."""

import contextlib
import types

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras

from peak_nerf.nerf.train.viewer import FirstView, first_view
from tests.nerf.runs import start, tiny_config


def camera_at(position: list[float], backward: list[float]) -> Cameras:
    """A camera whose third column, which points backward, is given; the viewer needs no more of its rotation."""
    pose = torch.zeros(1, 3, 4)
    pose[0, :, 2], pose[0, :, 3] = torch.tensor(backward), torch.tensor(position)
    return Cameras(pose, fx=10.0, fy=10.0, cx=5.0, cy=5.0)


def test_it_looks_along_the_axis_to_the_point_nearest_to_the_centre() -> None:
    position, target = first_view(camera_at([4.0, 0.0, 1.0], [1.0, 0.0, 0.0]), torch.zeros(3))
    assert position.tolist() == [3.0, 0.0, 1.0]
    assert target.tolist() == [0.0, 0.0, 1.0]


def test_a_camera_that_looks_away_looks_one_unit_ahead() -> None:
    _, target = first_view(camera_at([4.0, 0.0, 1.0], [-1.0, 0.0, 0.0]), torch.zeros(3))
    assert target.tolist() == [5.0, 0.0, 1.0]


def test_every_client_is_placed(tmp_path) -> None:
    """The pipeline has the control where nerfstudio's viewer looks for it, and the control places who connects."""
    from nerfstudio.viewer.utils import parse_object
    from nerfstudio.viewer.viewer_elements import ViewerControl

    pipeline = start(tiny_config(tmp_path)).pipeline
    controls = [control for _, control in parse_object(pipeline, ViewerControl, "Custom Elements")]
    assert [type(control) for control in controls] == [FirstView]
    callbacks: list = []
    server = types.SimpleNamespace(on_client_connect=callbacks.append, get_port=lambda: 7007)
    host = types.SimpleNamespace(websocket_host="127.0.0.1")
    controls[0]._setup(types.SimpleNamespace(viser_server=server, config=host))
    client = types.SimpleNamespace(camera=types.SimpleNamespace(), atomic=contextlib.nullcontext)
    callbacks[0](client)
    expected = 7.5 * pipeline.datamanager.train_dataset.cameras.camera_to_worlds[0, :, 3]
    assert client.camera.position == pytest.approx(expected.tolist(), abs=1e-4)
    # The cameras of the test scene look at its origin.
    assert client.camera.look_at == pytest.approx([0.0, 0.0, 0.0], abs=1e-3)
