"""All targets by name; a new parser is one more entry in the file of its kind."""

from __future__ import annotations

from tests.fuzz import data_targets, embedded_targets, model_targets, run_targets
from tests.fuzz.target import Target


def all_targets() -> dict[str, Target]:
    """Every target by its name, those without models first."""
    every = [
        *data_targets.targets(),
        *embedded_targets.targets(),
        *run_targets.targets(),
        *model_targets.targets(),
    ]
    return {target.name: target for target in every}
