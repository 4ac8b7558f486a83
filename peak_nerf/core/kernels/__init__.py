"""The kernels behind PEAK, as functions on tensors.

`ntk`: the empirical neural tangent kernel of any module. `infinite_width`: its limit, in closed form. `optimal`: the
kernel that predicts best, and regression with any. `aligned_encoding`: an encoding that turns one kernel into another.
`alignment`: how alike two kernels are.
"""
