"""peak_nerf: implicit neural representations that generalise from few measurements.

`core` is the field core (encodings, backbones, Kernel Alignment Regularizer), `nerf` the nerfstudio method,
`bench` the measurements, `cli` the `peak` command.
"""

__version__ = "0.2.0"
