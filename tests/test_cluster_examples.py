"""The examples of `docs/reference/scan-on-a-cluster.md` can be read by the programs that they are for."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from tests.test_dependencies import PROJECT

PAGES = Path(__file__).resolve().parent.parent / "docs" / "reference"
CLUSTER = (PAGES / "scan-on-a-cluster.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", CLUSTER, re.DOTALL)
    return str(found)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_script_for_slurm_is_bash() -> None:
    subprocess.run(["bash", "-n"], input=block("bash"), text=True, check=True)


def test_the_manifest_mounts_the_volume_on_every_node() -> None:
    job = yaml.safe_load(block("yaml"))
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    nodes = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for node in nodes:
        pod = node["template"]["spec"]
        (container,) = pod["containers"]
        assert [m["name"] for m in container["volumeMounts"]] == [v["name"] for v in pod["volumes"]]
        assert container["envFrom"]
    (workers,) = cluster["workerGroupSpecs"]
    cores = workers["replicas"] * int(
        workers["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"]
    )
    assert f"--workers {cores}" in job["spec"]["entrypoint"]


def test_the_image_has_a_ray_that_is_allowed() -> None:
    (allowed,) = [Requirement(text) for text in PROJECT["optional-dependencies"]["ray"]]
    versions = set(re.findall(r"(?:ray:|rayVersion: \"|node: )(\d+\.\d+\.\d+)", CLUSTER))
    assert len(versions) == 1
    assert versions.pop() in allowed.specifier
