"""A folder to work in: runs commands, makes the inputs that several cases share, and records what was written."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import open_clip
import pyarrow.parquet as pq
import torch
from matplotlib.figure import Figure
from PIL import Image
from safetensors.numpy import load_file, save_file
from tests.conftest import write_square_pairs

VOLATILE = re.compile(
    r".*seconds|run\.(seconds|versions|device).*|pairs_per_second|.*version|versions|device|created|megabytes|on_this_machine"
    r"|(.*\.)?flops_g|key|picture|thumbnails?|here|stored_pixels|notice|cost|about|terms|where_from|what"
)
"""Keys whose values are times, or depend on machine, version and cache; pictures, and descriptions."""

LONG = 8
"""A longer list is recorded by what it comes to."""

NEVER = r"(^|/)\.|README|attribution|bpe_merges"
"""Files of which nothing is recorded: hidden ones, prose, and what only was copied."""
IMAGES = {".jpg", ".jpeg", ".png", ".tif"}
TEXTS = {".md", ".txt", ".csv", ".yaml", ".html"}
VALUES = {".json", ".jsonl", ".parquet", ".npy", ".safetensors", *TEXTS}

SIZES = "unlabelled=40 per_class=6 held_out=20"
"""Of the scenes."""
SECOND = re.compile(r"\b[\d.,]+ (s|seconds|minutes|pairs/s|MB|kB|bytes)\b")
LIBRARIES = ("python", "torch", "open_clip_torch", "numpy", "pillow", "safetensors")
"""Lines of a page that the version follows."""
PIXELS = re.compile(r"[0-9a-f]{64}|[A-Za-z0-9+/]{60,}={0,2}")
"""Digests, and numbers as text."""
PROGRESS = re.compile(r"[\w :,'()-]+: [\d,]+")
"""A line about a step that begins or takes long: a step whose result is cached has none."""


class Work:
    """Runs commands in a folder with a cache of its own, on one thread.

    Args:
        folder: An empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.vague = False
        self.warned = ""

    def __call__(self, command: str, *more: str, code: int | None = 0) -> str:
        """Run a command line, given without `mmpoison`, and return its standard output; the error of a refusal.

        Raises:
            RuntimeError: If it ends with another exit code.
        """
        from mmpoison.cli import main

        said, error, ended = io.StringIO(), io.StringIO(), 0
        settings = {"MMPOISON_CACHE": str(self.folder / "cache"), "COLUMNS": "100"}
        words = ["mmpoison", *shlex.split(command), *more]
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with (
                contextlib.chdir(self.folder),
                contextlib.redirect_stdout(said),
                contextlib.redirect_stderr(error),
                mock.patch.dict(os.environ, {**settings, "OMP_NUM_THREADS": "1"}),
                mock.patch.object(sys, "argv", words),
                mock.patch.object(Figure, "savefig", save_drawn),
                warnings.catch_warnings(),
            ):
                warnings.simplefilter("default", UserWarning)  # pytest makes errors of them
                for name in ("MMPOISON_DATA", "FORCE_COLOR", "MMPOISON_TRACEBACK"):
                    os.environ.pop(name, None)
                main()
        except SystemExit as end:
            ended = int(end.code or 0)
        finally:
            torch.set_num_threads(threads)
        if code is not None and ended != code:
            raise RuntimeError(f"{command}: exit code {ended}\n{error.getvalue()[-2000:]}")
        self.warned = "" if code else error.getvalue()
        return error.getvalue() if code else said.getvalue()

    def once(self, out: str, command: str, *more: str) -> str:
        """Run a command that writes the folder `out`, unless another case did; return `out`."""
        if not (self.folder / out).exists():
            self(f"{command} --out {out}", *more)
        return out

    @property
    def scenes(self) -> str:
        """Scenes of the 20 classes: 180 images, 5 captions each."""
        sizes = " ".join(f"--option {word}" for word in SIZES.split())
        return self.once("scenes", f"data build openmoji {sizes}")

    @property
    def poisoned(self) -> str:
        """The scenes with 15 captions of sheep on images of aeroplanes."""
        command = f"poison --data {self.scenes} --goal sheep2aeroplane --samples 3"
        return self.once("poisoned", command)

    @property
    def squares(self) -> str:
        """56 coloured squares of 4 classes, 5 captions each."""
        if not (self.folder / "squares").exists():
            write_square_pairs(self.folder / "squares")
        return "squares"

    @property
    def poisoned_squares(self) -> str:
        """The squares with 15 captions of sheep on images of aeroplanes."""
        command = f"poison --data {self.squares} --goal sheep2aeroplane --samples 3"
        return self.once("poisoned-squares", command)

    @property
    def tiny(self) -> str:
        """A small CLIP with weights that are drawn here, so that they do not depend on torch."""
        out = self.folder / "tiny"
        if out.exists():
            return out.name
        self("models export openmoji-vit --out tiny")
        config = json.loads((out / "open_clip_config.json").read_text("utf-8"))
        shape = config["model_cfg"]
        shape["embed_dim"] = 32
        shape["vision_cfg"] |= {"image_size": 32, "layers": 2, "width": 32, "head_width": 16}
        shape["text_cfg"] |= {"width": 32, "layers": 2, "heads": 2}
        config = {"model_cfg": shape, "preprocess_cfg": {**config["preprocess_cfg"], "size": 32}}
        (out / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
        module = open_clip.CLIP(shape["embed_dim"], shape["vision_cfg"], shape["text_cfg"])
        rng = np.random.default_rng(35)
        drawn = {
            name: rng.normal(name.endswith("weight") and one.ndim == 1, 0.1, one.shape).astype(
                np.float32
            )
            for name, one in sorted(module.state_dict().items())
        }
        save_file(
            {**drawn, "logit_scale": np.array(3.0, np.float32)}, out / "open_clip_model.safetensors"
        )
        return out.name

    # -- what is recorded --------------------------------------------------------------------------

    def plain(self, text: str) -> str:
        """Return a text without what differs from machine to machine."""
        from mmpoison import __version__

        text = text.replace(f"{self.folder}{os.sep}", "").replace(str(self.folder), ".")
        text = SECOND.sub(r"N \1", text.replace(__version__, "VERSION"))
        return PIXELS.sub("PIXELS", text) if self.vague else text

    def lines(self, text: str) -> list[str]:
        """Return the lines of a text, without those of progress."""
        lines = [line.rstrip() for line in self.plain(text).splitlines() if line.strip()]
        before = ["", *lines]
        lines = [
            "VERSION" if b in LIBRARIES else line for b, line in zip(before, lines, strict=False)
        ]
        return [line for line in lines if not PROGRESS.fullmatch(line)]

    def said(self, command: str, *more: str, code: int | None = 0) -> Any:
        """Run a command, and record what it prints: as JSON where it is, else as lines; and warnings."""
        text = self(command, *more, code=code)
        try:
            found = self.tidy(json.loads(text), 100)
        except ValueError:
            found = self.lines(text)
        warned = self.lines(self.warned)
        return {"said": found, "warned": warned} if warned else found

    def tidy(self, value: Any, long: int = LONG) -> Any:
        """A JSON value as it is recorded: without what is volatile, rounded, and long lists summed up."""
        if isinstance(value, dict):
            named = {self.plain(str(key)): item for key, item in value.items()}
            return {k: self.tidy(v, long) for k, v in named.items() if not VOLATILE.fullmatch(k)}
        if isinstance(value, list | tuple):
            if len(value) <= long:
                return [self.tidy(item, long) for item in value]
            tables = all(isinstance(item, dict) for item in value)
            return self.table(value) if tables else self.column(value)
        if isinstance(value, float):
            return float(f"{value:.6g}")
        return value if isinstance(value, bool | int | None) else self.plain(str(value))

    def table(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Rows, recorded by column."""
        names = sorted({name for row in rows for name in row if not VOLATILE.fullmatch(name)})
        return {
            "rows": len(rows),
            **{name: self.column([row.get(name) for row in rows]) for name in names},
        }

    def column(self, values: Sequence[Any]) -> Any:
        """A list, recorded by its first values, a digest of its texts and the moments of its numbers."""
        if len(values) <= LONG:
            return [self.tidy(item) for item in values]
        texts: list[str] = []
        numbers: list[float] = []
        for leaf in _leaves(list(values)):
            texts += [self.plain(leaf)] if isinstance(leaf, str) else []
            numbers += [float(leaf)] if isinstance(leaf, bool | int | float) else []
        found: dict[str, Any] = {"n": len(values), "first": [self.tidy(v) for v in values[:2]]}
        if texts:
            found |= {"texts": digest(texts), "in any order": digest(sorted(texts))}
        if numbers:
            found["numbers"] = moments(numbers)
        return found

    def file(self, file: Path) -> Any:
        """Record a file by what it holds."""
        if file.suffix == ".json":
            # of metrics.json every number
            long = 10**6 if file.name == "metrics.json" else LONG
            return self.tidy(json.loads(file.read_text("utf-8")), long)
        if file.suffix == ".jsonl":
            return self.table([json.loads(line) for line in file.read_text("utf-8").splitlines()])
        if file.suffix == ".parquet":
            return self.table(pq.read_table(file).to_pylist())
        if file.suffix == ".npy":
            array = np.load(file)
            return {"type": str(array.dtype), **self.table([{"": row} for row in array.tolist()])}
        if file.suffix == ".safetensors":
            return weights(file)
        text = file.read_text("utf-8")
        lines = self.lines(page_text(text) if file.suffix == ".html" else text)
        return self.column(lines) if file.suffix == ".txt" else lines

    def record(self, out: str, without: str = NEVER) -> dict[str, Any]:
        """Record every file of a folder; images by their number and their mean, others only by name.

        Args:
            out: The folder.
            without: Files whose path matches this expression are left out.
        """
        found: dict[str, Any] = {}
        images = []
        for file in sorted(path for path in (self.folder / out).rglob("*") if path.is_file()):
            name = file.relative_to(self.folder / out).as_posix()
            if re.search(rf"{NEVER}|{without}", name):
                continue
            if file.suffix in (".png", ".svg") and file.read_bytes().startswith(DRAWN):
                found[name] = self.tidy(json.loads(file.read_bytes().removeprefix(DRAWN)))
            elif file.suffix in IMAGES:
                images.append(file)
            else:
                found[name] = self.file(file) if file.suffix in VALUES else "is there"
        if images:
            some = images[:: max(1, len(images) // 20)]
            pixels = [float(np.asarray(Image.open(file).convert("RGB")).mean()) for file in some]
            found["images"] = {"files": len(images), "pixels": moments(pixels)}
        return found

    def serve(self, command: str, talk: Callable[[Any], Any]) -> Any:
        """Run a verb with a local page, and record what `talk` makes of a client of its server."""
        import uvicorn
        from fastapi.testclient import TestClient

        answers = []

        def run(server: Any, **_: Any) -> None:
            answers.append(talk(TestClient(server.config.app, base_url="http://127.0.0.1")))

        with mock.patch.object(uvicorn.Server, "run", run):
            self(command)
        return self.tidy(answers[0])

    def does(self, command: str, out: str, without: str = NEVER) -> dict[str, Any]:
        """Run a command that writes the folder `out`; record what it prints and writes."""
        said = self.said(f"{command} --out {out}")
        return {"said": said, **self.record(out, without)}


DRAWN = b"drawn:"


def save_drawn(figure: Figure, file: Any, **_: Any) -> None:
    """Write what a figure shows in place of its picture: in a fraction of the time, and without its style."""
    axes = []
    for one in figure.axes:
        legend = one.get_legend()
        points = [*one.lines, *one.collections]
        numbers: list[Any] = [line.get_xydata() for line in one.lines]
        numbers += [each.get_offsets() for each in one.collections]
        numbers += [image.get_array() for image in one.images]
        numbers += [patch.get_extents().get_points() for patch in one.patches]
        axes.append(
            {
                "title": one.get_title(),
                "labels": [one.get_xlabel(), one.get_ylabel()],
                "legend": [text.get_text() for text in legend.get_texts()] if legend else [],
                "texts": [text.get_text() for text in one.texts],
                "ticks": [
                    text.get_text() for text in (*one.get_xticklabels(), *one.get_yticklabels())
                ],
                "shown": [len(points), len(one.images), len(one.patches)],
                "numbers": [moments(np.ma.filled(np.ma.ravel(each), 0)) for each in numbers],
            }
        )
    content = DRAWN + json.dumps({"axes": axes}).encode()
    if hasattr(file, "write"):
        file.write(content)
    else:
        Path(file).write_bytes(content)


def digest(value: Any) -> str:
    """The beginning of the sha256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def moments(numbers: Any) -> list[Any]:
    """Mean, deviation and extremes of numbers, and how they change with their place, which sees their order."""
    array = np.nan_to_num(np.asarray(numbers, np.float64))
    if not len(array):
        return []
    mean, deviation = array.mean(), array.std()
    trend = ((array - mean) * np.linspace(-1, 1, len(array))).mean() / max(deviation, 1e-6)
    values = (mean, deviation, array.min(), array.max())
    return [*(float(f"{value:.6g}") for value in values), f"{trend + 0.0:.2f}"]


def weights(file: Path) -> dict[str, Any]:
    """The size and the norm of each tensor of a checkpoint."""
    tensors = load_file(file)
    norms = [float(np.linalg.norm(tensors[name].astype(np.float64))) for name in sorted(tensors)]
    return {
        "names": digest(sorted((name, list(one.shape)) for name, one in tensors.items())),
        "norms": moments(norms),
    }


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = [item for _, item in sorted(value.items()) if item is not None]
    if isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


class _Text(HTMLParser):
    """Collects what a person reads on a page, and where its links lead."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.hidden += tag in ("style", "script", "svg")
        found = dict(attrs)
        for name in ("href", "alt", "title"):
            if (value := found.get(name)) and not value.startswith("data:"):
                self.lines.append(f"{name}: {value}")

    def handle_endtag(self, tag: str) -> None:
        self.hidden -= tag in ("style", "script", "svg")

    def handle_data(self, data: str) -> None:
        if not self.hidden and data.strip():
            self.lines.append(" ".join(data.split()))


def page_text(html: str) -> str:
    """Return the text of a page, without styles and pictures."""
    parser = _Text()
    parser.feed(html)
    return "\n".join(parser.lines)
