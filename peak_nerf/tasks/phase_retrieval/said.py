"""What is said of measured data and of a result on them, in one line each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peak_nerf.tasks.phase_retrieval.magnitudes import DID_NOT_WORK, Measurements
from peak_nerf.tasks.phase_retrieval.measured import DataOptions
from peak_nerf.tasks.phase_retrieval.operators import FourierOperator
from peak_nerf.tasks.phase_retrieval.retrieve import Retrieval


def described(path: Path, measurements: Measurements) -> str:
    """What measurements of a file are, in one line: the pattern, the object, and what was made of the data."""
    operator = measurements.operator
    if not isinstance(operator, FourierOperator):
        line = f"{path}: {operator.n_rows} magnitudes of {operator.size} x {operator.size} pixels"
        return "; ".join([line, *measurements.notes])
    pattern, box = (f"{m} x {n}" for m, n in (operator.frame, operator.box))
    picture = "an object whose support is to be found" if measurements.find_support else f"an object of {box} pixels"
    return "; ".join([f"{path}: a pattern of {pattern} of {picture}", *measurements.notes])


def of_data(measurements: Measurements, result: Retrieval) -> dict[str, Any]:
    """What is said of a result on measured data alone."""
    found = {} if result.support is None else {"support_pixels": int(result.support.sum())}
    worked = result.relative_residual <= DID_NOT_WORK
    return {"notes": list(measurements.notes), "scale": result.scale, "worked": worked, **found}


def remedies(method: str, data: DataOptions) -> str:
    """What to try where a picture does not explain the magnitudes, without what was tried."""
    tried = {
        "--quantity amplitude" if data.quantity == "intensity" else "--quantity intensity": False,
        "--centred yes or no": data.centred != "auto",
        "another --object-size, or --support auto": data.support is not None,
        "--data-mask for a beam stop and bad pixels": data.data_mask is not None,
        "--noise poisson for counts": data.noise == "poisson",
        "--method peak": method == "peak",
    }
    return ", ".join([remedy for remedy, done in tried.items() if not done] + ["more --restarts"])


def did_not_work(residual: float, method: str, data: DataOptions) -> str:
    """The line on a picture that does not explain the magnitudes."""
    return (
        f"this did not work: |A x| of the picture is {100 * residual:.0f} % off the magnitudes, and"
        f" {100 * DID_NOT_WORK:.0f} % is the most for a picture to be believed; try {remedies(method, data)}"
    )
