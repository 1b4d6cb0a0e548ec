"""Decides how many workers a sweep has, and where each computes."""

from __future__ import annotations

from dataclasses import dataclass

from mmpoison.base.phrasing import count_of
from mmpoison.base.processes import cores, find_gpus, gpu_number
from mmpoison.errors import InputError


@dataclass(frozen=True)
class Placement:
    """The workers of a sweep.

    Attributes:
        count: How many.
        device: What each finds its device by (`find_device`), in its own process.
        threads: Of each worker.
        gpus: GPUs of this machine that the workers take in turn, as `CUDA_VISIBLE_DEVICES` names them; empty on the
            CPU and on a cluster.
        ray: Address of a Ray cluster whose workers do it, or `local`; None on this machine.
        chosen: Whether the user chose the count.
    """

    count: int
    device: str = "cpu"
    threads: int = 1
    gpus: tuple[str, ...] = ()
    ray: str | None = None
    chosen: bool = True

    @property
    def by_cluster(self) -> bool:
        """Whether the number of workers is that of a cluster's GPUs, if it has any."""
        return self.ray is not None and self.device != "cpu" and not self.chosen

    def gpu(self, worker: int) -> str | None:
        """Return the GPU of a worker of this machine: its own, or shared where there are more workers than GPUs."""
        return self.gpus[worker % len(self.gpus)] if self.gpus else None

    def describe(self, tasks: int | None = None) -> str:
        """Describe the workers for people; no more of them than tasks are counted.

        >>> Placement(4, "cuda", gpus=("0", "1")).describe()
        '4 workers on 2 GPUs'
        """
        count = max(1, self.count if tasks is None else min(self.count, tasks))
        if self.by_cluster:
            return f"a worker on each GPU of the cluster, {count_of(count, 'worker')} where it has none"
        used = min(count, len(self.gpus))
        return count_of(count, "worker") + (f" on {count_of(used, 'GPU')}" if used else "")


def place_workers(
    workers: int | None, device: str, *, threads: int = 1, ray: str | None = None
) -> Placement:
    """Decide how many workers there are and where each computes; nothing is started.

    Args:
        workers: How many; by default one for each GPU, or as many as this machine's cores can serve.
        device: `auto`, `cpu`, `cuda` or `cuda:N`; on a cluster each worker finds its own.
        threads: Of each worker.
        ray: Address of a cluster, or None.

    Raises:
        InputError: If there is no such device, or the number of a GPU is given for a cluster.
    """
    number = gpu_number(device)
    by_cores = workers or max(1, cores() // threads)
    if ray is not None:
        if number is not None:
            raise InputError(f"--device {device}: Ray chooses the GPU of each worker: write cuda")
        return Placement(by_cores, device, threads, (), ray, workers is not None)
    gpus = find_gpus(device)
    if gpus:
        return Placement(workers or len(gpus), "cuda", threads, gpus, None, workers is not None)
    return Placement(by_cores, "cpu", threads, (), None, workers is not None)
