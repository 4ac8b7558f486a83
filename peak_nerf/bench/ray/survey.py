"""What a node of a cluster has: versions and data. Imports the standard library alone, for it is sent whole, also to
nodes that lack peak_nerf."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path


def versions() -> dict[str, str]:
    """Of what a cell's figures depend on; torch without its build, which names the machine's GPU."""
    found = {"Python": ".".join(platform.python_version_tuple()[:2]), "peak_nerf": "not installed"}
    spec = importlib.util.find_spec("peak_nerf")
    if spec is not None and spec.origin is not None:
        from peak_nerf import __version__

        found["peak_nerf"] = f"{__version__} (sources {_sources(os.path.dirname(spec.origin))})"
    try:
        found["torch"] = metadata.version("torch").partition("+")[0]
    except metadata.PackageNotFoundError:
        found["torch"] = "not installed"
    return found


def _sources(folder: str) -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(folder).rglob("*.py")):
        digest.update(f"{path.relative_to(folder).as_posix()}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:8]


def difference(there: dict[str, str], here: dict[str, str]) -> str:
    """How a node's versions differ from the driver's, in words; empty when they do not."""
    names = [name for name in here if there.get(name) != here[name]]
    return ", ".join(f"{name} is {there.get(name)} there and {here[name]} here" for name in names)


def survey(paths: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """This node's versions, and which of the paths are not there."""
    return versions(), [path for path in paths if not os.path.exists(path)]


def files_of(path: Path) -> list[tuple[str, Path]]:
    """A file, or all files of a folder, each with the name that it has from `path`'s parent on."""
    if not path.is_dir():
        return [(path.name, path)]
    return [(file.relative_to(path.parent).as_posix(), file) for file in sorted(path.rglob("*")) if file.is_file()]


def fingerprint(path: Path) -> str:
    """The content of a file or a folder; empty when there is none."""
    if not path.exists():
        return ""
    digest = hashlib.sha256()
    for name, file in files_of(path):
        digest.update(f"{name}\n".encode() + file.read_bytes())
    return digest.hexdigest()
