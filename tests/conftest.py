"""Shared by all tests."""

import sys
from pathlib import Path

# Helper modules such as nerf/scene_factory.py are imported by name.
for folder in ("nerf", "tasks"):
    sys.path.insert(0, str(Path(__file__).parent / folder))
