"""Bad input: exit code 2, one line on standard error, nothing half-written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import png

Cli = Callable[..., Any]
Refused = Callable[..., str]

SHEEP = "sheep/03.png"
POISON = "poison squares --out out"
GOAL = "--goal sheep2aeroplane"
TRAIN = "train --data squares --model model --out out --set epochs=1"
STERILIZE = TRAIN.replace("train", "sterilize")
FILTER = "scan squares --encoder model --out out --method relevance-filter"
EVALUATE = "evaluate --data squares"
CHECK = "check model --data squares"
SEARCH = "search --models model --data squares"
WEIGHTS = "ViT-B-32-quickgelu@w.pt"
ONE_RUN = "openmoji is a single run in one process"
DECOYS = f"{POISON} {GOAL} --attack decoys --samples 1"
ONE_IMAGE = f"{POISON} {GOAL} --samples 2 --attack single-target-image"

# an option that is given twice counts as it was given last
CASES = {
    "poison": [
        ("poison squares --data squares --goal sheep2sofa --out new", "give --data"),
        (f"{POISON.replace('squares', 'nowhere')} {GOAL} --samples 2", "nowhere: no such folder"),
        (POISON, "no goal given: give one as A2B, e.g. sheep2aeroplane"),
        (f"{POISON} --goal sheep --samples 2", "goal 'sheep' is not of the form A2B"),
        (f"{POISON} {GOAL}", "exactly one of samples, pairs, rate and share"),
        (f"{ONE_IMAGE} --carrier own", "carrier 'own' has no effect"),
        (f"{POISON} {GOAL} --goal sofa2aeroplane --samples 3 --carrier own", "at most samples=2"),
        (
            f"{POISON} {GOAL} --samples 2 --target-image x",
            "target_image: attack 'single-target-label': unknown option 'target_image'",
        ),
        (
            f"{POISON} --goal sheep2sofa {GOAL} --attack single-target-label --samples 2",
            "attack 'single-target-label' takes one goal, got sheep2sofa, sheep2aeroplane",
        ),
        (f"{POISON} --goal sheep2sofa {GOAL} --samples 2", "the original class of several goals"),
        (f"{ONE_IMAGE} --target-image centre", "needs embeddings: name a model"),
        (f"{POISON} --from-manifest nowhere.json", "nowhere.json: no such file"),
        (
            f"{POISON} --from-manifest nowhere.json {GOAL}",
            "--goal and --from-manifest cannot be combined",
        ),
        (f"{POISON} {GOAL} --preset release", "unknown preset 'release'"),
        (f"{POISON} {GOAL} --preset reference-release --mode add", "sets mode=replace"),
        (f"{DECOYS} --set decoy=3", "decoy: attack 'decoys': unknown option 'decoy': did you"),
        (f"{DECOYS} --set goal=a2b", "--set goal: give --goal instead"),
        (f"{DECOYS} --set decoys", "write KEY=VALUE"),
        (f"{DECOYS} --mode replace", "mode: attack 'decoys': unknown option 'mode'"),
        (
            f"{POISON} {GOAL} --samples 1 --attack nearest-assigned",
            "attack 'nearest-assigned' needs embeddings",
        ),
        (f"{POISON} {GOAL} --samples 2 --out full", "full: is not empty"),
        (f"{POISON} {GOAL} --samples 2 --out full/thesis.txt", "is a file"),
        (f"{POISON} {GOAL} --samples 2 --mode swap", "'swap'"),
    ],
    "train": [
        (f"{TRAIN} --out full", "full: is not empty"),
        (f"{TRAIN} --set epochs=x", "training setting: epochs: "),
        (f"{TRAIN} --set epochs={{e", "the value is not valid YAML"),
        (f"{TRAIN} --set epochs=0", "epochs: 0 epochs train nothing: give 1 to 100,000\n"),
        (f"{TRAIN} --set seed=1", "training setting: unknown key 'seed'"),
        (f"{TRAIN} --model mod/el", "mod/el: no such checkpoint folder"),
        (f"{TRAIN} --model openmoji-smal", "did you mean 'openmoji-small'"),
    ],
    "sterilize": [
        (f"{STERILIZE} --out full", "full: is not empty"),
        (f"{STERILIZE} --max-utility-loss 2", "max_utility_loss 2.0 is not between 0 and 1"),
        (f"{STERILIZE} --held-out 1", "held-out share 1.0 is not between 0 and 1"),
        (f"{STERILIZE} --held-out 0 --canary-goal sheep2sofa", "goals need held-out pairs"),
        (f"{STERILIZE} --canary-goal sheep2soda", "unknown class 'soda'"),
        (f"{STERILIZE} --goal sheep", "goal 'sheep' is not of the form A2B"),
        (f"{STERILIZE} --held-out 0.01 --max-utility-loss 0.1", "gives 0, but 20"),
        (
            f"{STERILIZE} --set learning_rate=1e-3 --learning-rate 1e-3",
            "learning rate given twice, as learning_rate and in settings",
        ),
    ],
    "scan": [
        (f"{FILTER} --out full --threshold 1", "full: is not empty"),
        (
            f"{FILTER} --method suspicious-groups --threshold 1 --lose 0.1",
            "give exactly one of threshold (--threshold)",
        ),
        (
            f"{FILTER} --threshold 1 --false-alarms 0.1",
            "relevance-filter finds no groups, which false_alarms",
        ),
        (f"{FILTER} --threshold 3", "threshold 3.0 is not a cosine"),
        (
            f"{FILTER} --method suspicious-groups --false-alarms 2",
            "false_alarms 2.0: must be less than 1",
        ),
        (f"{FILTER} --threshold 0.01", "drops every pair"),
        (f"{FILTER} --labels no.csv", "no.csv: no such file; `mmpoison review`"),
        (f"{FILTER} --labels full/thesis.txt", "columns pair and verdict"),
        (f"{FILTER} --lose 0.1 --kept full", "full: is not empty"),
        (f"{FILTER} --method clean-finetune", "is of kind post-training"),
        (f"{FILTER} --lose 0.1 --set k=3", "unknown option 'k'"),
        (f"{FILTER} --lose 0.1 --set lose=0.1", "--set lose: give --lose instead"),
    ],
    "review": [
        ("review no-folder --labels x.csv", "no such file; `mmpoison scan DATA"),
        ("filter --data squares --out out", "it is part of `mmpoison scan` now"),
    ],
    "evaluate": [
        (f"{EVALUATE} {GOAL} --model model --out full", "full: is not empty"),
        (f"{EVALUATE} {GOAL} --model full", "so it is not a checkpoint"),
        (f"{EVALUATE} {GOAL} --model model --study collaterl", "did you mean 'collateral'"),
        (f"{EVALUATE} {GOAL} --model model --target-image sofa/00.png", "is not in the gallery"),
        (
            f"{EVALUATE} {GOAL} --model model --goal sofa2sheep --target-image sofa/09.png",
            "a target image needs one goal",
        ),
        (f"{EVALUATE} {GOAL} --model model --manifest no.json", "no.json: no such file"),
        (f"{EVALUATE} --suspect model", "use `mmpoison check`"),
        (f"{EVALUATE} --model model --trust", "a checkpoint's code is never run"),
    ],
    "check": [
        (CHECK, "needs --reference"),
        (f"{CHECK} --reference model --clean-runs 2", "--clean-runs needs --out DIR"),
        (
            f"{CHECK} --trace traced",
            "trace (--trace) needs reference (--reference): a model trained",
        ),
        (f"{CHECK} --reference model --trace full", "full: is not empty"),
        (f"{CHECK} --reference model --kept kept", "give trace (--trace) too"),
        (f"{CHECK} --reference model --set epochs=1", "says how many"),
        (f"{CHECK} --method clean-finetune", "expected kind check: decree, rank-gain"),
        (f"{CHECK} --reference model --false-alarms 2", "not between 0 and 1"),
        (f"{CHECK} --reference openmoji-mini", "have different architectures"),
    ],
    "run, sweep and demo": [
        ("demo --out full", "full: contains something other than a run"),
        ("demo --out full/thesis.txt", "is a file, not a run folder"),
        ("demo --set training.epochs", "write KEY=VALUE"),
        ("run nowhere.yaml", "nowhere.yaml: no such recipe file"),
        ("run openmoji --set training.epoch=2", "unknown key 'training.epoch': did you mean 'epo"),
        ("run openmoji --seeds a-b", "--seeds 'a-b': give numbers"),
        ("run openmoji --seeds 4-2", "--seeds '4-2' names no seed"),
        *(
            (f"run openmoji --seeds={seeds}", f"mmpoison: --seeds {seeds!r}")
            for seeds in ("0-99999999", "1-99999999999999999999999", "-3", "1e3", "0-")
        ),
        ("run flickr8k --out out", "needs the folder that holds it"),
        ("sweep openmoji --out out", "it is part of `mmpoison run` now"),
        ("run openmoji --out out --set training.epochs=1,many", "training.epochs: "),
        ("run openmoji --out out --goals ,", "--goals ',' names no goal"),
        ("run openmoji --workers 2 --out out", f"--workers, --ray: {ONE_RUN}"),
        ("run openmoji --seeds 3 --ray local --out out", f"--workers, --ray: {ONE_RUN}"),
        ("run openmoji --goal dog2cat", "use --goals A2B"),
        ("run matrix --attack single-target-label", "which sets its own attacks"),
        ("run openmoji --with rows=x", "--with: recipe openmoji is not an experiment"),
        ("run openmoji --goals 2", "--goals 2: give goals, e.g. --goals sheep2aeroplane"),
        ("run matrix --with row=x", "--with unknown option 'row': did you mean 'rows'?"),
        ("run matrix --with tuning=maybe", "--with tuning=maybe: give true or false"),
        ("run openmoji --nonsense", "No such option: --nonsense"),
        ("poisn", "No such command 'poisn'"),
    ],
    "report": [
        ("report nowhere full", "nowhere"),
        ("report full --format json", "use --as FORMAT or --json"),
        ("report full --against full --models a,b", "give only one"),
    ],
    "data": [
        ("data build openmoji --out full", "full: is not empty"),
        ("data build openmojis --out out", "unknown data set"),
        ("data build flickr8k --out out", "cannot be made here"),
        ("data list openmojis", "did you mean 'openmoji'"),
        ("data verify full", "full: its files match no known format"),
        ("data verify squares --clean no", "no: no such folder"),
        ("data verify squares --option seven", "--option 'seven': write KEY=VALUE"),
        ("data verify squares --option images=a --option images=b", "images is given twice"),
        ("data verify squares --option strict=perhaps", "strict=perhaps: must be a valid boolean"),
        ("data verify squares --data-root nowhere", "nowhere: no such image folder"),
        ("data verify squares --option colour=red", "has no option 'colour'"),
        ("data verify squares --format jsonn", "unknown data set 'jsonn'"),
        ("data verify flickr8k", "needs the folder that holds it"),
        ("data split squares --labels nothing.csv", "nothing.csv: no such file"),
        ("data split squares --keywords sheep", "keywords 'sheep': write label=word|word"),
        ("data split squares --out full", "full: is not empty"),
    ],
    "models and defenses": [
        # a name of the grammar gets as far as the weights, whatever the verb
        *(
            (f"{command} {WEIGHTS}", "w.pt: no such file of weights\n")
            for command in (
                f"{TRAIN} --model",
                f"{STERILIZE} --model",
                f"{EVALUATE} {GOAL} --model",
                f"{CHECK} --reference",
                f"{FILTER} --lose 0.1 --encoder",
            )
        ),
        ("models fetch hf-hub:", "needs a repository"),
        ("models export openmoji-mini --to onnx --out out", "format 'onnx' is not one of"),
        ("models export openmoji-mini --to transformers --out out", "its image encoder is a"),
        ("defenses local-densty", "did you mean 'local-density'"),
    ],
    "search": [
        ("search --data squares", "give --model and --data"),
        ("search --data squares --models ./none", "none: no such checkpoint"),
        ("search --models model --data ./none", "none: no such folder"),
        (f"{SEARCH} --manifest none.json", "none.json: no such file"),
        ("search --models model model --data squares", "two models have the name 'model'"),
        ("search --models a=x b=x c=x d=x e=x --data squares", "at most 4"),
        ("search --run full", "not a run folder"),
        ("search --demo --manifest m.json", "--manifest needs --data"),
        ("search --demo", "holds no demo run"),
    ],
    "cache": [
        ("cache clear", "say what to delete"),
        ("cache clear --older-than soon", "give an age"),
        ("cache clear --down-to many", "give a size"),
        ("cache clear --kind features", "--kind 'features': the cache holds nothing"),
    ],
}


@pytest.mark.parametrize(("command", "says"), [case for cases in CASES.values() for case in cases])
def test_refused(refused: Refused, command: str, says: str) -> None:
    assert says in refused(command)


# -- broken files ----------------------------------------------------------------------------------


def broken_line(work: Path) -> None:
    file = work / "squares" / "captions.jsonl"
    lines = file.read_text().splitlines()
    lines[6] = lines[6][:30]
    file.write_text("\n".join(lines) + "\n")


def unlabelled(work: Path) -> None:
    file = work / "squares" / "captions.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps({**line, "label": None}) + "\n" for line in lines))


def missing_image(work: Path) -> None:
    (work / "squares" / SHEEP).unlink()


def huge_image(work: Path) -> None:
    (work / "squares" / SHEEP).write_bytes(png(60_000, 60_000, bytes(1000)))


def cut_image(work: Path, image: str = SHEEP) -> None:
    path = work / "squares" / image
    path.write_bytes(path.read_bytes()[:300])


def cut_images(work: Path) -> None:
    for path in (work / "squares").rglob("*.png"):
        cut_image(work, str(path))


def cut_weights(work: Path) -> None:
    path = work / "model" / "open_clip_model.safetensors"
    path.write_bytes(path.read_bytes()[:3000])


def recipe(more: str) -> Callable[[Path], object]:
    return lambda work: (work / "recipe.yaml").write_text(RECIPE + more)


RECIPE = """
name: squares
data: {name: squares}
model: {name: model}
attack: {name: single-target-label, goal: sheep2aeroplane, samples: 2}
training: {epochs: 1}
"""


@pytest.mark.parametrize(
    ("command", "prepare", "says"),
    [
        (f"{POISON} {GOAL} --samples 2", unlabelled, "the data have no labels"),
        (TRAIN, broken_line, "captions.jsonl line 7"),
        (TRAIN, missing_image, "sheep/03.png: no such image"),
        (TRAIN, cut_image, "sheep/03.png: broken image"),
        (TRAIN, huge_image, "sheep/03.png: too many pixels"),
        (
            f"{FILTER} --threshold 1",
            cut_images,
            "no image of split 'train' can be read (28 of 28 images cannot be read, the first: ",
        ),
        (f"{EVALUATE} --model model {GOAL}", cut_weights, "broken weights"),
        ("run recipe.yaml", recipe("a: ["), "recipe.yaml: not valid YAML"),
        ("run recipe.yaml --out out", recipe("trainin: {}"), "unknown key 'trainin': did you mean"),
    ],
)
def test_refused_for_what_a_path_holds(
    refused: Refused, work: Path, command: str, prepare: Callable[[Path], object], says: str
) -> None:
    prepare(work)
    assert says in refused(command)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (f"{STERILIZE} --data poisoned --split train", "of the pairs given as clean are poisoned"),
        (f"{POISON.replace('squares', 'poisoned')} {GOAL} --samples 2", "are poisoned already"),
    ],
)
def test_a_poisoned_set_where_a_clean_one_is_needed(
    cli: Cli, work: Path, refused: Refused, command: str, says: str
) -> None:
    assert cli(*f"{POISON} --out poisoned {GOAL} --samples 2".split()).code == 0
    assert says in refused(command)


def test_a_diverged_loss_is_one_line_too(
    cli: Cli, work: Path, snapshot: Callable[[Path], dict[str, bytes]]
) -> None:
    before = snapshot(work)
    settings = ("learning_rate=1e30", "epochs=3", "precision=fp32", "batch_size=32")
    result = cli(*TRAIN.split(), *(word for value in settings for word in ("--set", value)))
    assert result.code == 1
    assert result.err.startswith("mmpoison: the loss is ")
    assert len(result.err.splitlines()) == 1
    # the log of what happened stays, beside the model that did not come about
    lines = (work / "out.training" / "steps.jsonl").read_text().splitlines()
    assert all(json.loads(line)["step"] for line in lines)
    shutil.rmtree(work / "out.training")
    assert snapshot(work) == before


def test_a_run_folder_stays_in_runs() -> None:
    """Names of a recipe, which may be anybody's, become part of a folder's name and never a way out of `runs`."""
    from mmpoison.api.running import run_folder
    from mmpoison.runs.recipe import load_recipe

    for name in ("../../escape", "/etc/x", "a/b", "..", "a\x00b", "a\nb"):
        folder = run_folder(load_recipe("openmoji", {"name": name}))
        assert folder.parent == Path("runs")
        assert folder.name.isprintable()
