"""What nerfstudio sees of us, also when we are broken."""

import dataclasses
import subprocess
import sys
import textwrap
from importlib.metadata import entry_points

import pytest
from nerfstudio.plugins.registry_dataparser import DataParserSpecification
from nerfstudio.plugins.types import MethodSpecification

from peak_nerf.nerf import registration
from peak_nerf.nerf.model import PeakModelConfig


def test_methods_and_parser_are_registered() -> None:
    methods = entry_points(group="nerfstudio.method_configs")
    for name in ("peak", "peak-lite"):
        specification = methods[name].load()
        assert isinstance(specification, MethodSpecification)
        assert specification.config.method_name == name
        assert specification.config.machine.device_type == "cpu"  # there is no CUDA here
    parser = entry_points(group="nerfstudio.dataparser_configs")["peak-data"].load()
    assert isinstance(parser, DataParserSpecification)


def test_peak_has_the_size_of_its_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Full size and CUDA where there is CUDA; elsewhere `peak` differs from `peak-lite` by its name alone."""
    from peak_nerf.nerf import methods

    here, lite = methods.peak_method.config, methods.peak_lite_method.config  # there is no CUDA here
    assert here.pipeline is not lite.pipeline  # a change in one must not reach the other
    assert dataclasses.replace(here, method_name="peak-lite") == lite
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    full = methods._peak_of_this_machine().config
    assert (full.method_name, full.machine.device_type) == ("peak", "cuda")
    assert (full.max_num_iterations, full.pipeline.model) == (20000, PeakModelConfig())
    assert (lite.max_num_iterations, lite.pipeline.model.log2_table_size) == (2800, 17)


def test_unknown_attribute() -> None:
    with pytest.raises(AttributeError, match="no attribute 'peek'"):
        registration.peek  # noqa: B018


def test_an_error_of_ours_leaves_other_methods_alone() -> None:
    """With our configuration failing to import, nerfstudio's own methods are there and one warning names us."""
    program = """
        import sys
        sys.modules["peak_nerf.nerf.methods"] = None  # importing it raises ImportError
        from nerfstudio.configs.method_configs import all_methods
        assert "nerfacto" in all_methods
        assert "peak" not in all_methods
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "peak_nerf could not be loaded" in " ".join(done.stdout.split())
