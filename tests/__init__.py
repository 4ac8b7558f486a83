"""Tests mirror `peak_nerf/`; helpers beside them are imported by their full names."""

from beartype import BeartypeConf, beartype

check_types = beartype(conf=BeartypeConf(is_pep484_tower=True))
"""Checks annotations at run time (`--jaxtyping-packages`); an int may stand for a float, as PEP 484 has it."""
