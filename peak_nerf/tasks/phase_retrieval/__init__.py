"""Phase retrieval: a picture x from magnitudes y = |A x| alone, A a padded Fourier transform or a random matrix.

    measurements = simulate(picture, "fourier", ratio=1.9)
    result = retrieve(measurements, "peak")      # never sees the picture
    result.reconstruction, result.field, result.relative_residual

    result = retrieve(array, support=mask, data_mask=good, quantity="intensity")  # measured, of any scale

Source: Li et al., ICML 2025, section 4.4 and appendix B.2.
"""

from peak_nerf.tasks.phase_retrieval.measurements import Measurements, simulate
from peak_nerf.tasks.phase_retrieval.retrieve import Retrieval, retrieve

__all__ = ["Measurements", "Retrieval", "retrieve", "simulate"]
