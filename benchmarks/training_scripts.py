"""Trainings in processes of their own, so that each has its own peak memory: a part of `training_step.py`.

Of the released code its `train` function runs as it is, with its own data set, loader, optimiser and precision. What it
imports from OpenAI's `clip` package is open_clip's here: the tokenizer, and the same model as ours with the same random
weights. Of open_clip its training script runs by its own command line, on a CSV of the same pairs.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch

from mmpoison.datasets import PairDataset, load_pairs, save_pairs
from mmpoison.models import load_encoder, prepare_pixels
from mmpoison.training import TrainingSettings, finetune

OPEN_CLIP_PRECISION = {"fp32": "fp32", "bf16": "amp_bf16"}


def compare_memory(pairs: PairDataset, options: argparse.Namespace) -> dict[str, Any]:
    """Peak memory of a step on a large batch in chunks, and on a batch as large as a chunk."""
    with tempfile.TemporaryDirectory(prefix="memory-") as name:
        save_pairs(pairs, Path(name) / "pairs", images="link")
        common = {"what": "ours", "model": options.model, "data": f"{name}/pairs", "steps": 1}
        common["precision"] = options.precision
        large = _run({**common, "batch": options.large_batch, "chunk": options.chunk})
        small = _run({**common, "batch": options.chunk, "chunk": None})
    return {
        "model": options.model,
        "large_batch": options.large_batch,
        "chunk": options.chunk,
        "gib_large_batch_in_chunks": large["peak_gib"],
        "gib_batch_of_a_chunk": small["peak_gib"],
        "seconds_large_batch": round(sum(large["seconds"]), 1),
        "seconds_batch_of_a_chunk": round(sum(small["seconds"]), 1),
    }


def compare_scripts(
    pairs: PairDataset, options: argparse.Namespace, folder: Path
) -> dict[str, Any]:
    """Pairs a second and peak memory of our training and of the scripts in the checkouts."""
    data = folder / "pairs"
    save_pairs(pairs, data, images="link")
    steps = options.rounds * options.steps + 1
    common = {
        "model": options.model,
        "data": str(data),
        "batch": options.batch,
        "steps": steps,
        "precision": options.precision,
        "chunk": None,
    }
    jobs: dict[str, dict[str, Any]] = {"ours": {**common, "what": "ours"}}
    if options.precision == "auto":
        jobs["ours_fp32"] = {**common, "what": "ours", "precision": "fp32"}
    if options.reference_repo is not None:
        jobs["released"] = {**common, "what": "released", "repo": str(options.reference_repo)}
    if options.open_clip is not None:
        for precision in ("fp32", "bf16"):
            if precision == "fp32" or options.precision != "fp32":
                job = {**common, "what": "open_clip", "repo": str(options.open_clip)}
                jobs[f"open_clip_{precision}"] = {**job, "precision": precision}
    found: dict[str, Any] = {"model": options.model, "batch": options.batch, "steps": steps}
    for name, job in jobs.items():
        result = _run(job)
        # the first step makes the moments, and waits for the first data
        found[f"{name}_pairs_per_second"] = round(options.batch / median(result["seconds"][1:]), 2)
        found[f"{name}_peak_gib"] = result["peak_gib"]
    return found


def _run(job: dict[str, Any]) -> dict[str, Any]:
    if job["what"] == "open_clip":
        return _open_clip(job)
    done = subprocess.run(
        [sys.executable, __file__, json.dumps(job)], stdout=subprocess.PIPE, text=True, check=True
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _peak_gib(who: int = resource.RUSAGE_SELF) -> float:
    # kilobytes on Linux
    return round(resource.getrusage(who).ru_maxrss / 2**20, 2)


# -- ours --------------------------------------------------------------------------------------------------------------


def _ours(job: dict[str, Any]) -> list[float]:
    encoder = load_encoder(job["model"])
    pairs = load_pairs(job["data"])
    settings = TrainingSettings(
        epochs=1000,
        batch_size=job["batch"],
        chunk_size=job["chunk"],
        max_steps=job["steps"],
        precision=job["precision"],
    )
    ends = [time.perf_counter()]
    finetune(
        encoder,
        pairs,
        prepare_pixels(encoder, pairs),
        settings,
        seed=0,
        on_step=lambda *_: ends.append(time.perf_counter()),
    )
    return [end - begin for begin, end in pairwise(ends)]


# -- the released code -------------------------------------------------------------------------------------------------


class _OpenAiShape(torch.nn.Module):
    """open_clip's model with what OpenAI's gives: logits of images and of captions."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Any, tokens: Any) -> tuple[Any, Any]:
        image = self.module.encode_image(images, normalize=True)
        text = self.module.encode_text(tokens, normalize=True)
        logits = self.module.logit_scale.exp() * image @ text.T
        return logits, logits.T


class _Stamped:
    """A loader that stops after some batches and notes when each was asked for."""

    def __init__(self, loader: Any, steps: int) -> None:
        self.loader, self.steps, self.asked = loader, steps, list[float]()

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Any]:
        given = 0
        while True:
            for batch in self.loader:
                self.asked.append(time.perf_counter())
                if given == self.steps:
                    return
                yield batch
                given += 1


def _released(job: dict[str, Any]) -> list[float]:
    import open_clip

    encoder = load_encoder(job["model"])
    pairs = load_pairs(job["data"])
    clip: Any = types.ModuleType("clip")

    def tokenize(texts: Any, context_length: int = 77, truncate: bool = True) -> Any:
        return open_clip.tokenize(texts, context_length)

    clip.tokenize = tokenize
    sys.modules["clip"] = clip
    # of its command line, and of augmentations that its CLIP does not use
    sys.modules |= {name: types.ModuleType(name) for name in ("ruamel_yaml", "cv2")}
    sys.path.insert(0, job["repo"])
    os.chdir(job["repo"])
    import retrieval_by_CLIP as script  # type: ignore[import-not-found]

    with tempfile.TemporaryDirectory(prefix="released-") as name:
        listed = Path(name) / "pairs.json"
        listed.write_text(
            json.dumps(
                [
                    {
                        "image": str(pairs.images.ids[image]),
                        "caption": caption,
                        "image_id": int(image),
                    }
                    for image, caption in zip(pairs.image, pairs.captions, strict=True)
                ]
            )
        )
        config = {
            "model": "clip",
            "image_res": 224,
            "max_words": 77,
            "image_root": str(pairs.root),
            "train_file": [str(listed)],
            "eval_json": [False],
            "val_file": None,
            "test_file": None,
        }
        import dataset.caption_dataset as released_data  # type: ignore[import-not-found]

        # the evaluation sets, which are not used here
        released_data.re_eval_dataset.__init__ = lambda *_: None
        train_set = script.create_dataset("re", config)[0]
        loader = script.create_loader([train_set], [None], [job["batch"]], [4], [True], [None])[0]
        model = _OpenAiShape(encoder.module)
        wanted = {"opt": "adamW", "lr": 1e-5, "weight_decay": 0.2}
        optimizer = script.create_optimizer(
            script.utils.AttrDict(**wanted, betas=(0.9, 0.98), eps=1e-6), model
        )
        stamped = _Stamped(loader, job["steps"])
        script.train(
            model,
            stamped,
            optimizer,
            clip.tokenize,
            1,
            1,
            torch.device("cpu"),
            None,
            config,
        )
    return [after - before for before, after in pairwise(stamped.asked)]


# -- open_clip's script ------------------------------------------------------------------------------------------------


def _open_clip(job: dict[str, Any]) -> dict[str, Any]:
    """Its own command line, its log read: seconds of each step."""
    pairs = load_pairs(job["data"])
    with tempfile.TemporaryDirectory(prefix="open-clip-") as name:
        table = Path(name) / "pairs.csv"
        lines = [
            f"{pairs.root / pairs.images.ids[image]}\t{caption}"
            for image, caption in zip(pairs.image, pairs.captions, strict=True)
        ]
        size = job["steps"] * job["batch"]
        lines = (lines * (size // len(lines) + 1))[:size]
        table.write_text("filepath\ttitle\n" + "\n".join(lines) + "\n")
        command = [sys.executable, "-m", "open_clip_train.main", "--dataset-type", "csv"]
        command += ["--train-data", str(table), "--model", job["model"].split(":")[0]]
        command += ["--batch-size", str(job["batch"]), "--epochs", "1", "--workers", "2"]
        command += ["--precision", OPEN_CLIP_PRECISION[job["precision"]], "--device", "cpu"]
        command += ["--lr", "1e-5", "--warmup", "1", "--log-every-n-steps", "1", "--logs", name]
        path = os.pathsep.join([f"{job['repo']}/src", os.environ.get("PYTHONPATH", "")])
        # a process of its own in between, so that its peak is not that of an earlier child
        measured = (
            "import json, resource, subprocess, sys;"
            "done = subprocess.run(sys.argv[1:], stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True);"
            "print(json.dumps([done.returncode, done.stdout,"
            " resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20]))"
        )
        done = subprocess.run(
            [sys.executable, "-c", measured, *command],
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    code, output, peak = json.loads(done.stdout)
    seconds = [float(value) for value in re.findall(r"Batch \(t\): ([\d.]+)", output)]
    if code or not seconds:
        raise SystemExit(f"open_clip's script did not train:\n{output[-2000:]}")
    return {"seconds": seconds, "peak_gib": round(peak, 2)}


if __name__ == "__main__":
    wanted_job = json.loads(sys.argv[1])
    taken = (_ours if wanted_job["what"] == "ours" else _released)(wanted_job)
    print(json.dumps({"seconds": taken, "peak_gib": _peak_gib()}))
