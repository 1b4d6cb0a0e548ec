"""Runs the benchmarks one after the other, and writes docs/performance.md from what they measured.

    make bench                                   # all of them, half an hour; nothing else should run on the machine
    python benchmarks/bench.py --only ranks      # one of them again, the others stay
    python benchmarks/bench.py --page            # the page alone, from the results that exist

Results are in docs/results/performance, a JSON file for each benchmark with the machine and the load before it. The
page says what machine it was; if the files are of several machines or releases, it is refused.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmpoison.base.files import atomic_file, write_json
from mmpoison.base.processes import cores
from mmpoison.errors import InputError

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs/results/performance"
PAGE = ROOT / "docs/performance.md"

Found = Any
"""What a benchmark wrote: JSON."""


@dataclass(frozen=True)
class Figure:
    """One row of the page.

    Attributes:
        what: What was measured.
        value: Reads it from the result.
        peer: What it is compared with, and where that stands.
        form: How it is written.
        goal: The goal, if there is one.
        least: Whether the goal is the least that is wanted, or the most.
        by_bf16: The goal by the machine's bf16 instructions, in place of one goal.
    """

    what: str
    value: Callable[[Found], float]
    peer: str = ""
    form: str = "{:.2f}"
    goal: float | None = None
    least: bool = True
    by_bf16: Mapping[str, float] = field(default_factory=dict)

    def row(self, found: Found, bf16: str) -> str:
        """Write the row of the page, for a machine with such bf16 instructions."""
        value = self.value(found)
        cells = [self.what, self.form.format(value), self.peer, ""]
        if (goal := self.by_bf16.get(bf16, self.goal)) is not None:
            met = value >= goal if self.least else value <= goal
            border = "at least" if self.least else "at most"
            verdict = "met" if met else "**missed**"
            cells[3] = f"{border} {self.form.format(goal)}: {verdict}"
        return f"| {' | '.join(cells)} |"


@dataclass(frozen=True)
class Benchmark:
    """One program, its figures, and what has to be known about them.

    Attributes:
        name: Of the result's file.
        title: Heading of the page.
        command: Script and options.
        text: What is measured, in a paragraph.
        figures: Rows.
        limits: What the figures do not say.
    """

    name: str
    title: str
    command: tuple[str, ...]
    text: str
    figures: tuple[Figure, ...]
    limits: str = ""


def at(*keys: Any) -> Callable[[Found], float]:
    """Return a function that reads a number of a result by keys, one inside the other."""

    def read(found: Any) -> float:
        for key in keys:
            found = found[key]
        return float(found)

    return read


def benchmarks() -> tuple[Benchmark, ...]:
    """List the benchmarks in the order of the page."""
    return (
        Benchmark(
            "training_step",
            "A step of fine-tuning",
            ("training_step.py", "--images", "64", "--rounds", "3", "--steps", "2"),
            "ViT-B/32 with random weights, both encoders, 32 pairs a batch, AdamW, in the precision that `auto` "
            "chooses. The peer is the step of the paper's released loop: 32-bit, 77 tokens. Both take turns.",
            (
                Figure(
                    "times as fast as the released loop",
                    at("ratio_vs_reference_step"),
                    "the same model and batch, torch's own blocks",
                    by_bf16={"AMX": 5.0, "AVX512": 3.3},
                ),
                Figure("seconds a step", at("seconds")),
                Figure("seconds a step of the released loop", at("seconds_reference")),
                Figure(
                    "share of the machine's matrix-multiply rate",
                    at("fraction_of_matmul_rate"),
                    "one product of two 4096 x 4096 matrices in the same precision, in the same run",
                ),
                Figure(
                    "times as fast as with open_clip's blocks",
                    at("ratio_vs_open_clip_blocks"),
                    "everything else equal",
                ),
                Figure(
                    "slower with the image store than with tensors in memory",
                    at("data_overhead"),
                    form="{:.1%}",
                    goal=0.05,
                    least=False,
                ),
            ),
            "Gains that depend on the data: captions of 17 to 19 tokens here, cut at the longest of a batch.",
        ),
        Benchmark(
            "training_step_fp32",
            "The same in 32-bit",
            (
                *("training_step.py", "--images", "64", "--rounds", "2", "--steps", "1"),
                *("--precision", "fp32"),
            ),
            "As on a processor without bf16 instructions.",
            (
                Figure("times as fast as the released loop", at("ratio_vs_reference_step")),
                Figure(
                    "share of the machine's matrix-multiply rate", at("fraction_of_matmul_rate")
                ),
            ),
            "Only the shorter text, the last block and the memory that is used again save time here.",
        ),
        Benchmark(
            "training_step_depthwise",
            "The same with depthwise convolutions",
            (
                *("training_step.py", "--model", "efficientnet-minilm"),
                *("--images", "64", "--rounds", "5", "--steps", "4"),
            ),
            "EfficientNet-Lite0 and MiniLM-L6 (`efficientnet-minilm`), as `rsicd-ucm-full` trains them. The peer is "
            "the released loop on this model.",
            (
                Figure("times as fast as the released loop", at("ratio_vs_reference_step")),
                Figure(
                    "times as fast as with torch's own gradients",
                    at("ratio_vs_open_clip_blocks"),
                    "everything else equal",
                ),
                Figure("seconds a step", at("seconds")),
                Figure("seconds a step of the released loop", at("seconds_reference")),
            ),
        ),
        Benchmark(
            "embedding",
            "Embedding a test set",
            ("embedding.py", "--images", "24"),
            "ViT-B/32, five captions an image. The peer is the usual loop over pairs with open_clip.",
            (
                Figure("times as fast, 32-bit", at("ratio"), "a DataLoader over pairs", goal=3.0),
                Figure("the same in processor time", at("cpu_ratio")),
                Figure("largest difference of embeddings", at("largest_difference"), form="{:.0e}"),
            ),
        ),
        Benchmark(
            "filter",
            "The filter",
            ("filter.py", "--pairs", "1000", "--small", "10000", "--large", "100000"),
            "The relevance filter with `openmoji-mini`, five captions an image, images of 256 pixels.",
            (
                Figure(
                    "times as fast as the loop over pairs",
                    at("ratio"),
                    "the same encoder",
                    form="{:.1f}",
                    goal=3.0,
                ),
                Figure("times as fast as the loop in batches", at("ratio_to_batches")),
                Figure("GiB at 10,000 pairs", at("rss_gib_10k")),
                Figure("GiB at 100,000 pairs", at("rss_gib_1m")),
            ),
        ),
        Benchmark(
            "group_memory",
            "The scan for suspicious groups, in memory",
            ("group_memory.py", "--pairs", "60000,600000"),
            "`filter --method suspicious-groups` on made-up features of COCO's size, five captions an image. Beyond "
            "that, `mmpoison scan` reads shards in passes.",
            (
                Figure("seconds for 60,000 pairs", at(0, "seconds"), form="{:.0f}"),
                Figure("seconds for 600,000 pairs", at(1, "seconds"), form="{:.0f}"),
                Figure("peak GiB at 60,000 pairs", at(0, "peak_gib")),
                Figure(
                    "peak GiB at 600,000 pairs",
                    at(1, "peak_gib"),
                    "the features alone",
                ),
                Figure("of that, features", at(1, "features_gib")),
                Figure("share of the goal in the strongest group", at(1, "share_of_goal")),
            ),
        ),
        Benchmark(
            "embedded_scan",
            "The scan of embeddings, in passes over shards",
            ("embedded_scan.py", "--pairs", "100000", "--pairs", "1000000", "--rate", "0.0001"),
            "Synthetic pairs of 512 float16 numbers a side, two threads.",
            (
                Figure(
                    "pairs a second, the distance alone, from the disk",
                    at(-1, "distance", "pairs_per_second_from_disk"),
                    form="{:,.0f}",
                    goal=150_000,
                ),
                Figure(
                    "of the rate of reading the same files",
                    at(-1, "distance", "share_of_disk_bandwidth"),
                    "reading and nothing else, from the disk",
                    form="{:.0%}",
                    goal=0.5,
                ),
                Figure(
                    "the same where the files lie in memory already",
                    at(-1, "distance", "share_of_cached_bandwidth"),
                    "reading and nothing else, from memory",
                    form="{:.0%}",
                ),
                Figure(
                    "pairs a second, all passes over groups and their fits",
                    at(-1, "pairs_per_second"),
                    form="{:,.0f}",
                    goal=40_000,
                ),
                Figure("peak GiB at 100,000 pairs", at(0, "peak_gib")),
                Figure("peak GiB at 1,000,000 pairs", at(-1, "peak_gib"), goal=2.0, least=False),
                Figure("share of the poison in named groups, 0.01%", at(-1, "recall")),
            ),
            "More in [Scan scraped data](tasks/scan-web-data.md).",
        ),
        Benchmark(
            "ranks",
            "Ranks",
            ("ranks.py", "--usual-queries", "20"),
            "1,000 targets for 1,000 queries in a gallery of 100,000, one thread. Results were checked to equal those "
            "of sorting.",
            (
                Figure("seconds", at("seconds")),
                Figure(
                    "times as fast as sorting and searching once",
                    at("ratio_one_search"),
                    "`np.argsort` for each query",
                    form="{:.0f}",
                    goal=50.0,
                ),
                Figure("peak GiB", at("peak_rss_gib"), goal=1.0, least=False),
            ),
        ),
        Benchmark(
            "image_cache",
            "The image store",
            ("image_cache.py", "--images", "500"),
            "An epoch fed from stored pixels. The peer is a DataLoader that decodes the JPEG for each caption.",
            (
                Figure("times as fast, feeding alone", at("loading_ratio"), form="{:.1f}"),
                Figure("times as fast, an epoch of a very small model", at("ratio"), form="{:.1f}"),
            ),
            "A model that keeps the machine busy by itself hides most of it.",
        ),
        Benchmark(
            "coco_json",
            "Loading COCO",
            ("coco_json.py",),
            "Made-up files of COCO 2014's size: 123,287 images, 616,767 pairs, 590 MB of JSON.",
            (
                Figure("seconds", at("seconds"), form="{:.1f}"),
                Figure("peak GiB", at("peak_rss_gib")),
            ),
        ),
        Benchmark(
            "all_goals",
            "All goals of a heat map",
            ("all_goals.py", "--single", "1", "--sweep", "4"),
            "All 380 goals of OpenMoji scenes with `openmoji-heads`, estimated from one single run and from sweeps of "
            "one and of four goals, in processor time.",
            (
                Figure("seconds a goal in a sweep", at("processor", "sweep_each_goal_s")),
                Figure("seconds of a single run", at("processor", "single_run_s"), form="{:.1f}"),
                Figure(
                    "a sweep's share of the time of single runs",
                    at("processor", "share"),
                    form="{:.1%}",
                    goal=0.35,
                    least=False,
                ),
            ),
        ),
        Benchmark(
            "commands",
            "Commands",
            ("bench.py", "--commands"),
            "The best of five starts, and the demo once, from an empty cache.",
            (
                Figure("seconds of `mmpoison --help`", at("help_seconds"), goal=0.3, least=False),
                Figure(
                    "seconds of `import mmpoison`, Python's own start taken off",
                    at("import_seconds"),
                    form="{:.3f}",
                ),
                Figure(
                    "seconds of `mmpoison demo`",
                    at("demo_seconds"),
                    form="{:.0f}",
                    goal=120,
                    least=False,
                ),
            ),
        ),
    )


# -- measuring ---------------------------------------------------------------------------------------------------------


def measure_commands() -> Found:
    """Time the start of the command line and of Python, and the demo."""

    def best(*command: str) -> float:
        taken = []
        for _ in range(5):
            begun = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            taken.append(time.perf_counter() - begun)
        return min(taken)

    python = sys.executable
    plain = best(python, "-c", "pass")
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        subprocess.run(
            [python, "-m", "mmpoison", "demo", "--out", f"{folder}/demo"],
            check=True,
            env={**os.environ, "MMPOISON_CACHE": f"{folder}/cache"},
            stdout=subprocess.DEVNULL,
        )
        demo = time.perf_counter() - begun
    return {
        "help_seconds": round(best(python, "-m", "mmpoison", "--help"), 3),
        "import_seconds": round(best(python, "-c", "import mmpoison") - plain, 4),
        "demo_seconds": round(demo, 1),
    }


def machine() -> dict[str, Any]:
    """Describe the machine as far as the figures depend on it."""
    import torch

    from mmpoison.models.compute_environment import cpu_kind

    flags = Path("/proc/cpuinfo").read_text("utf-8") if Path("/proc/cpuinfo").exists() else ""
    bf16 = "AMX" if "amx_bf16" in flags else "AVX512" if "avx512_bf16" in flags else "none"
    return {
        "processor": cpu_kind(),
        "bf16": bf16,
        "cores": cores(),
        "torch": torch.__version__,
    }


def run(benchmark: Benchmark) -> None:
    """Run one benchmark, and keep its result."""
    load = [round(value, 2) for value in os.getloadavg()]
    script, *options = benchmark.command
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "found.json"
        command = [sys.executable, str(ROOT / "benchmarks" / script), *options]
        begun = time.perf_counter()
        print(f"== {benchmark.title}: {' '.join(benchmark.command)}", flush=True)
        subprocess.run([*command, "--json", str(file)], check=True)
        found = json.loads(file.read_text("utf-8"))
    seconds = round(time.perf_counter() - begun, 1)
    result = {"machine": machine(), "load_before": load, "seconds": seconds, "found": found}
    RESULTS.mkdir(parents=True, exist_ok=True)
    write_json(RESULTS / f"{benchmark.name}.json", result)


# -- the page ----------------------------------------------------------------------------------------------------------

HEAD = """# Performance

<!-- Made by `make bench` from docs/results/performance; changes here are lost. -->

Every figure is of one machine: {machine}.
Nothing else ran on it unless a section says so. Ratios are of two sides that took turns in one run, so they hold better
on other machines than seconds do. `make bench` measures it again on yours; the sections below took
{minutes:.0f} minutes.

Nothing was measured on a GPU or on a processor with AMX: [On GPUs](gpu.md) says what is there.
"""


def page(results: dict[str, Found], listed: Sequence[Benchmark]) -> str:
    """Write the page.

    Args:
        results: The result of each benchmark by name; some may be missing.
        listed: The benchmarks in the order of the page.

    Raises:
        InputError: If there is none, or they are of several machines.
    """
    there = [benchmark for benchmark in listed if benchmark.name in results]
    machines = {json.dumps(results[one.name]["machine"], sort_keys=True) for one in there}
    if len(machines) != 1:
        raise InputError(
            f"{RESULTS}: results of {len(machines)} machines: run `make bench` on one machine"
        )
    facts = json.loads(machines.pop())
    bf16 = {"none": "without bf16 instructions", "AVX512": "with AVX512 bf16", "AMX": "with AMX"}
    named = f"{facts['cores']} cores {bf16[facts['bf16']]} ({facts['processor']}), torch {facts['torch']}"
    minutes = sum(results[one.name]["seconds"] for one in there) / 60
    parts = [HEAD.format(machine=named, minutes=minutes)]
    for benchmark in there:
        result = results[benchmark.name]
        lines = [
            f"## {benchmark.title}",
            "",
            benchmark.text,
            "",
            f"    python benchmarks/{' '.join(benchmark.command)}",
            "",
            "| | | compared with | goal |",
            "|---|---:|---|---|",
            *(figure.row(result["found"], facts["bf16"]) for figure in benchmark.figures),
        ]
        if benchmark.limits:
            lines += ["", benchmark.limits]
        # the benchmark before keeps the cores busy itself
        if result["load_before"][0] > result["machine"]["cores"] + 0.5:
            lines += ["", f"The machine was busy before (load {result['load_before'][0]})."]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def write_page() -> None:
    """Write the page from the results that exist."""
    listed = benchmarks()
    results = {
        one.name: json.loads((RESULTS / f"{one.name}.json").read_text("utf-8"))
        for one in listed
        if (RESULTS / f"{one.name}.json").is_file()
    }
    text = page(results, listed)
    with atomic_file(PAGE) as temporary:
        temporary.write_text(text, encoding="utf-8")


def main() -> None:
    """Run what is asked for, then write the page."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    names = [benchmark.name for benchmark in benchmarks()]
    parser.add_argument("--only", action="append", choices=names, help="again, of all; repeatable")
    parser.add_argument("--page", action="store_true", help="the page alone")
    parser.add_argument("--commands", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.commands:
        write_json(options.json, measure_commands())
        return
    if not options.page:
        for benchmark in benchmarks():
            if options.only is None or benchmark.name in options.only:
                run(benchmark)
    try:
        write_page()
    except InputError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
