"""Which pictures are compared with which: all of them, neighbours in time, or those that look alike.

# v: a picture's descriptor, a VLAD (Jegou et al., CVPR 2010) over words from the capture itself
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Literal

import numpy as np

Matching = Literal["auto", "exhaustive", "sequential"]

EXHAUSTIVE_LIMIT = 80
"""Up to so many pictures, all pairs."""
WINDOW = 10
"""Of pictures in order of time, each is compared with so many before it, and with those 16, 32, ... before it."""
SIMILAR = 30
"""Of many pictures, each is compared with so many that look most like it."""
N_WORDS = 64
SAMPLE = 20_000
"""Descriptors that the words are found from."""
LONGEST_LOOK = 2_000
"""Descriptors of one picture that its v is made of."""


def all_pairs(n: int) -> list[tuple[int, int]]:
    """(0, 1), (0, 2), ..."""
    return list(combinations(range(n), 2))


def sequential_pairs(n: int) -> list[tuple[int, int]]:
    """Each picture with the `WINDOW` before it, and, to close loops, with those 16, 32, 64, ... before it."""
    pairs = {(i - step, i) for i in range(n) for step in range(1, WINDOW + 1) if i >= step}
    step = 16
    while step < n:
        pairs |= {(i - step, i) for i in range(step, n)}
        step *= 2
    return sorted(pairs)


def similar_pairs(vectors: np.ndarray, n_similar: int = SIMILAR) -> list[tuple[int, int]]:
    """Each picture with the `n_similar` whose vectors (n, d), of unit length, are nearest to its own."""
    likeness = vectors @ vectors.T
    np.fill_diagonal(likeness, -np.inf)
    nearest = np.argsort(-likeness, axis=1, kind="stable")[:, : min(n_similar, len(vectors) - 1)]
    return sorted({(min(i, int(j)), max(i, int(j))) for i, row in enumerate(nearest) for j in row})


def look_vectors(descriptors: Sequence[np.ndarray], seed: int = 0) -> np.ndarray:
    """(n, N_WORDS * 128) float32 of unit length: for each picture the VLAD of its SIFT descriptors (n_i, 128).

    VLAD: for each word, the sum of what the descriptors nearest to it differ from it, by square root and normalised.
    """
    from scipy.cluster.vq import kmeans2, vq  # type: ignore[import-untyped]

    random = np.random.default_rng(seed)
    looks = [_some(np.asarray(d, np.float32), LONGEST_LOOK, random) for d in descriptors]
    sample = _some(np.concatenate(looks), SAMPLE, random)
    vectors = np.zeros((len(looks), N_WORDS, 128), np.float32)
    if len(sample) >= N_WORDS:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "One of the clusters is empty")  # a word that nothing is nearest to
            words, _ = kmeans2(sample, N_WORDS, iter=10, minit="points", seed=seed)
        for vector, look in zip(vectors, looks, strict=True):
            if len(look):
                nearest, _ = vq(look, words)
                np.add.at(vector, nearest, look - words[nearest])
    vectors = np.sign(vectors) * np.sqrt(np.abs(vectors))
    flat = vectors.reshape(len(looks), -1)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9)


def choose_pairs(
    matching: Matching, n: int, in_time: bool, descriptors: Callable[[], Sequence[np.ndarray]]
) -> tuple[list[tuple[int, int]], str]:
    """The pairs of n pictures in their order, and what was chosen in words.

    Args:
        matching: what the user asked for.
        n: number of pictures.
        in_time: whether they are frames of a video.
        descriptors: gives the SIFT descriptors of each, when they are needed.
    """
    if matching == "sequential" or (matching == "auto" and in_time and n > WINDOW):
        pairs = sequential_pairs(n)
        return pairs, f"each picture with the {WINDOW} before it and, for loops, with some earlier ones"
    if matching == "exhaustive" or n <= EXHAUSTIVE_LIMIT:
        return all_pairs(n), "every picture with every other"
    pairs = sorted({*similar_pairs(look_vectors(descriptors())), *((i - 1, i) for i in range(1, n))})
    return pairs, f"each picture with the {SIMILAR} that look most like it"


def _some(rows: np.ndarray, n: int, random: np.random.Generator) -> np.ndarray:
    return rows if len(rows) <= n else rows[np.sort(random.choice(len(rows), n, replace=False))]
