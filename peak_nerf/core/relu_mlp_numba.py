"""Compiled CPU kernels of a ReLU network in float32: forward, and the gradients of input, weights and biases.

torch goes through memory layer by layer. Here a block of rows goes through all layers while it is in the cache, and one
routine, `_tile`, does all products: it holds a tile of the result in vector registers and adds to it, for each p, a
column of `a` times a row of `b`. Rows stay as they are in memory:

    forward          H[i, j]  = relu(B[j] + sum_k X[i, k] W^T[k, j])
    input gradient   dX[i, k] = sum_j dZ[i, j] W[j, k]
    weight gradient  dW[j, k] = sum_i dZ[i, j] X[i, k]

Kernels are serial and release the GIL, as in `hash_grid_numba`.

Symbols:
    i, j, k     row, output and input of a layer
    padded      of rows filled up with zeros to a multiple of 8 columns, see `padded`: what `_tile` handles as vectors
"""

from __future__ import annotations

from typing import Any, no_type_check

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "fastmath": {"contract", "nsz"}, "error_model": "numpy"}

BLOCK = 72
"""Rows at a time."""
ROWS = 6
LANES = 16
"""Size of a tile: 12 of AVX2's 16 registers hold it; 2 more hold a row of `b` and 1 a number of `a`."""

_FLOAT, _INDEX = ir.FloatType(), ir.IntType(64)


def _emit_tile(module: ir.Module) -> ir.Function:
    """The LLVM function behind `_tile`, with a branch for each size of a tile."""
    pointer = _FLOAT.as_pointer()
    arguments = [pointer, _INDEX, pointer, _INDEX, pointer, _INDEX, _INDEX, pointer, _INDEX, *[_INDEX] * 3, _FLOAT]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), arguments), "peak_relu_mlp_tile")
    function.linkage = "linkonce_odr"
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    rows, lanes = function.args[9], function.args[10]
    end = function.append_basic_block("end")
    switch = builder.switch(builder.add(builder.mul(rows, _INDEX(LANES + 1)), lanes), end)
    for n_rows in range(1, ROWS + 1):
        for n_lanes in (8, LANES):
            block = function.append_basic_block(f"tile_{n_rows}_{n_lanes}")
            switch.add_case(_INDEX(n_rows * (LANES + 1) + n_lanes), block)
            _emit_case(function, ir.IRBuilder(block), n_rows, n_lanes, end)
    ir.IRBuilder(end).ret_void()
    return function


def _emit_case(function: ir.Function, builder: ir.IRBuilder, n_rows: int, n_lanes: int, end: ir.Block) -> None:
    out, out_row, first, first_row, a, a_row, a_step, b, b_step, _, _, depth, floor = function.args
    """The branch for one size: sums start as `first`, a loop over p adds to them, `out` takes them."""
    vector = ir.VectorType(_FLOAT, n_lanes)
    fused = ("contract",)  # one FMA instruction where the CPU has it

    def element(base: Any, *offsets: Any) -> Any:
        for offset in offsets:
            base = builder.gep(base, [offset])
        return base

    def lanes_at(place: Any) -> Any:
        return builder.bitcast(place, vector.as_pointer())

    def splat(number: Any) -> Any:
        lane = builder.insert_element(ir.Constant(vector, ir.Undefined), number, ir.IntType(32)(0))
        mask = ir.Constant(ir.VectorType(ir.IntType(32), n_lanes), [0] * n_lanes)
        return builder.shuffle_vector(lane, ir.Constant(vector, ir.Undefined), mask)

    def row(base: Any, stride: Any, r: int) -> Any:
        return element(base, builder.mul(stride, _INDEX(r)))

    sums = [builder.load(lanes_at(row(first, first_row, r)), align=4) for r in range(n_rows)]
    a_rows = [row(a, a_row, r) for r in range(n_rows)]
    before = builder.block
    loop, after = function.append_basic_block(), function.append_basic_block()
    builder.cbranch(builder.icmp_signed(">", depth, _INDEX(0)), loop, after)

    builder.position_at_end(loop)
    p, at_a, at_b = (builder.phi(_INDEX) for _ in range(3))
    running = [builder.phi(vector) for _ in range(n_rows)]
    right = builder.load(lanes_at(element(b, at_b)), align=4)
    left = [splat(builder.load(element(a_row_r, at_a))) for a_row_r in a_rows]
    added = [
        builder.fadd(builder.fmul(x, right, flags=fused), s, flags=fused) for x, s in zip(left, running, strict=True)
    ]
    for phi, step in ((p, _INDEX(1)), (at_a, a_step), (at_b, b_step)):
        phi.add_incoming(_INDEX(0), before)
        phi.add_incoming(builder.add(phi, step), loop)
    for phi, start, value in zip(running, sums, added, strict=True):
        phi.add_incoming(start, before)
        phi.add_incoming(value, loop)
    builder.cbranch(builder.icmp_signed("<", builder.add(p, _INDEX(1)), depth), loop, after)

    builder.position_at_end(after)
    for r in range(n_rows):
        total = builder.phi(vector)
        total.add_incoming(sums[r], before)
        total.add_incoming(added[r], loop)
        sums[r] = total
    low = splat(floor)
    for r in range(n_rows):
        held = builder.select(builder.fcmp_ordered("<", sums[r], low), low, sums[r])
        builder.store(held, lanes_at(row(out, out_row, r)), align=4)
    builder.branch(end)


@intrinsic
@no_type_check
def _tile(
    typing, out, out_at, out_row, first, first_at, first_row, a, a_at, a_row, a_step, b, b_at, b_step, size, floor
):
    """out[r, v] = max(floor, first[r, v] + sum_p a[r, p] b[p, v]), NaN where that is; size: (rows, lanes, depth).

    `at` is where an array's element (0, 0) lies, `row` the distance of r to r + 1, `step` that of p to p + 1; v and
    v + 1 lie side by side. rows is 1 to ROWS, lanes 8 or LANES.
    """
    n = types.intp
    size_type = types.UniTuple(n, 3)
    signature = types.void(out, n, n, first, n, n, a, n, n, n, b, n, n, size_type, types.float32)
    for array in (out, first, a, b):
        assert (array.layout, array.dtype) == ("C", types.float32), array

    def generate(context, builder, signature, args):
        def start(which):
            data = context.make_array(signature.args[which])(context, builder, args[which]).data
            return builder.gep(data, [args[which + 1]])

        function = builder.module.globals.get("peak_relu_mlp_tile") or _emit_tile(builder.module)
        size = [builder.extract_value(args[13], n) for n in range(3)]
        operands = [start(0), args[2], start(3), args[5], start(6), args[8], args[9], start(10), args[12]]
        builder.call(function, [*operands, *size, args[14]])
        return context.get_dummy_value()

    return signature, generate


@njit(**_OPTIONS)
@no_type_check
def _product(out, out_at, out_row, first, first_at, first_row, a, a_at, a_row, a_step, b, b_at, b_step, shape, floor):
    """`_tile` for any number of rows, and of columns that is a multiple of 8; shape: (rows, columns, depth)."""
    n_rows, n_columns, depth = shape
    # From right to left: what a row of `out` that is not padded leaves in the next one is overwritten.
    for v in range((n_columns - 1) // LANES * LANES, -1, -LANES):
        lanes = min(LANES, n_columns - v)
        for r in range(0, n_rows, ROWS):
            to, start = out_at + r * out_row + v, first_at + r * first_row + v
            size = (min(ROWS, n_rows - r), lanes, depth)
            _tile(
                out, to, out_row, first, start, first_row, a, a_at + r * a_row, a_row, a_step, b, b_at + v, b_step,
                size, floor,
            )  # fmt: skip


@njit(**_OPTIONS)
@no_type_check
def _product_into(out, out_at, width, spare, first, first_at, a, a_at, a_row, b, b_at, b_step, shape):
    """`_product` into rows of `width` numbers, not padded.

    The last ones go by way of `spare` (7 padded rows): what comes after them in `out` may be another thread's.
    """
    n, columns, depth = shape
    lowest = np.float32(-np.inf)
    direct = max(0, n - (columns + width - 1) // width + 1)
    _product(
        out, out_at, width, first, first_at, 0, a, a_at, a_row, 1, b, b_at, b_step, (direct, columns, depth), lowest
    )  # fmt: skip
    _product(
        spare, 0, columns, first, first_at, 0, a, a_at + direct * a_row, a_row, 1, b, b_at, b_step,
        (n - direct, columns, depth), lowest,
    )  # fmt: skip
    for i in range(direct, n):
        for j in range(width):
            out[out_at + i * width + j] = spare[(i - direct) * columns + j]


@njit(**_OPTIONS)
@no_type_check
def padded(width):
    """The next multiple of 8."""
    return (width + 7) // 8 * 8


@njit(**_OPTIONS)
@no_type_check
def pack(parameters, has_bias, widths, transposed, packed):
    """Weights, and biases or zeros, into the two layouts that `forward` and `backward` read, both zero before.

    parameters: of layer after layer W (outputs, inputs) and, if has_bias, b (outputs).
    widths: of the input and of each layer's output.
    transposed: per layer b (padded outputs), then W^T (inputs, padded outputs).
    packed: per layer W (outputs, padded inputs).
    """
    at = to = also = 0
    for layer in range(len(widths) - 1):
        fan_in, fan_out = widths[layer], widths[layer + 1]
        wide_in, wide_out = padded(fan_in), padded(fan_out)
        for j in range(fan_out):
            for k in range(fan_in):
                weight = parameters[at + j * fan_in + k]
                transposed[to + (1 + k) * wide_out + j] = packed[also + j * wide_in + k] = weight
        at += fan_out * fan_in
        if has_bias:
            for j in range(fan_out):
                transposed[to + j] = parameters[at + j]
            at += fan_out
        to += (1 + fan_in) * wide_out
        also += fan_out * wide_in


@njit(**_OPTIONS)
@no_type_check
def _hidden_layers(rows, begin, n, transposed, widths, hidden):
    """Outputs of the hidden layers for n rows from `begin`; hidden (layers, BLOCK, padded width), each a flat array.

    Returns where the output layer begins in `transposed`.
    """
    a, a_at, a_row, weights = rows, begin * widths[0], widths[0], 0
    for layer in range(len(widths) - 2):
        fan_in, columns = widths[layer], padded(widths[layer + 1])
        _product(
            hidden[layer], 0, columns, transposed, weights, 0, a, a_at, a_row, 1, transposed, weights + columns,
            columns, (n, columns, fan_in), np.float32(0),
        )  # fmt: skip
        weights += (1 + fan_in) * columns
        a, a_at, a_row = hidden[layer], 0, columns
    return weights


@njit(**_OPTIONS)
@no_type_check
def forward(x, transposed, widths, out, start, stop):
    """Outputs of the rows start..stop of x (n, inputs) into out (n, outputs)."""
    n_hidden, n_out, n_last = len(widths) - 2, out.shape[1], widths[-2]
    rows, result = x.reshape(-1), out.reshape(-1)
    columns, widest = padded(n_out), padded(widths.max())
    hidden = np.empty((n_hidden, BLOCK * widest), np.float32)
    spare = np.empty(7 * columns, np.float32)
    for begin in range(start, stop, BLOCK):
        n = min(BLOCK, stop - begin)
        weights = _hidden_layers(rows, begin, n, transposed, widths, hidden)
        a, a_at, a_row = rows, begin * n_last, n_last
        if n_hidden > 0:
            a, a_at, a_row = hidden[n_hidden - 1], 0, padded(n_last)
        _product_into(
            result, begin * n_out, n_out, spare, transposed, weights, a, a_at, a_row, transposed, weights + columns,
            columns, (n, columns, n_last),
        )  # fmt: skip


@njit(**_OPTIONS)
@no_type_check
def backward(
    x, slope, transposed, packed, widths, has_bias, for_parameters, for_x, grad_x, sums, chunk_rows, start, stop
):
    """Gradients from the rows of the chunks start..stop of chunk_rows rows each.

    The hidden layers' outputs are worked out anew: to have kept them in memory takes as long.

    slope: gradient of the output (n, outputs).
    grad_x: takes the gradient of x (n, inputs), if for_x.
    sums: row c takes the sum over chunk c, if for_parameters: the weights' gradients laid out as `packed`, then those
        of the biases.
    """
    lowest, zero = np.float32(-np.inf), np.float32(0)
    n_in, n_out, widest = widths[0], slope.shape[1], padded(widths.max())
    rows, top, result = x.reshape(-1), slope.reshape(-1), grad_x.reshape(-1)
    hidden = np.empty((len(widths) - 2, BLOCK * widest), np.float32)
    deltas = np.empty((2, BLOCK * widest), np.float32)
    last_x = np.zeros(BLOCK * n_in + 7, np.float32)
    spare, nothing = np.empty(7 * widest, np.float32), np.zeros(widest, np.float32)
    for chunk in range(start, stop):
        total = sums[chunk]
        for m in range(len(total)):
            total[m] = 0
        for begin in range(chunk * chunk_rows, min((chunk + 1) * chunk_rows, x.shape[0]), BLOCK):
            n = min(BLOCK, x.shape[0] - begin, (chunk + 1) * chunk_rows - begin)
            _hidden_layers(rows, begin, n, transposed, widths, hidden)
            delta, delta_at, row = top, begin * n_out, n_out
            weights, biases = len(packed), len(total)
            for layer in range(len(widths) - 2, -1, -1):
                columns, fan_out = padded(widths[layer]), widths[layer + 1]
                weights, biases = weights - fan_out * columns, biases - fan_out
                if layer > 0:
                    h, h_at, h_row = hidden[layer - 1], 0, columns
                elif (begin + n) * n_in + 7 <= len(rows):
                    h, h_at, h_row = rows, begin * n_in, n_in
                else:  # vectors that begin in the last row end past it
                    for m in range(n * n_in):
                        last_x[m] = rows[begin * n_in + m]
                    h, h_at, h_row = last_x, 0, n_in
                if for_parameters:
                    _product(
                        total, weights, columns, total, weights, columns, delta, delta_at, 1, row, h, h_at, h_row,
                        (fan_out, columns, n), lowest,
                    )  # fmt: skip
                if for_parameters and has_bias:
                    into = total[biases : biases + fan_out]
                    for i in range(n):
                        of_row = delta[delta_at + i * row : delta_at + i * row + fan_out]
                        for j in range(fan_out):
                            into[j] += of_row[j]
                if layer > 0:
                    below = deltas[layer % 2]
                    _product(
                        below, 0, columns, nothing, 0, 0, delta, delta_at, row, 1, packed, weights, columns,
                        (n, columns, fan_out), lowest,
                    )  # fmt: skip
                    for m in range(n * columns):
                        below[m] = zero if h[m] <= zero else below[m]
                    delta, delta_at, row = below, 0, columns
                elif for_x:
                    _product_into(
                        result, begin * n_in, n_in, spare, nothing, 0, delta, delta_at, row, packed, weights, columns,
                        (n, columns, fan_out),
                    )  # fmt: skip
