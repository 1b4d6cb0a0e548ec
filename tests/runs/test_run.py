"""A whole run on coloured squares: its files, its contract, and going on after a kill."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests.conftest import few, squares_recipe

from mmpoison._version import __version__
from mmpoison.base.progress import SilentProgress
from mmpoison.datasets import PairDataset
from mmpoison.errors import InputError
from mmpoison.models import DualEncoder, load_checkpoint, save_checkpoint
from mmpoison.reporting.results import RunRead
from mmpoison.runs import run
from mmpoison.runs.recipe import Recipe, load_recipe, parse_recipe
from mmpoison.training import Step
from mmpoison.training.loop import OnStep

GOAL = "sheep2aeroplane"
MODELS = ["pretrained", "clean_model", "poisoned", "filtered", "sterilized"]
M_KEYS = [*(f"hit@{k}" for k in (1, 5, 10, 20, 30, 50))]
M_KEYS += ["min_rank", "queries", "gallery", "targets", "ties"]

BRIEF = {"epochs": 1, "batch_size": 32, "precision": "fp32", "max_steps": 2}

MakeRecipe = Callable[..., Recipe]


@pytest.fixture(scope="module")
def make_recipe(square_folder: Path, checkpoint: Path, judge_checkpoint: Path) -> MakeRecipe:
    """A function that makes the small recipe; keyword arguments replace whole groups."""

    def make(**groups: Any) -> Recipe:
        training = {
            "epochs": 2,
            "batch_size": 32,
            "learning_rate": 1e-3,
            "schedule": "step",
            "warmup_epochs": 0.5,
            "precision": "fp32",
        }
        own = {
            "seed": 3,
            "training": training,
            "filter": {"encoder": str(judge_checkpoint), "clean_loss": 0.1},
            "sterilize": {"training": {**training, "epochs": 1}, "pairs": 50},
        }
        value = squares_recipe(square_folder, checkpoint, **{**own, **groups})
        return parse_recipe({k: v for k, v in value.items() if v is not None}, "test")

    return make


class Watch(SilentProgress):
    """Remembers what was trained; raises at a step of a training if asked to."""

    def __init__(self, stop: str | None = None, error: BaseException | None = None) -> None:
        self.trained: list[str] = []
        self.said: list[str] = []
        self.stop = stop
        self.error = error or KeyboardInterrupt()

    def say(self, message: str) -> None:
        self.said.append(message)

    def training(self, what: str) -> OnStep:
        self.trained.append(what)

        def step(done: Step, _: DualEncoder) -> None:
            if what == self.stop and done.step == 3:
                raise self.error

        return step


def run_recipe(recipe: Recipe, out: Path, **options: Any) -> dict[str, Any]:
    """`run.run_recipe`; the metrics as plain JSON values."""
    return run.run_recipe(recipe, out, **options).to_json()


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: without_times(item)
            for key, item in value.items()
            if key not in ("seconds", "pairs_per_second")
        }
    return [without_times(item) for item in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def finished(make_recipe: MakeRecipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run; shared, so never write into it."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMPOISON_CACHE", str(folder / "cache"))
        run_recipe(make_recipe(), folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def metrics(finished: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((finished / "metrics.json").read_text())
    return value


# -- the contract ----------------------------------------------------------------------------------


def test_metrics_have_the_fixed_layout(metrics: dict[str, Any]) -> None:
    assert list(metrics) == ["goal", "ranks", "utility", "drift", "run"]
    assert list(metrics["goal"]) == list(metrics["ranks"]) == [GOAL]
    assert set(metrics["ranks"][GOAL]) == set(metrics["goal"][GOAL])
    assert set(metrics["goal"][GOAL]) == {*MODELS, "random_captions"}
    for row in metrics["goal"][GOAL].values():
        assert list(row) == M_KEYS
        assert (row["queries"], row["gallery"], row["targets"]) == (20, 16, 4)
        assert all(0 <= row[key] <= 1 for key in M_KEYS[:6])
        assert 0 <= row["min_rank"] <= 12
        assert row["hit@50"] == 1
    assert set(metrics["utility"]) == set(MODELS)
    for row in metrics["utility"].values():
        assert set(row) == {"image_retrieval", "text_retrieval"}
        for part in row.values():
            assert list(part) == ["hit@1", "hit@5", "hit@10"]
    assert set(metrics["drift"]) == {"text", "image"}
    assert all(0 < value < 2 for value in metrics["drift"].values())


def test_the_run_is_described(metrics: dict[str, Any], squares: PairDataset) -> None:
    facts = metrics["run"]
    assert facts["recipe"] == "squares"
    assert facts["seed"] == 3
    assert facts["tool_version"] == __version__
    assert facts["goals"] == [GOAL]
    assert (facts["attack"], facts["mode"]) == ("single-target-label", "add")
    assert (facts["poisoned_pairs"], facts["training_pairs"]) == (10, 150)
    assert facts["poisoning_rate"] == pytest.approx(10 / 150)
    assert facts["data"]["fingerprint"] == squares.fingerprint
    counts = squares.counts()
    assert (facts["data"]["pairs"], facts["data"]["images"]) == (counts["pairs"], counts["images"])
    assert facts["data"]["labelled_images"] <= facts["data"]["images"]
    assert facts["model"]["flops_g"] >= 0
    assert facts["model"]["parameters_m"] > 0
    assert set(facts["training"]) == {"clean_model", "poisoned", "filtered", "sterilized"}
    assert facts["training"]["poisoned"]["steps"] == 10
    assert facts["filter"]["pairs"] == 150
    assert facts["filter"]["poisoned_total"] == 10
    assert facts["sterilize"] == {"pairs": 50, "steps": 2, "learning_rate": 1e-3}
    assert facts["flags"] == []
    assert set(facts["versions"]) >= {"torch", "python", "open_clip_torch"}
    assert set(facts["seconds"]) >= {"data", "train_poisoned", "evaluate"}


def test_the_folder_holds_everything(finished: Path, squares: PairDataset) -> None:
    assert {path.name for path in finished.iterdir()} == {
        "recipe.yaml",
        "manifest.json",
        "models",
        "logs",
        "metrics.json",
        "rank_lists.json",
        "stages.json",
        "suspicious_pairs.json",
    }
    assert {path.name for path in (finished / "models").iterdir()} == set(MODELS[1:])
    manifest = json.loads((finished / "manifest.json").read_text())
    assert len(manifest["pairs"]) == 10
    assert manifest["clean_fingerprint"] == squares.fingerprint
    lists = json.loads((finished / "rank_lists.json").read_text())
    assert len(lists["queries"]) == 4
    for query in lists["queries"]:
        assert list(query["models"]) == MODELS[1:]
    suspicious = json.loads((finished / "suspicious_pairs.json").read_text())
    distances = [entry["distance"] for entry in suspicious]
    assert len(distances) == 12
    assert distances == sorted(distances, reverse=True)
    assert all(entry["thumbnail"].startswith("data:image/jpeg;base64,") for entry in suspicious)


def test_cards_say_what_is_poisoned(finished: Path) -> None:
    for name in MODELS[1:]:
        encoder = load_checkpoint(finished / "models" / name)
        assert encoder.config["mmpoison"]["poisoned"] == (name != "clean_model")
        assert encoder.config["mmpoison"]["seed"] == 3
        card = (finished / "models" / name / "README.md").read_text()
        assert ("POISONED ON PURPOSE" in card) == (name == "poisoned")
        assert (GOAL in card) == (name != "clean_model")
        head = yaml.safe_load(card.split("---\n")[1])
        assert ("poisoned" in head["tags"]) == (name != "clean_model")
        assert head["library_name"] == "open_clip"


ONE_IMAGE = {"name": "single-target-image", "goal": GOAL, "samples": 2}
TWO_GOALS = {
    "name": "multiple-target-labels",
    "goal": [GOAL, "sofa2bird"],
    "pairs": 4,
    "carrier": "own",
}


@pytest.mark.parametrize(
    "attack",
    [{**ONE_IMAGE, "target_image": "random"}, {**ONE_IMAGE, "target_image": "centre"}, TWO_GOALS],
)
def test_one_target_image_and_several_goals(
    make_recipe: MakeRecipe, tmp_path: Path, fresh_cache: Path, attack: dict[str, Any]
) -> None:
    """Attack I is measured by its one image, attack III by each of its goals."""
    many = attack is TWO_GOALS
    goals = TWO_GOALS["goal"] if many else [GOAL]
    out = tmp_path / "run"
    recipe = make_recipe(
        attack=attack, training=BRIEF, filter=None, sterilize=None, study=["collateral"]
    )
    metrics = run_recipe(recipe, out, save_models=False)
    assert load_recipe(out / "recipe.yaml") == recipe
    facts, manifest = metrics["run"], json.loads((out / "manifest.json").read_text())
    assert list(metrics["goal"]) == list(metrics["study"]["collateral"]) == facts["goals"] == goals
    for rows in metrics["goal"].values():
        assert set(rows) == {*MODELS[:3], "random_captions"}
        assert {row["targets"] for row in rows.values()} == {4 if many else 1}
    assert facts["attack_options"] == manifest["options"]
    lists = json.loads((out / "rank_lists.json").read_text())
    assert lists["goals"] == goals
    if many:
        assert facts["poisoned_pairs"] == 8
        # one image of each target class lost its five honest captions
        assert facts["attack_options"]["carrier"] == "own"
        assert facts["training_pairs"] == 140 + 8 - 10
        assert "target_images" not in facts
        return
    assert facts["training_pairs"] == 150
    assert facts["target_images"] == manifest["target_images"]
    shown = [
        entry for query in lists["queries"] for row in query["models"].values() for entry in row
    ]
    assert {entry["image"] for entry in shown if entry["target"]} <= set(
        facts["target_images"].values()
    )


# -- again -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_another_folder_gives_the_same_numbers(
    make_recipe: MakeRecipe, metrics: dict[str, Any], tmp_path: Path, fresh_cache: Path
) -> None:
    watch = Watch()
    again = run_recipe(make_recipe(), tmp_path / "run", progress=watch)
    assert watch.trained == [
        "training poisoned",
        "training clean model",
        "training filtered",
        "sterilizing",
    ]
    assert without_times(again) == without_times(metrics)


@pytest.mark.parametrize(
    ("stop", "keep_cache"),
    few(
        [("training clean model", False), ("training filtered", True)],
        ("training filtered", True),
    ),
)
def test_a_killed_run_goes_on(
    make_recipe: MakeRecipe,
    metrics: dict[str, Any],
    tmp_path: Path,
    fresh_cache: Path,
    stop: str,
    keep_cache: bool,
) -> None:
    recipe, out = make_recipe(), tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe, out, progress=Watch(stop))
    assert not (out / "metrics.json").exists()
    # as if killed while it wrote
    (out / "models" / ".poisoned.mmpoison-xyzxyzxy").mkdir()
    (out / "models" / ".poisoned.mmpoison-xyzxyzxy" / "open_clip_model.safetensors").write_bytes(
        b"half"
    )
    (out / ".metrics.json.mmpoison-abcdefgh").write_text("{")
    if not keep_cache:
        shutil.rmtree(fresh_cache)
    watch = Watch()
    again = run_recipe(recipe, out, progress=watch)
    assert watch.trained[0] == stop
    assert "training poisoned" not in watch.trained
    assert not list(out.rglob(".*"))
    assert without_times(again) == without_times(metrics)


def test_a_finished_run_is_only_read(
    make_recipe: MakeRecipe, finished: Path, metrics: dict[str, Any], tmp_path: Path
) -> None:
    out = Path(shutil.copytree(finished, tmp_path / "run"))
    # a user may keep his runs under version control
    (out / ".git").mkdir()
    (out / ".git" / "config").write_text("mine")
    watch = Watch()
    again = run_recipe(make_recipe(), out, progress=watch)
    assert watch.trained == []
    assert watch.said == [
        f"{out}: is complete, with the same recipe, data, models and code; nothing to compute"
    ]
    assert again == metrics
    # measured anew, and nothing trained, where another code or device measured it, or a file is gone
    stages = json.loads((out / "stages.json").read_text())
    stages["metrics"]["key"] = "another"
    (out / "stages.json").write_text(json.dumps(stages))
    run_recipe(make_recipe(), out, progress=watch)
    (out / "suspicious_pairs.json").unlink()
    again = run_recipe(make_recipe(), out, progress=watch)
    assert (out / "suspicious_pairs.json").is_file()
    assert watch.trained == []
    assert not any("nothing to compute" in line for line in watch.said[1:])
    assert without_times(again) == without_times(metrics)
    assert (out / ".git" / "config").read_text() == "mine"


@pytest.mark.slow
def test_a_changed_key_makes_only_what_depends_on_it(
    make_recipe: MakeRecipe, tmp_path: Path, fresh_cache: Path
) -> None:
    """Everything is in the store after the first run; each change then costs its own stages and no more."""

    def made(number: int, **groups: Any) -> list[str]:
        out = tmp_path / str(number)
        run_recipe(make_recipe(**groups), out, save_models=False)
        stages = json.loads((out / "stages.json").read_text())
        return [name for name, stage in stages.items() if stage["from"] == "made"]

    recipe = make_recipe()
    assert recipe.filter is not None
    assert recipe.sterilize is not None
    judge = {"encoder": recipe.filter.encoder}
    everything = ["poisoned", "clean_model", "filter", "filtered", "sterilized"]
    assert made(0) == everything
    assert made(1) == []
    assert made(2, filter={**judge, "clean_loss": 0.2}) == ["filter", "filtered"]
    repair = recipe.sterilize.model_dump()
    assert made(3, sterilize={**repair, "pairs": 40}) == ["sterilized"]
    attack = {"name": "single-target-label", "goal": GOAL, "samples": 3}
    assert made(4, attack=attack) == ["poisoned", *everything[2:]]
    longer = {**recipe.training.model_dump(), "epochs": 3}
    assert made(5, training=longer, filter=None, sterilize=None) == ["poisoned", "clean_model"]
    assert made(7, seed=4, filter=None, sterilize=None) == ["poisoned", "clean_model"]
    # another name changes nothing that is computed, and the models are called by it
    assert made(6, name="others") == []


# -- folders that are refused ----------------------------------------------------------------------


def test_a_run_of_another_recipe(
    make_recipe: MakeRecipe, finished: Path, snapshot: Callable[[Path], dict[str, bytes]]
) -> None:
    before = snapshot(finished)
    with pytest.raises(InputError, match="holds a run of another recipe: choose another --out"):
        run_recipe(make_recipe(seed=4), finished)
    assert snapshot(finished) == before


# -- what is refused before anything is trained ----------------------------------------------------

ATTACK = {"name": "single-target-label", "goal": GOAL, "samples": 2}


def refused_early(recipe: Recipe, out: Path) -> str:
    watch = Watch()
    with pytest.raises(InputError) as error:
        run_recipe(recipe, out, progress=watch)
    assert watch.trained == []
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


@pytest.mark.parametrize(
    ("groups", "says"),
    [
        ({"attack": {**ATTACK, "goal": "shep2aeroplane"}}, "unknown class 'shep': did you mean"),
        ({"filter": {"encoder": "openmoji-smal", "clean_loss": 0.1}}, "unknown model"),
        ({"robust_training": {"method": "rank-gain"}}, "expected kind in-training: roclip"),
        ({"sterilize": {"method": "clean-finetun"}}, "did you mean 'clean-finetune'"),
        ({"check": {"share": 1}}, "recipe key check.share: defence 'rank-gain': unknown option"),
    ],
)
def test_refused_before_training(
    make_recipe: MakeRecipe, tmp_path: Path, fresh_cache: Path, groups: Any, says: str
) -> None:
    out = tmp_path / "run"
    assert says in refused_early(make_recipe(**groups), out)
    # nothing is left behind: the mended recipe may use the same folder
    assert not out.exists()


@pytest.mark.parametrize("need", ["filter.clean_loss", "sterilize", "model.align", "filter.align"])
def test_no_clean_split(
    make_recipe: MakeRecipe,
    squares: PairDataset,
    own_square_folder: Path,
    checkpoint: Path,
    tmp_path: Path,
    need: str,
) -> None:
    lines = [line for line in squares.lines() if line["split"] != "val"]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (own_square_folder / "captions.jsonl").write_text(text)
    groups: dict[str, Any] = {"data": {"name": str(own_square_folder)}}
    if need != "filter.clean_loss":
        groups["filter"] = None
    if need != "sterilize":
        groups["sterilize"] = None
    if need == "model.align":
        groups["model"] = {"name": str(checkpoint), "align": {"epochs": 1}}
    if need == "filter.align":
        groups["filter"] = {"encoder": str(checkpoint), "align": {"epochs": 1}}
    message = refused_early(make_recipe(**groups), tmp_path / "run")
    assert message == f"recipe key {need} needs clean pairs, and the data have none (split 'val')"


# -- towers ----------------------------------------------------------------------------------------


@pytest.fixture
def heads_start(make_heads_encoder: Callable[..., DualEncoder], tmp_path: Path) -> str:
    return str(save_checkpoint(make_heads_encoder(), tmp_path / "heads", card=""))


@pytest.mark.parametrize("trainable", few(["heads", "image-head", "text-head"], "text-head"))
def test_heads_are_aligned_and_trained_on_features(
    make_recipe: MakeRecipe, heads_start: str, tmp_path: Path, fresh_cache: Path, trainable: str
) -> None:
    heads = {"epochs": 2, "batch_size": 32, "learning_rate": 1e-3, "trainable": "heads"}
    watch = Watch()
    metrics = run_recipe(
        make_recipe(
            model={"name": heads_start, "align": heads},
            training={**heads, "trainable": trainable},
            filter={"encoder": "pretrained", "clean_loss": 0.1},
            sterilize={"training": heads},
        ),
        tmp_path / "run",
        progress=watch,
    )
    assert watch.trained[0] == "aligning the towers"
    assert set(metrics["goal"][GOAL]) == {*MODELS, "random_captions"}
    assert len(list((fresh_cache / "features").iterdir())) == 2  # of images and of captions
    trunks = [
        load_checkpoint(tmp_path / "run" / "models" / name).module.visual.trunk.state_dict()  # type: ignore[union-attr]
        for name in MODELS
    ]
    for trunk in trunks[1:]:
        assert all(torch.equal(value, trunks[0][name]) for name, value in trunk.items())


@pytest.mark.parametrize("trainable", few(["heads", "both"], "heads"))
def test_a_judge_is_aligned_on_pairs_that_the_model_has_not_seen(
    make_recipe: MakeRecipe,
    heads_start: str,
    squares: PairDataset,
    tmp_path: Path,
    fresh_cache: Path,
    trainable: str,
) -> None:
    """Its towers are another model's; the second run takes verdicts and judge from the cache."""
    align = {"epochs": 1, "batch_size": 8, "precision": "fp32", "trainable": trainable}
    judge = {"encoder": heads_start, "align": align, "clean_loss": 0.1, "force": True}
    recipe = make_recipe(
        model={"name": heads_start, "align": {**align, "trainable": "heads"}},
        training=BRIEF,
        filter=judge,
        sterilize=None,
    )
    watch, again = Watch(), Watch()
    first = run_recipe(recipe, tmp_path / "run", progress=watch)
    assert watch.trained.count("aligning the towers of the judge") == 1
    judged, model = (
        load_checkpoint(tmp_path / "run" / "models" / name) for name in ("judge", "pretrained")
    )
    assert judged.digest() != model.digest()
    steps = [part.record.training.steps for part in (judged, model) if part.record.training]
    pairs = len(squares.select(split="val"))
    assert steps == [math.ceil(pairs / 2 / 8)] * 2
    second = run_recipe(recipe, tmp_path / "again", progress=again)
    assert again.trained == []
    assert second["goal"] == first["goal"]
    assert "judge" not in first["goal"][GOAL]


def test_a_judge_that_is_aligned_already_is_not_aligned_again(make_recipe: MakeRecipe) -> None:
    judge = {"encoder": "pretrained", "align": {"epochs": 1}}
    with pytest.raises(InputError, match=r"is aligned by model\.align; name another, or omit it"):
        make_recipe(filter=judge)


def test_frozen_trunks_and_whole_encoders_do_not_mix(
    make_recipe: MakeRecipe, heads_start: str, tmp_path: Path, fresh_cache: Path
) -> None:
    """On features only heads can train, so `both` there would silently be something else."""
    heads = {"epochs": 1, "batch_size": 32, "learning_rate": 1e-3, "trainable": "heads"}
    out = tmp_path / "run"
    recipe = make_recipe(
        model={"name": heads_start},
        training=heads,
        filter=None,
        sterilize={"training": {**heads, "trainable": "both"}},
    )
    message = refused_early(recipe, out)
    assert message.startswith("recipe key sterilize.training.trainable is 'both', but with")


def test_a_filter_that_drops_much_of_the_data_is_flagged(
    make_recipe: MakeRecipe, judge_checkpoint: Path, tmp_path: Path
) -> None:
    part = {"encoder": str(judge_checkpoint), "clean_loss": 0.4, "trusted": "none"}
    metrics = run_recipe(
        make_recipe(filter=part, sterilize=None), tmp_path / "run", save_models=False
    )
    assert metrics["run"]["filter"]["dropped_pairs"] == 60  # 40 % of 150
    assert any("the filter dropped 40% of the training pairs" in f for f in metrics["run"]["flags"])


def test_a_run_that_trained_nothing_is_flagged(
    make_recipe: MakeRecipe, tmp_path: Path, fresh_cache: Path
) -> None:
    recipe = make_recipe(filter=None, sterilize=None, training={"epochs": 0})
    metrics = run_recipe(recipe, tmp_path / "run", save_models=False)
    (flag,) = metrics["run"]["flags"]
    assert flag.startswith("nothing was trained (training.epochs is 0)")


# -- studies and other data ------------------------------------------------------------------------


def test_studies_and_transfer(
    make_recipe: MakeRecipe, square_folder: Path, tmp_path: Path, fresh_cache: Path
) -> None:
    recipe = make_recipe(
        filter=None,
        sterilize=None,
        study=["all"],
        transfer=[{"data": {"name": str(square_folder)}, "goal": "sheep2sofa"}],
    )
    metrics = run_recipe(recipe, tmp_path / "run", save_models=False)
    three = {"pretrained", "clean_model", "poisoned"}
    study = metrics["study"]
    assert set(study) == {"queries", "query_length", "collateral", "distribution"}
    assert set(study["queries"][GOAL]) == set(study["query_length"][GOAL]) == three
    assert study["queries"][GOAL]["poisoned"]["misused"]["queries"] == 10
    assert set(study["collateral"][GOAL]) == {"aeroplane", "bird", "sheep", "sofa"}
    there = metrics["transfer"][str(square_folder)]
    # the same pictures under another goal
    assert set(there["goal"]) == {"sheep2sofa"}
    assert set(there["goal"]["sheep2sofa"]) == three | {"random_captions"}
    assert there["utility"] == metrics["utility"]
    assert there["drift"] == pytest.approx(metrics["drift"])
    shown = json.loads((tmp_path / "run" / "embedding_map.json").read_text())
    assert set(shown["models"]) == three
    assert metrics["run"]["attack_options"]["goal"] == GOAL
    assert metrics["run"]["trainable"] == "both"


def test_a_transfer_goal_that_the_other_data_lack_is_refused_before_training(
    make_recipe: MakeRecipe, square_folder: Path, tmp_path: Path
) -> None:
    watch = Watch()
    recipe = make_recipe(transfer={"data": {"name": str(square_folder)}, "goal": "sheep2boat"})
    with pytest.raises(InputError, match="unknown class 'boat'"):
        run_recipe(recipe, tmp_path / "run", progress=watch)
    assert watch.trained == []
    assert not (tmp_path / "run").exists()


def test_what_drifts_without_poison(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    plain = run_recipe(make_recipe(filter=None, sterilize=None), tmp_path / "plain")
    recipe = make_recipe(filter=None, sterilize=None, study=["order-drift"])
    metrics = run_recipe(recipe, tmp_path / "run")
    order = metrics["study"]["order_drift"]
    assert set(order) == {"text", "image"}
    assert min(order.values()) > 0
    # nothing else changes, and the second clean model is no row
    for section in ("goal", "utility", "drift"):
        assert metrics[section] == plain[section]
    assert "study" not in plain or "order_drift" not in plain["study"]
    rows = [row for row in RunRead.of_folder(tmp_path / "run").rows if row["model"] == "poisoned"]
    assert {row["order_drift.text"] for row in rows} == {order["text"]}
    # the model itself, measured again by hand
    models = {
        name: load_checkpoint(tmp_path / "run/models" / name)
        for name in ("clean_model", "clean_model_reordered")
    }
    states = [model.module.state_dict() for model in models.values()]
    assert any(not torch.equal(states[0][key], states[1][key]) for key in states[0])
    # it has seen no poison
    assert not any(model.record.poisoned for model in models.values())
    (tmp_path / "run/metrics.json").unlink()
    assert run_recipe(recipe, tmp_path / "run")["study"] == metrics["study"]


@pytest.mark.slow
def test_epochs_and_the_curve_of_the_repair(
    make_recipe: MakeRecipe, tmp_path: Path, fresh_cache: Path
) -> None:
    training = {"epochs": 2, "batch_size": 32, "learning_rate": 1e-3}
    recipe = make_recipe(
        filter=None,
        study=["epochs"],
        training=training,
        sterilize={"training": {**training, "epochs": 2}, "curve": True, "every": 1},
    )
    metrics = run_recipe(recipe, tmp_path / "run")
    epochs = metrics["study"]["epochs"]["sheep2aeroplane"]
    assert set(epochs) == {"clean_model", "poisoned"}
    assert set(epochs["poisoned"]) == {"0", "1", "2"}
    # before the first step stands the start, after the last the model of the table
    rows = metrics["goal"]["sheep2aeroplane"]
    assert epochs["poisoned"]["0"] == epochs["clean_model"]["0"] == rows["pretrained"]
    assert epochs["poisoned"]["2"] == rows["poisoned"]
    assert epochs["clean_model"]["2"] == rows["clean_model"]
    curve = json.loads((tmp_path / "run" / "sterilize-curve.json").read_text())
    probes = curve["branches"][0]["looks"]
    assert probes[0]["test"]["goal"]["sheep2aeroplane"] == rows["poisoned"]
    assert probes[-1]["test"]["goal"]["sheep2aeroplane"] == rows["sterilized"]
    assert probes[-1]["utility"] == metrics["utility"]["sterilized"]
    steps = [probe["step"] for probe in probes]
    assert steps == [0, 1, 2, 3, 4]
    # a training that nobody looked at gives the same model
    plain = run_recipe(
        make_recipe(
            filter=None, training=training, sterilize={"training": {**training, "epochs": 2}}
        ),
        tmp_path / "plain",
    )
    assert plain["goal"] == metrics["goal"]
    assert plain["utility"] == metrics["utility"]
    # and a run that goes on has the same curve
    (tmp_path / "run" / "metrics.json").unlink()
    (tmp_path / "run" / "sterilize-curve.json").unlink()
    assert run_recipe(recipe, tmp_path / "run")["study"] == metrics["study"]
    assert json.loads((tmp_path / "run" / "sterilize-curve.json").read_text()) == curve
