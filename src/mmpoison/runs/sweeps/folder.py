"""The folder of a sweep: `sweep.yaml`, a run folder for each run in `runs/`, and `failures.jsonl`."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from mmpoison.base.files import atomic_file, occupied_by_others, refuse_special
from mmpoison.base.untrusted import read_yaml
from mmpoison.errors import InputError
from mmpoison.runs.run_folder import check_folder
from mmpoison.runs.sweeps.dispatch import Failure
from mmpoison.runs.sweeps.sweep_runs import Sweep, SweepRun

SWEEP_FILE, RUNS, FAILURES = "sweep.yaml", "runs", "failures.jsonl"
MAX_SWEEP_BYTES = 16 << 20
"""A list of some ten thousand runs."""


class SweepFolder:
    """The folder of a sweep's runs.

    Args:
        out: The folder.
    """

    def __init__(self, out: Path) -> None:
        self.out = out.absolute()

    def run_folder(self, run_id: str) -> Path:
        """Return the folder of one run."""
        return self.out / RUNS / run_id

    def is_done(self, run_id: str) -> bool:
        """Return whether a run is complete."""
        return (self.run_folder(run_id) / "metrics.json").is_file()

    def claim(self, sweep: Sweep) -> None:
        """Write `sweep.yaml`; runs of an earlier, smaller sweep of the same recipe stay listed.

        The folder has been checked.

        Raises:
            InputError: If the `sweep.yaml` that is there is broken.
        """
        runs = {**self._listed(), **{run.id: run.parameters for run in sweep.runs}}
        value = {
            "name": sweep.base.name,
            "description": sweep.base.description,
            "recipe": sweep.base.model_dump(mode="json", exclude={"sweep"}),
            "runs": runs,
        }
        text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
        with atomic_file(self.out / SWEEP_FILE) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def check(self, sweep: Sweep) -> None:
        """Refuse a folder that is not this sweep's.

        Raises:
            InputError: If it holds something else, or a run of another recipe under the name of one of these.
        """
        refuse_special(self.out)
        if self.out.is_file():
            raise InputError(f"{self.out}: is a file, a folder is needed: choose another --out")
        if occupied_by_others(self.out / SWEEP_FILE):
            raise InputError(
                f"{self.out}: holds something that is not a sweep: choose another --out"
            )
        for run in sweep.runs:
            check_folder(self.run_folder(run.id), run.recipe)

    def missing(self, sweep: Sweep) -> list[SweepRun]:
        """Return the runs that are not complete."""
        return [run for run in sweep.runs if not self.is_done(run.id)]

    def write_failures(self, failures: dict[str, Failure]) -> None:
        """List what has failed and is not done since; no file if there is nothing."""
        left = [failure for name, failure in failures.items() if not self.is_done(name)]
        file = self.out / FAILURES
        if not left:
            file.unlink(missing_ok=True)
            return
        with atomic_file(file) as temporary:
            text = "".join(json.dumps(asdict(failure)) + "\n" for failure in left)
            temporary.write_text(text, encoding="utf-8")

    def _listed(self) -> dict[str, Any]:
        file = self.out / SWEEP_FILE
        if not file.exists():
            return {}
        value = read_yaml(file, MAX_SWEEP_BYTES) or {}
        runs = value.get("runs", {}) if isinstance(value, dict) else None
        if not isinstance(runs, dict) or not all(map(_is_run_id, runs)):
            raise InputError(f"{file}: is broken: delete it, the runs next to it stay")
        return {
            name: parameters for name, parameters in runs.items() if self.run_folder(name).is_dir()
        }


def _is_run_id(name: Any) -> bool:
    """Return whether a name is one folder: it becomes part of a path."""
    return isinstance(name, str) and name not in ("", ".", "..") and not re.search(r"[/\\\0]", name)
