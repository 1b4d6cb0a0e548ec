"""Checks arguments of statistics."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mmpoison.errors import InputError

FloatVector = npt.NDArray[np.float64]


def as_values(values: npt.ArrayLike, name: str = "values") -> FloatVector:
    """Read finite numbers of shape (n,), n at least 1, as float64.

    Raises:
        InputError: They are not.
    """
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} are not numbers: {error}") from error
    if array.ndim != 1:
        raise InputError(f"{name} must have shape (n,), not {array.shape}")
    if not len(array):
        raise InputError(f"{name} are empty")
    if not np.isfinite(array).all():
        raise InputError(f"{name} hold NaN or infinity")
    return array


def check_confidence(confidence: float) -> float:
    """Check that a confidence is between 0 and 1.

    Raises:
        InputError: It is not.
    """
    if not 0 < confidence < 1:
        raise InputError(f"confidence {confidence} is not between 0 and 1 (0.95 is 95%)")
    return confidence
