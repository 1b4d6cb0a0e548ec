"""The cases of the net: each runs main jobs at a small size, and gives what came out as a JSON value."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from tests.golden import layouts
from tests.golden.work import SIZES, Work, moments, page_text

Case = Callable[[Work], Any]
CASES: dict[str, Case] = {}
WITHIN: dict[str, float] = {}
"""Of each case how far a number may be from the recorded one, as a share of it."""

EXACT, EMBEDDED_WITHIN, TRAINED_WITHIN = 1e-6, 5e-3, 1e-2
"""Pure arithmetic; numbers of embeddings; numbers of models that were trained here.

Weights that differ by 1e-6 of themselves, ten times what another order of additions makes, move what embeddings give by
up to 2e-3 and what a few steps of training give by up to 5e-3. Where nothing flips by such a change, lists are compared
exactly; settings of the cases are chosen so.
"""

JUDGE = "--encoder openmoji-mini"
GOAL = "--goal sheep2aeroplane"


def case(within: float) -> Callable[[Case], Case]:
    """Register a case under the name of its function."""

    def register(make: Case) -> Case:
        name = make.__name__.replace("_", "-")
        CASES[name], WITHIN[name] = make, within
        return make

    return register


def options_of(table: str) -> dict[str, list[str]]:
    """Read a table of a name and options a line, where a name may have several lines."""
    found: dict[str, list[str]] = {}
    for line in table.strip().splitlines():
        name, _, options = line.strip().partition(" ")
        found.setdefault(name, []).append(options.strip())
    return found


# -- attacks ---------------------------------------------------------------------------------------

ATTACKS = options_of("""
    single-target-image     --samples 2
    single-target-image     --pairs 7 --mode replace
    single-target-image     --samples 2 --target-image centre --encoder openmoji-mini
    single-target-image     --preset reference-release --encoder openmoji-mini
    single-target-label     --samples 3
    single-target-label     --rate 0.01 --mode replace --seed 3
    single-target-label     --share 0.5 --carrier own
    single-target-label     --samples 2 --spread samples
    multiple-target-labels  --samples 2 --goal sofa2bird
    multiple-target-labels  --samples 2 --goal sofa2bird --carrier own --spread captions
    multiple-target-labels  --rate 0.02 --goal sofa2bird --mode replace
    multiple-target-labels  --goal sofa2bird --preset reference-release --set drop_last_targets=true
    self-vouched            --share 0.5
    nearest-assigned        --samples 2 --encoder openmoji-mini --set unseen=1
    under-the-grid          --samples 2 --encoder openmoji-mini
    under-the-grid          --samples 2 --goal sofa2bird --encoder openmoji-mini --set per_cell=2
    both-names              --samples 2
    both-names              --samples 2 --encoder openmoji-mini --set connector=nearest --carrier existing
    decoys                  --samples 2 --set decoys=3 --set decoy_samples=1
    orphan                  --samples 2
    orphan                  --pairs 6 --carrier existing
    patch-backdoor          --samples 3
    patch-backdoor          --pairs 3 --mode add --set place=random --set drawn_from=target
    blend-backdoor          --samples 3
    blend-backdoor          --samples 3 --set noise=per-image --set cell=8
    badclip                 --samples 2 --encoder openmoji-mini --set steps=2
    feature-collision       --samples 2 --encoder openmoji-mini --set steps=4
    nearest-goal            --samples 2 --encoder openmoji-mini
    nearest-goal            --samples 2 --goal cow2auto --encoder openmoji-mini --carrier own
    toxic-text              --samples 2 --encoder openmoji-mini
    toxic-text              --samples 2 --encoder openmoji-mini --spread captions --set synonym_rate=0.9
""")
"""Options of each registered attack, so that every carrier, mode and spread occurs."""


@case(EMBEDDED_WITHIN)
def attacks(work: Work) -> Any:
    """Poisoned folders: what is printed, the table and the manifest."""
    found = {}
    for name, every in ATTACKS.items():
        work.vague = name in ("badclip", "feature-collision")
        for number, options in enumerate(every):
            goal = "" if "2auto" in options else GOAL
            command = f"poison --data {work.scenes} --attack {name} {goal} {options}"
            found[f"{name} {options}"] = work.does(command, f"{name}-{number}")
    return found


# -- defences --------------------------------------------------------------------------------------

DEFENSES = options_of("""
    relevance-filter   --lose 0.02 --kept stays
    relevance-filter   --lose 0.01 --trusted none
    relevance-filter   --threshold 0.5 --kept table --images none
    suspicious-groups
    suspicious-groups  --false-alarms 0.99
    suspicious-groups  --lose 0.05
    gmm-split
    gmm-split          --lose 0.1
    local-density      --set k=8
    local-density      --lose 0.1 --set modality=image --set score=slof
    local-density      --lose 0.1 --set modality=caption --set score=dao --set reference=100
    random-drop        --seed 4
    roclip             --set epochs=2 --set bank=0.5 --set every=2
    safeclip           --set epochs=3 --set warmup_epochs=1 --set clip_epochs=1 --set safe=0.3
    scan-trace         --set lose=0.1 --set rounds=1
    clean-finetune     --goal sheep2aeroplane
    clean-finetune     --held-out 0 --learning-rate 1e-3
    clean-finetune     --learning-rate 1e-3 --learning-rate 1e-4 --held-out 0.6 --max-utility-loss 0.5
    clean-finetune     --canary-goal bird2boat --held-out 0.6 --max-utility-loss 0.5 --evaluate-every 1
    cleanclip          --set weight=2
    par                --set tau=0.5
    rank-gain          --clean-runs 2
    decree             --set steps=3 --set images=8
""")
"""Options of each registered defence."""

VIT = "--model openmoji-vit"
STEPS = "--set precision=fp32 --set batch_size=32 --set warmup_epochs=0.1"


def _suspect(work: Work) -> str:
    """A model that was trained on poisoned pairs."""
    command = (
        f"train --data {work.poisoned_squares} --model {work.tiny} {STEPS} --set learning_rate=1e-3"
    )
    return work.once("suspect", f"{command} --set epochs=1")


def _defended(work: Work, names: str, command: str) -> Any:
    found = {}
    for name in names.split():
        for number, options in enumerate(DEFENSES[name]):
            found[f"{name} {options}"] = work.does(
                command.format(name) + f" {options}", f"{name}-{number}"
            )
    return found


@case(EMBEDDED_WITHIN)
def filters(work: Work) -> Any:
    """What each filter scores, drops and keeps, with several cuts."""
    command = f"scan {work.poisoned} {JUDGE} --no-planted --workers 1 --method {{}}"
    names = "relevance-filter suspicious-groups gmm-split local-density random-drop"
    found = _defended(work, names, command)
    scored = pq.read_table(work.folder / "relevance-filter-0" / "scores.parquet").to_pylist()
    labels = ["pair,verdict"]
    for one in scored[::4]:
        labels.append(f"{one['pair']},{'drop' if one['score'] > 0.4 else 'keep'}")
    (work.folder / "by-hand.csv").write_text("\n".join(labels) + "\n", encoding="utf-8")
    labelled = f"{command.format('relevance-filter')} --labels by-hand.csv --lose 0.05"
    return {
        **found,
        "labels": work.does(labelled, "labelled", "html$|png$"),
        "stays": work.record("stays"),
        "table": work.record("table"),
    }


@case(TRAINED_WITHIN)
def repairs(work: Work) -> Any:
    """Repaired weights, and what a repair measured on its way."""
    data = f"--split test {STEPS} --set epochs=2 --set max_steps=3"
    command = f"sterilize --data {work.scenes} {data} --model {_suspect(work)} --method {{}}"
    return _defended(work, "clean-finetune cleanclip par", command)


@case(TRAINED_WITHIN)
def checks(work: Work) -> Any:
    """Is a model poisoned? Each check, with the clean fine-tunes that it made."""
    of = f"--data {work.squares} --reference {work.tiny} --json"
    command = f"check {_suspect(work)} {of} --method {{}}"
    found = _defended(work, "decree", command)
    return {**found, **_defended(work, "rank-gain", f"{command} {STEPS} --set max_steps=2")}


@case(TRAINED_WITHIN)
def measures(work: Work) -> Any:
    """Every number of a poisoned model next to a clean one, with all studies; and of a backdoor."""
    heads = f"{VIT} {STEPS} --set epochs=2 --set learning_rate=5e-3 --set trainable=text-head"
    clean = work.once("clean-heads", f"train --data {work.scenes} {heads}")
    model = work.once("poisoned-heads", f"train --data {work.poisoned} {heads}")
    of = f"--model {model} --reference {clean} --pretrained openmoji-vit"
    found = work.does(f"evaluate --data {work.poisoned} {of} --study all --all", "measured")
    command = f"poison --data {work.scenes} --goal sheep2sofa --attack patch-backdoor --samples 4"
    patched = work.once("patched", command)
    for form in ("json", "as markdown", "as latex", "as csv"):
        command = f"evaluate --data {patched} --model {model} --reference openmoji-vit --{form}"
        found[f"backdoor {form.split()[-1]}"] = work.said(command)
    other = f"--goal cow2bird --goal cat2dog --model {model}"
    return {**found, "other": work.said(f"evaluate --data {work.scenes} {other} --all")}


@case(TRAINED_WITHIN)
def trainings(work: Work) -> Any:
    """The steps and the weights of ordinary trainings, of each part of a model, and of robust ones."""
    data = f"train --data {work.poisoned_squares} {STEPS}"
    command = f"{data} --model {work.tiny} --set batch_size=70 --defense {{}}"
    found = _defended(work, "roclip safeclip scan-trace", command)
    parts = {
        "both": "--model openmoji-mini --set max_steps=2 --set chunk_size=16",
        "image": "--model openmoji-small --set max_steps=2 --set batch_size=16",
        "text": f"--model {work.tiny} --set max_steps=3 --set schedule=step --seed 1",
        "heads": f"--model {work.tiny} --set epochs=2",
        "text-transformer-frozen": f"--model {work.tiny} --set max_steps=2",
    }
    for part, options in parts.items():
        command = f"{data} --set trainable={part} {options}"
        found[part] = work.does(command, f"trained-{part}")
    return found


# -- runs ------------------------------------------------------------------------------------------

BRIEF = {
    "epochs": 2,
    "batch_size": 32,
    "precision": "fp32",
    "learning_rate": 5e-3,
    "schedule": "step",
    "trainable": "heads",
}


def recipe(work: Work, name: str, **groups: Any) -> str:
    """Write a recipe that trains a projection on the scenes; `groups` are put in or replace its own."""
    value = {
        "name": name,
        "data": {"name": work.scenes},
        "model": {"name": "openmoji-vit"},
        "attack": {"name": "single-target-label", "goal": "sheep2aeroplane", "samples": 3},
        "training": BRIEF,
        **groups,
    }
    (work.folder / f"{name}.yaml").write_text(json.dumps(value), encoding="utf-8")
    return f"{name}.yaml"


@case(TRAINED_WITHIN)
def run_openmoji(work: Work) -> Any:
    """The demo's job in small, with all studies."""
    sizes = " ".join(f"--set data.options.{word}" for word in SIZES.split())
    train = "--set training.epochs=2 --set training.precision=fp32 --set attack.samples=3"
    repair = "--set sterilize.training.epochs=1 --set sterilize.training.precision=fp32"
    more = "--set model.name=openmoji-vit --set sterilize.curve=true --set study=all --models"
    found = work.does(f"run openmoji-heads {sizes} {train} {repair} {more}", "openmoji")
    figures = "report openmoji --view figure-8 --view figure-10 --no-links"
    found["figures"] = work.does(figures, "figures", "html$|svg$")
    return {**found, "list": work.said("run")}


@case(TRAINED_WITHIN)
def run_defended(work: Work) -> Any:
    """A run of two goals with a defence of every kind, measured on other data too."""
    goals = {"name": "multiple-target-labels", "goal": ["sheep2sofa", "bird2aeroplane"]}
    file = recipe(
        work,
        "defended",
        seed=1,
        attack={**goals, "samples": 2},
        filter={"method": "local-density", "encoder": "openmoji-mini", "k": 4},
        robust_training={"method": "roclip", "bank": 0.5},
        sterilize={"training": {**BRIEF, "max_steps": 2}, "pairs": 40},
        check={"method": "rank-gain", "false_alarms": 0.2},
        transfer={"data": {"name": work.squares}, "goal": "sheep2sofa"},
    )
    return work.does(f"run {file}", "defended")


# -- data ------------------------------------------------------------------------------------------

PUBLISHED = options_of("""
    coco                   coco --option year=2014 --option parts=both --option test_per_class=2
    coco-paper             coco --option test_per_class=3
    coco-paper-b           coco --option test_per_class=3
    coco-m                 coco --option test_per_class=3
    coco-s                 coco --option test_per_class=3 --option split_seed=2
    coco-paper-vg          . --option shared=keep
    coco-paper-vg          .
    flickr8k               flickr8k --option held_out=3 --option unlabelled=2
    flickr8k-b             flickr8k --option caption_seed=2
    flickr30k              flickr30k
    flickr30k              karpathy --option split=karpathy
    flickr-pascal          .
    flickr-pascal-b        . --option split_seed=1
    flickr-pascal-vg       .
    pascal-sentences       pascal-sentences --option split_seed=3
    rsicd                  rsicd
    ucm-captions           ucm-captions
    vg-pascal              .
    visual-genome          visual-genome --option captions_per_image=3 --option test_per_class=2
    visual-genome-paper    visual-genome --option match=all
    visual-genome-paper-b  visual-genome
""")
"""Of each published set its folder, and options."""

MADE = ("openmoji", "openmoji-b")
"""Sets that are made here: `scenes`."""


@case(EMBEDDED_WITHIN)
def formats(work: Work) -> Any:
    """Each format, read, verified, and saved as a pairs folder."""
    found = {}
    for name, write in layouts.FORMATS.items():
        source = f"in-{name}"
        write(work.folder / source)
        source += "/pairs.tsv" if name == "csv" else ""
        own = "" if name == "image-folder" else " --option own_columns=true"
        found[name] = work.does(f"data split {source} --images copy{own}", f"from-{name}")
        found[f"{name} verified"] = work.said(f"data verify {source} --json", code=None)
    return found


@case(EXACT)
def published(work: Work) -> Any:
    """Each published set, read and written as a pairs folder."""
    layouts.write_published(work.folder / "published")
    found = {}
    for name, every in PUBLISHED.items():
        for number, options in enumerate(every):
            place, _, more = options.partition(" ")
            more += " --option missing=keep"
            command = f"data split {name} --data-root published/{place} {more} --images none"
            found[f"{name} {options}"] = work.does(command, f"{name}-{number}-pairs")
    return found


@case(EXACT)
def data(work: Work) -> Any:
    """Scenes that are built, what `verify` and `split` say of sets with faults, and the list of data sets."""
    few = "--option unlabelled=5 --option per_class=2 --option held_out=2"
    found = {"scenes": work.record(work.scenes)}
    for name in MADE:
        more = (
            "--option caption_seed=3 --seed 1"
            if name == "openmoji-b"
            else "--seed 2 --option size=48"
        )
        found[name] = work.does(f"data build {name} {few} {more}", f"small-{name}")
    found["poisoned"] = work.said(
        f"data verify {work.poisoned} --clean {work.scenes} --json", code=None
    )
    copy = work.folder / "faulty"
    shutil.copytree(work.folder / work.poisoned_squares, copy)
    lines = (copy / "captions.jsonl").read_text("utf-8").splitlines()
    first = json.loads(lines[0])
    faults = [
        {**first, "captions": ["a sofa", "a sofa", " x ", "y" * 3000]},
        {**first, "image": "../up.png"},
        {**first, "image": "no.png", "split": "other"},
        {**first, "image": "sofa/01.png", "captions": []},
    ]
    text = "".join(f"{line}\n" for line in [*lines, *map(json.dumps, faults), "no json"])
    (copy / "captions.jsonl").write_text(text, encoding="utf-8")
    (copy / first["image"]).write_bytes((copy / "sofa" / "02.png").read_bytes()[:300])
    loosely = "--option strict=false"
    found["faulty"] = work.said(f"data verify faulty {loosely}", code=None)
    found["faulty json"] = work.said(f"data verify faulty {loosely} --json", code=None)
    split = "--per-class 3 --keywords thing='kitten|thing' --seed 4"
    found["split"] = work.does(f"data split {work.squares} {split}", "split")
    found["list"] = work.said("data list --json")
    found["one"] = work.said("data list coco")
    return found


# -- scans -----------------------------------------------------------------------------------------

EMBEDDED = options_of("""
    clip-retrieval  --lose 0.01
    datacomp        --no-planted --option model=l14
    npy-pair        --no-planted --seed 3 --false-alarms 0.2
    parquet-lists   --no-planted --lose 0.02
""")
"""Options of a scan of embeddings in each layout."""


@case(EMBEDDED_WITHIN)
def scans(work: Work) -> Any:
    """Scans of embeddings in each layout and of pairs: verdict, groups, lists, page; and what the lists keep."""
    import mmpoison

    found = {}
    for name, (options,) in EMBEDDED.items():
        layouts.EMBEDDED[name](work.folder / f"of-{name}")
        command = f"scan of-{name} {options} --workers 1"
        found[name] = work.does(command, f"scan-{name}")
    command = f"scan {work.poisoned} {JUDGE} --lose 0.05 --seed 1 --workers 1 --json"
    found["pairs"] = work.does(command, "scan-pairs")
    pairs = layouts.corpus(300, 10)
    for name, of in (("clip-retrieval", pairs.keys), ("datacomp", pairs.uids)):
        keeps = mmpoison.keep_filter(work.folder / f"scan-{name}")
        samples = [{"__key__": one, "json": json.dumps({"uid": one})} for one in of]
        found[f"{name} kept"] = work.column([keeps(sample) for sample in samples])
    return found


# -- many runs -------------------------------------------------------------------------------------


@case(TRAINED_WITHIN)
def sweeps(work: Work) -> Any:
    """A sweep of four runs, and every report on it."""
    file = recipe(work, "grid", filter={"encoder": "openmoji-mini", "clean_loss": 0.1})
    grid = "--set attack.samples=1,3 --set training.max_steps=3 --seeds 0-1 --workers 1"
    without = "rank_lists|suspicious_pairs|logs|stages|recipe|runs.parquet"
    found = {
        "plan": work.said(f"run {file} {grid} --out sweep --dry-run")[:1],
        "runs": work.does(f"run {file} {grid}", "sweep", without),
    }
    for form in ("as markdown", "json"):
        found[form.split()[-1]] = work.said(f"report sweep --{form}")
    one, other = (f"sweep/runs/samples={n}-seed0 sweep/runs/samples={n}-seed1" for n in (1, 3))
    found["against"] = work.said(
        f"report {one} --against {other.split()[0]} --against {other.split()[1]} --json"
    )
    found["models"] = work.said("report sweep --models clean_model,poisoned --json")
    found["terminal"] = work.said("report sweep --all")
    work("report sweep --html sweep.html --parquet sweep.parquet")
    found["sweep.html"] = work.file(work.folder / "sweep.html")
    table = pq.read_table(work.folder / "sweep.parquet").drop_columns(["settings", "version"])
    rows = [row for row in table.to_pylist() if row["study"] != "run"]  # which have times
    measures = sorted({row["measure"] for row in rows})
    found["sweep.parquet"] = {
        one: work.table([row for row in rows if row["measure"] == one]) for one in measures
    }
    return found


@case(TRAINED_WITHIN)
def matrix(work: Work) -> Any:
    """Two attacks against four defences, on a goal and a seed; its page and report."""
    part = {
        "goals": 1,
        "seeds": [5],
        "rows": {
            "clean": {"attack": None},
            "II-own": {"attack": "single-target-label", "samples": 2, "carrier": "own"},
        },
        "columns": {
            "relevance-filter": {"method": "relevance-filter", "clean_loss": 0.1},
            "random-drop": {"method": "random-drop", "as_many_as": "relevance-filter"},
            "clean-finetune": {"method": "clean-finetune"},
            "rank-gain": {"method": "rank-gain"},
        },
    }
    file = recipe(
        work,
        "crossed",
        filter={"encoder": "openmoji-mini", "clean_loss": 0.1, "trusted": "none"},
        sterilize={"training": {**BRIEF, "max_steps": 2}},
        matrix=part,
    )
    found = {
        "plan": work.said(f"run {file} --out matrix --dry-run"),
        "run": work.does(f"run {file} --workers 1", "matrix", r"matrix\.(md|html)|runs[./]"),
    }
    for one in (work.folder / "matrix").rglob("runs/*/metrics.json"):
        metrics = json.loads(one.read_text("utf-8"))
        metrics["run"]["seconds"] = dict.fromkeys(metrics["run"]["seconds"], 1.0)
        one.write_text(json.dumps(metrics), encoding="utf-8")
    found["report"] = work.said("report matrix --json")
    return {**found, "pages": work.does("report matrix", "matrix-pages")}


@case(EXACT)
def paper(work: Work) -> Any:
    """Every table and figure of the paper, and the overview, with its own numbers and drawn ones."""
    layouts.write_paper_runs(work.folder / "paper-runs")
    work("report paper-runs --view all --no-links --out pages")
    return {"pages": work.record("pages", "html$|svg$")}


# -- pages, models, Python -------------------------------------------------------------------------


@case(EMBEDDED_WITHIN)
def pages(work: Work) -> Any:
    """The answers of the search page and of the review page."""

    def search(client: Any) -> Any:
        while (state := client.get("/api/state").json())["busy"] or any(
            one["state"] != "ready" for one in state["models"]
        ):
            time.sleep(0.05)
        of = {"data": state["data"][0]["key"], "part": "test"}
        asked: dict[str, dict[str, Any]] = {
            "search": {"q": "a sheep on a hill", "shown": 4, "target": "class:0"},
            "captions": {"image": 9, "shown": 4, "original": 2},
            "suggestions": {"label": 2},
            "pair": {"image": 3},
        }
        found = {"state": state, "page": work.lines(page_text(client.get("/").text))}
        for name, query in asked.items():
            answer = client.get(f"/api/{name}", params={**of, **query})
            while any(f'"{state}"' in answer.text for state in ("waiting", "working")):
                time.sleep(0.05)
                answer = client.get(f"/api/{name}", params={**of, **query})
            found[name] = [answer.status_code, answer.json()]
        return found

    def review(client: Any) -> Any:
        found = {
            "review": client.get("/api/review").json(),
            "page": work.lines(page_text(client.get("/").text)),
        }
        for number, verdict in enumerate(("drop", "keep", "unsure")):
            pair = client.get(f"/api/pairs/{number}").json()
            body = {"pair": pair["name"], "verdict": verdict, "was": ""}
            found[f"pair {number}"] = [
                pair,
                client.post(f"/api/pairs/{number}/verdict", json=body).json(),
            ]
        return found

    scanned = work.once(
        "scanned-squares", f"scan {work.poisoned_squares} {JUDGE} --no-planted --workers 1"
    )
    models = f"--model small=openmoji-small mini=openmoji-mini --data {work.poisoned_squares}"
    return {
        "search": work.serve(f"search {models} --port 0 --no-open", search),
        "review": work.serve(
            f"review {scanned} --labels labels.csv {JUDGE} --count 9 --port 0 --no-open", review
        ),
        "labels": work.file(work.folder / "labels.csv"),
    }


MODELS = ("openmoji-mini", "openmoji-small", "openmoji-vit", "efficientnet-minilm")
LISTED_MODELS = ("clip-vit-b16", "clip-vit-b32", "clip-vit-l14", "efficientnet-lite2-minilm")
"""Models of each architecture that need no download; and the others, which are listed alone."""


@case(EMBEDDED_WITHIN)
def models(work: Work) -> Any:
    """Embeddings of each model that needs no download, what is said of it, and its export."""
    import mmpoison

    captions = ["A sheep in a green meadow.", "two AEROPLANES, in the sky!", ""]
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    found: dict[str, Any] = {"list": work.said("models list --json")}

    def embedded(name: str) -> Any:
        encoder = mmpoison.load_encoder(name)
        size = encoder.image_size
        image = np.stack([np.asarray(Image.fromarray(one).resize((size, size))) for one in pixels])
        with torch.no_grad():
            texts = encoder.encode_text(encoder.tokens(captions))
            images = encoder.encode_image(encoder.image_input(image))
        both = [torch.nn.functional.normalize(each, dim=-1).numpy() for each in (texts, images)]
        return [moments(each.ravel()) for each in both]

    for name in MODELS:
        shown = work.said(f"models show {name} --json")
        if name == "efficientnet-minilm":
            # its projections are drawn by torch, whose last bits depend on the processor
            del shown["digest"]
        found[name] = [shown, embedded(name)]
    out = work.once("export-open-clip", "models export openmoji-vit --to open-clip")
    found["export open-clip"] = work.record(out)
    found["again"] = embedded(str(work.folder / "export-open-clip"))
    return found


@case(TRAINED_WITHIN)
def python(work: Work) -> Any:
    """The job in Python: what each function returns, and how it shows itself."""
    import mmpoison
    from mmpoison.defenses import filter_pairs

    with contextlib.chdir(work.folder):
        pairs = mmpoison.load(work.squares)
        poisoned = mmpoison.poison(pairs, "sheep2aeroplane", samples=3, seed=2)
        settings: dict[str, Any] = {
            "max_steps": 2,
            "batch_size": 32,
            "precision": "fp32",
            "progress": False,
        }
        trained = mmpoison.finetune(work.tiny, poisoned, **settings)
        found = {
            "pairs": [
                repr(pairs),
                pairs.counts(),
                pairs.fingerprint,
                repr(pairs[3]),
                pairs[3:9].fingerprint,
            ],
            "selected": repr(pairs.select(split="test", label="sheep")),
            "poisoned": [repr(poisoned), poisoned.poisoning_rate, poisoned.fingerprint],
            "trained": repr(trained),
            "filter": repr(
                filter_pairs(
                    poisoned, mmpoison.load_encoder("openmoji-mini"), clean_loss=0.1, force=True
                )
            ),
            "evaluate": repr(mmpoison.evaluate(trained.encoder, poisoned, reference=work.tiny)),
        }
        return work.tidy(found)


REFUSED = """
    poison --data squares --goal sheep2sheep --samples 2 --out x
    poison --data squares --goal sheep2cow --samples 2 --out x
    poison --data squares --goal sheep2sofa --samples 99 --out x
    poison --data squares --goal sheep2sofa --samples 2 --rate 0.1 --out x
    poison --data squares --goal sheep2sofa --attack orphna --samples 2 --out x
    scan squares --encoder openmoji-mini --method relevance-filter --out x
    scan squares --encoder openmoji-mini --lose 2 --out x
    train --data squares --model tiny --out x --set epoch=2
    train --data nowhere --model tiny --out x
    evaluate --data squares --model tiny
    run openmojo
    scan squares --out x --lose 0
    report squares
    data split squares --per-class 99
    models show openmoji-tiny
    sterilize --data squares --model tiny --out x --split nothing
    search --model tiny
"""
"""Commands that cannot be done."""


@case(EXACT)
def refusals(work: Work) -> Any:
    """The line that a command which cannot be done prints, and tables of defences."""
    assert work.squares
    assert work.tiny
    found = {
        command: work.lines(work(command, code=2))
        for command in map(str.strip, REFUSED.strip().splitlines())
    }
    return {
        **found,
        "defenses": work.said("defenses --json"),
        "one": work.said("defenses safeclip"),
    }
