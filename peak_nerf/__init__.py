"""peak_nerf: implicit neural representations that generalise from few measurements.

`core` is the field core (encodings, backbones, Kernel Alignment Regularizer), `tasks` what it does to pictures and
kernels, `nerf` the nerfstudio method, `bench` the suites, `cli` the `peak` command. Imports go one way; the floors are
in CONTRIBUTING.md.
"""

__version__ = "0.2.0"
