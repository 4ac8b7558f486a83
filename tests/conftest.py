"""Shared by all tests."""

import sys
from pathlib import Path

# Helper modules such as nerf/scene_factory.py are imported by name.
sys.path.insert(0, str(Path(__file__).parent / "nerf"))
