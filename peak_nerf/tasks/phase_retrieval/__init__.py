"""Phase retrieval: a square picture x from magnitudes y = |A x| alone, A a padded Fourier transform or a random matrix.

    measurements = simulate(picture, "fourier", ratio=1.9)
    result = retrieve(measurements, "peak")      # never sees the picture
    result.reconstruction, result.field, result.misfit

Source: Li et al., ICML 2025, section 4.4 and appendix B.2.
"""
