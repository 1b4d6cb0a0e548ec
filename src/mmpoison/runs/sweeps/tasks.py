"""What a worker of a sweep does: one task at a time, in a process of its own that keeps what it has loaded."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpoison.errors import InputError, ResultError
from mmpoison.runs.progress import Progress
from mmpoison.runs.recipe import Recipe
from mmpoison.training.loop import OnStep

Told = Callable[[str], None]


@dataclass(frozen=True)
class Task:
    """One piece of a sweep.

    Attributes:
        id: The run's id, or a name for what several runs share.
        recipe: The whole recipe.
        out: The run folder; None: only make the stages that do not hang on the attack.
        save_models: Keep the checkpoints in the run folder.
        device: Where to compute.
        group: Tasks of one group share data and a clean model.
    """

    id: str
    recipe: Recipe
    out: Path | None
    save_models: bool
    device: str
    group: str


@dataclass(frozen=True)
class Reply:
    """How a task went.

    Attributes:
        error: None if it is done; else why it is not, one line.
        detail: Stack trace of what was not expected.
        again: Whether another try may go better: not where the input is to blame.
    """

    error: str | None = None
    detail: str = ""
    again: bool = False


class TaskRunner:
    """Does tasks; the data, models and inputs of the last ones are kept."""

    def __init__(self, threads: int) -> None:
        import torch

        from mmpoison.runs.run_cache import RunCache

        torch.set_num_threads(threads)
        self._run_cache = RunCache()

    def __call__(self, task: Task, told: Told = lambda text: None) -> Reply:
        """Do a task; nothing is raised but what ends the process."""
        from mmpoison.runs.run import make_shared, run_recipe

        shown = ToldMonitor(told)
        try:
            if task.out is None:
                make_shared(task.recipe, progress=shown, device=task.device, run_cache=self._run_cache)
            else:
                with folder_lock(task.out):
                    if (task.out / "metrics.json").is_file():
                        return Reply()  # another sweep has done it meanwhile
                    run_recipe(
                        task.recipe,
                        task.out,
                        progress=shown,
                        save_models=task.save_models,
                        device=task.device,
                        run_cache=self._run_cache,
                    )
            return Reply()
        except (InputError, ResultError) as error:
            return Reply(" ".join(str(error).split()))
        except Exception as error:
            return Reply(
                " ".join(f"{type(error).__name__}: {error}".split()), traceback.format_exc(), True
            )


def folder_lock(out: Path) -> Any:
    """A lock on a run folder, which the system takes back from a process that dies."""
    from filelock import FileLock

    locks = out.parent.parent / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    return FileLock(locks / f"{out.name}.lock", poll_interval=0.2)


class ToldMonitor:
    """Tells in short what a task is at."""

    def __init__(self, told: Told) -> None:
        self._told = told

    def say(self, message: str) -> None:
        """Drop it: with many runs at a time nobody reads it."""

    def progress(self, what: str) -> Progress:
        """Tell of the step once."""
        self._told(what)
        return lambda done, total: None

    def training(self, what: str) -> OnStep:
        """Tell how far the training is, now and then."""
        self._told(what)

        def step(done: Any, encoder: Any) -> None:
            if done.step % 50 == 0 or done.step == done.steps:
                self._told(f"{what} {done.step}/{done.steps}")

        return step


def environment(threads: int) -> dict[str, str]:
    """Environment of a worker process, set before torch is imported there."""
    from mmpoison.base.cache_folder import cache_folder

    number = str(threads)
    return {
        "OMP_NUM_THREADS": number,
        "MKL_NUM_THREADS": number,
        "MMPOISON_CACHE": str(cache_folder().absolute()),
        **({"PYTHONPATH": os.environ["PYTHONPATH"]} if "PYTHONPATH" in os.environ else {}),
    }
