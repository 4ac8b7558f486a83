"""Other packages' deprecations are not shown; ours are."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from peak_nerf.system import quiet


def heard(message: str, category: type[Warning], module: str) -> bool:
    """Whether a warning that is raised in a module reaches the terminal."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        quiet.silence_other_packages()
        warnings.warn_explicit(message, category, f"{module}.py", 1, module=module)
    return len(caught) == 1


@pytest.mark.parametrize("module", ["torch", "torch.jit._script", "nerfstudio.field_components.activations"])
@pytest.mark.parametrize("category", [DeprecationWarning, FutureWarning])
def test_deprecations_of_others_are_silent(category: type[Warning], module: str) -> None:
    assert not heard("`f` is deprecated", category, module)
    assert heard("`f` is deprecated", category, "peak_nerf.core.field")
    assert heard("`f` is deprecated", category, "torchlike")


def test_false_alarms_are_silent_and_other_warnings_are_not() -> None:
    alarm = "Detected call of `lr_scheduler.step()` before `optimizer.step()`. In PyTorch 1.1.0 and later"
    assert not heard(alarm, UserWarning, "nerfstudio.engine.optimizers")
    assert heard(alarm, UserWarning, "peak_nerf.nerf.train.trainer")
    assert heard("the loss is not finite", UserWarning, "torch.optim")


def test_python_starts_with_the_filter_of_its_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(quiet.sysconfig, "get_path", lambda _: str(tmp_path))
    monkeypatch.setattr(quiet.sys, "prefix", "/a/venv")
    quiet.main()
    script = (tmp_path / "peak_nerf_quiet.pth").read_text()
    script += "warnings.warn('`torch.jit.script` is deprecated. Please', FutureWarning)\nwarnings.warn('ours')\n"
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert "torch.jit" not in child.stderr
    assert "UserWarning: ours" in child.stderr


def test_no_other_python_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quiet.sys, "prefix", quiet.sys.base_prefix)
    with pytest.raises(SystemExit, match="nothing was changed"):
        quiet.main()
