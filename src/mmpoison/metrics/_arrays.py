"""Reads arguments of metrics (arrays, lists, tensors), and normalises rows."""

from typing import Any

import numpy as np
import numpy.typing as npt

from mmpoison.errors import InputError

FloatArray = npt.NDArray[np.floating[Any]]


def as_array(values: npt.ArrayLike, name: str) -> npt.NDArray[Any]:
    """Convert an array-like value to an array, including PyTorch tensors on any device and of any precision.

    Args:
        values: An array, nested sequence or tensor.
        name: Its name in error messages.

    Returns:
        The array, copied only if necessary.

    Raises:
        InputError: If it is not rectangular.
    """
    if callable(getattr(values, "detach", None)):  # a tensor, recognised without importing torch
        tensor: Any = values
        tensor = tensor.detach().cpu()
        try:
            return np.asarray(tensor)
        except TypeError:  # bfloat16 and similar types, which NumPy lacks
            return np.asarray(tensor.float())
    try:
        return np.asarray(values)
    except (ValueError, TypeError) as error:
        raise InputError(f"{name} cannot be read as an array: {error}") from error


def as_matrix(values: npt.ArrayLike, name: str, shape: str) -> npt.NDArray[Any]:
    """Read a real-valued matrix with at least one column; it may have no rows.

    Args:
        values: The matrix, of an integer or floating type.
        name: Its name in error messages.
        shape: Its shape in error messages, such as "(Q, G)".

    Returns:
        The matrix, with its type unchanged.

    Raises:
        InputError: It is not a matrix, has no column, or is not real-valued.
    """
    array = as_array(values, name)
    if array.ndim != 2:
        raise InputError(f"{name} must have shape {shape}, not {array.shape}")
    if array.shape[1] == 0:
        raise InputError(f"{name} has no columns: shape {array.shape}, expected {shape}")
    if array.dtype.kind not in "fiu" and not array.dtype.name.startswith(("bfloat", "float")):
        raise InputError(f"{name} must hold real numbers, not {array.dtype}; shape {array.shape}")
    return array


def as_float(block: npt.NDArray[Any]) -> FloatArray:
    """Convert a block to float32 or wider; return a view if it already is.

    Args:
        block: Real numbers of any type.

    Returns:
        Types of float32 or wider stay. Narrower floating-point types and integers of up to 16 bits become float32;
        other integers become float64.
    """
    if block.dtype.kind in "iu":
        return block.astype(np.float32 if block.dtype.itemsize <= 2 else np.float64)
    if block.dtype.kind == "f" and block.dtype.itemsize >= 4:
        return block
    return block.astype(np.float32)


def unit_rows(block: npt.NDArray[Any], name: str, first_row: int = 0) -> npt.NDArray[np.float64]:
    """Scale the rows of a matrix to length one, in float64.

    Args:
        block: Shape (N, d), real numbers.
        name: Its name in error messages.
        first_row: Row of the whole matrix at which the block begins, for error messages.

    Returns:
        Shape (N, d), a new array.

    Raises:
        InputError: A row is zero or not finite.
    """
    rows = block.astype(np.float64)
    largest = np.abs(rows).max(axis=1)  # NaN stays NaN
    unusable = ~(np.isfinite(largest) & (largest > 0))
    if unusable.any():
        row = int(unusable.argmax())
        what = "is a zero vector" if largest[row] == 0 else "contains NaN or infinity"
        raise InputError(
            f"{name} row {first_row + row} {what}, so it has no direction; rows are (d,) = "
            f"({rows.shape[1]},)"
        )
    rows /= largest[:, None]  # scale first, so that no square under- or overflows
    rows /= np.sqrt(np.einsum("nd,nd->n", rows, rows))[:, None]
    return rows
