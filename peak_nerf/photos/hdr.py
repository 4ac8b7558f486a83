"""Frames of HDR video as sRGB: what phones record by default today looks washed out when it is taken as it is."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

PQ, HLG = 16, 18
"""FFmpeg's numbers of the transfer characteristics SMPTE ST 2084 and ARIB STD-B67."""
# Linear BT.2020 to linear BT.709, the primaries of sRGB (ITU-R BT.2087).
_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], dtype=np.float32
)
# Diffuse white is at 203 cd/m2 in PQ and at 75 % of the signal in HLG (ITU-R BT.2408).
_WHITE_PQ, _WHITE_HLG = 203.0, 0.75
_KNEE = 0.8
_LEVELS = 4096


def is_hdr(transfer: int) -> bool:
    """Whether a frame's transfer characteristic, by FFmpeg's number, is one of HDR."""
    return transfer in (PQ, HLG)


def hdr_to_srgb(signal: np.ndarray, transfer: int) -> np.ndarray:
    """(h, w, 3) uint16, BT.2020 in PQ or HLG, to uint8 sRGB: diffuse white becomes 243, the rest fades to 255."""
    linear = _linear_table(transfer)[signal] @ _TO_BT709.T
    # Up to the knee as it is; above, the range up to infinity falls into what is left, without a kink.
    above = np.maximum(linear - _KNEE, 0)
    linear = np.minimum(linear, _KNEE) + (1 - _KNEE) * above / (above + (1 - _KNEE))
    return _srgb_table()[np.rint(np.clip(linear, 0, 1) * (_LEVELS - 1)).astype(np.int32)]


@lru_cache(maxsize=2)
def _linear_table(transfer: int) -> np.ndarray:
    """(65536,) float32: linear light of a 16-bit signal, diffuse white is 1."""
    signal = np.linspace(0, 1, 65536)
    if transfer == HLG:
        return (_hlg(signal) / _hlg(np.array([_WHITE_HLG]))).astype(np.float32)
    m_1, m_2, c_1, c_2, c_3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    power = signal ** (1 / m_2)
    return (10000 / _WHITE_PQ * (np.maximum(power - c_1, 0) / (c_2 - c_3 * power)) ** (1 / m_1)).astype(np.float32)


def _hlg(signal: np.ndarray) -> np.ndarray:
    """Inverse OETF of ITU-R BT.2100, and 1.2 for the dim surround that it is graded for."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12) ** 1.2


@lru_cache(maxsize=1)
def _srgb_table() -> np.ndarray:
    linear = np.linspace(0, 1, _LEVELS)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(255 * encoded).astype(np.uint8)
