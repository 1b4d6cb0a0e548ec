"""Recipes: YAML files that determine everything about a run."""

from __future__ import annotations

import copy
import difflib
import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from mmpoison.attacks.settings import find_preset
from mmpoison.base.registry import unknown_name
from mmpoison.base.untrusted import MAX_INTEGER
from mmpoison.errors import InputError
from mmpoison.evaluation.names import parse_studies
from mmpoison.runs.recipe_files import read_recipe
from mmpoison.training.settings import TrainingSettings

# -- Applies a recipe's `preset`: a publication's settings for the attack and the training.


def apply_preset(value: dict[str, Any], changed: Collection[str], where: str) -> None:
    """Write the settings of a recipe's preset into the recipe, in place.

    A preset among the changes overrides the file's own settings; a preset in the file must agree
    with them. A changed key with another value is refused, so that every run with the preset's name
    has the preset's settings.

    Args:
        value: The recipe as a mapping.
        changed: Dotted keys changed by the sweep or the command line.
        where: Name of the recipe in messages.

    Raises:
        InputError: If there is no such preset, or the recipe contradicts it.
    """
    name = value.get("preset")
    if name is None:
        return
    preset = find_preset(name)
    attack, training = value.get("attack"), value.get("training")
    if not isinstance(attack, dict) or not isinstance(training, dict):
        return  # validation reports what is missing
    over = "preset" in changed
    if over:
        for option in preset.fixed:
            if f"attack.{option}" not in changed:
                attack.pop(option, None)
    if attack.setdefault("preset", name) != name:
        raise InputError(
            f"{where}: preset is {name!r} and attack.preset {attack['preset']!r}: remove one"
        )
    for key, stands_for in preset.training.items():
        if key not in training or (over and f"training.{key}" not in changed):
            training[key] = stands_for
        elif training[key] != stands_for:
            raise InputError(
                f"{where}: preset {name!r} means training.{key}={stands_for}, but the recipe says {training[key]!r}: "
                "remove one of the two, or set attack.preset alone"
            )
    for ours, theirs in preset.trainable.items():
        if training.get("trainable") == ours:
            training["trainable"] = theirs


# -- Decides which value of a key applies if the file and the command line give several.


def override(
    value: dict[str, Any], of_file: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Change dotted keys of a recipe in place; the command line takes precedence over the file.

    A group that a variant removes (`no-filter: {filter: null}`) stays removed, even if the command
    line sets one of its keys.

    Args:
        value: The recipe as nested mappings.
        of_file: Changes by a variant and a grid point of the file, in this order.
        given: Changes by the command line, in order.

    Returns:
        The changes that were made: dotted keys to values.

    Raises:
        InputError: If a parent of a key is not a mapping.

    >>> override({"data": {"name": "a"}}, {"data": {"name": "b", "root": "here"}}, {"data.root": "there"})
    {'data': {'name': 'b', 'root': 'here'}, 'data.root': 'there'}
    """
    left_out = {key for key, new in of_file.items() if new is None and key not in given}
    top = {key: new for key, new in given.items() if not within(key, left_out)}
    changes = {**{key: new for key, new in of_file.items() if key not in top}, **top}
    _leave_options_of_another_filter(value.get(FILTER), changes)
    for key, new in changes.items():
        set_key(value, key, copy.deepcopy(new))  # the runs of a variant share this value
    return changes


FILTER, USUAL_METHOD = "filter", "relevance-filter"
OF_EVERY_FILTER = ("method", "encoder", "trusted", "force", "equal_steps")
"""Keys of a filter that do not depend on its method."""
CUTS = ("threshold", "clean_loss", "labels")
"""Keys that define a filter's cut. Only `labels` and `clean_loss` may be combined."""


def _leave_options_of_another_filter(part: Any, changes: Mapping[str, Any]) -> None:
    """Remove filter options that no longer apply after the changes, in place.

    A new method drops the options and the cut of the old one. A new cut replaces the old one,
    because a filter with two cuts would be refused.
    """
    if not isinstance(part, dict):
        return
    method = changes.get(f"{FILTER}.method", part.get("method", USUAL_METHOD))
    if method != part.get("method", USUAL_METHOD):
        for key in set(part) - set(OF_EVERY_FILTER):
            del part[key]
        return
    given = [key for key in CUTS if changes.get(f"{FILTER}.{key}") not in (None, False)]
    if given:
        stays = {"clean_loss"} if "labels" in given else set()
        for key in set(CUTS) - stays:
            part.pop(key, None)


def within(key: str, groups: Collection[str]) -> bool:
    """Return whether a dotted key is inside one of the groups; a group is not inside itself.

    >>> within("data.root", {"data"}), within("data", {"data"}), within("database.a", {"data"})
    (True, False, False)
    """
    return any(key.startswith(f"{group}.") for group in groups)


def set_key(value: dict[str, Any], key: str, new: Any) -> None:
    """Set a dotted key in nested mappings, in place.

    Raises:
        InputError: If a parent of the key is not a mapping.
    """
    parts = key.split(".")
    for part in parts[:-1]:
        child = value.get(part)
        if child is None:
            child = value[part] = {}
        if not isinstance(child, dict):
            raise InputError(f"--set {key}: {part!r} is not a group of keys")
        value = child
    value[parts[-1]] = new


M = TypeVar("M", bound=BaseModel)

CLEAN_FINETUNE = "clean-finetune"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataPart(_Part):
    """The data of a run.

    Attributes:
        name: A registered data set, or the path of a pairs folder.
        root: The user's folder, for data that mmpoison does not generate.
        options: Options of the data set.
    """

    name: str
    root: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)


class ModelPart(_Part):
    """The model that is fine-tuned.

    Attributes:
        name: A registered model, `ARCHITECTURE:TAG`, `ARCHITECTURE@FILE`, `hf-hub:owner/name`, a
            folder or a file.
        align: Training settings to first align two separately trained towers, on the clean split
            `val`.
    """

    name: str
    align: TrainingSettings | None = None


class AttackPart(BaseModel):
    """An attack, with its options next to its name.

    Attributes:
        name: A registered attack.
        goal: `A2B`, or a list for an attack with several goals; an empty list for one without.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str
    goal: str | list[str]

    @field_validator("goal", mode="before")
    @classmethod
    def _goal_or_goals(cls, value: Any) -> Any:
        goals = value if isinstance(value, list) else [value]
        if not all(isinstance(goal, str) for goal in goals):
            raise ValueError("give A2B, e.g. sheep2aeroplane, or a list of goals")
        return value

    @property
    def goals(self) -> list[str]:
        """The goals as a list."""
        return [self.goal] if isinstance(self.goal, str) else self.goal

    @property
    def options(self) -> dict[str, Any]:
        """All options of the attack except its goals."""
        return dict(self.model_extra or {})


class FilterPart(BaseModel):
    """A pre-training defence, with its options and its cut next to its name.

    The cut is one of `threshold`, `clean_loss` and `labels` (a CSV), or `false_alarms` for a method
    that finds groups (`mmpoison.defenses.catalogue.Cut`). Without a cut, the method's default applies.

    Attributes:
        method: A registered pre-training defence, for example `relevance-filter`.
        encoder: The judge: a model in any form that `model.name` takes, or `pretrained` for the
            model that the run starts from.
        align: Training settings to align a judge with two separately trained towers, as in
            `model.align`. If both are given, the clean images are split at random: one half aligns
            the model, the other half the judge.
        trusted: Known clean pairs for a defence that can use them (`clean_loss`): the clean split
            `val`, or `none` if `val` has another distribution or the judge was trained on it.
        force: Use a judge even if it cannot distinguish true from shuffled pairs of the data.
        equal_steps: Replace each dropped pair with a random kept pair, so that the filtered model
            is trained for the same number of steps as the others.
        as_many_as: Another filter with the same judge, as a control: drop the same number of pairs
            as it does, by `clean_loss`.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    method: str = "relevance-filter"
    encoder: str
    align: TrainingSettings | None = None
    trusted: Literal["val", "none"] = "val"
    force: bool = False
    equal_steps: bool = False
    as_many_as: FilterPart | None = None

    @model_validator(mode="after")
    def _aligned_once(self) -> FilterPart:
        if self.align is not None and self.encoder == "pretrained":
            raise ValueError(
                "align: encoder 'pretrained' is aligned by model.align; name another, or omit it"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_not_set(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # leave out keys newer than 0.1.0 if they are not set, so that old recipes keep their text
        value: dict[str, Any] = handler(self)
        if self.align is None:
            value.pop("align", None)
        if not self.equal_steps:
            value.pop("equal_steps", None)
        if self.as_many_as is None:
            value.pop("as_many_as", None)
        return value

    @property
    def options(self) -> dict[str, Any]:
        """The options of the defence."""
        return {k: v for k, v in (self.model_extra or {}).items() if v is not None}

    @property
    def labels_digest(self) -> str | None:
        """SHA-256 of the file of labels; None without one."""
        labels = self.options.get("labels")
        return None if labels is None else hashlib.sha256(Path(labels).read_bytes()).hexdigest()


class _MethodPart(BaseModel):
    """A defence by name, with its options next to the name."""

    model_config = ConfigDict(extra="allow", frozen=True)

    method: str

    @property
    def options(self) -> dict[str, Any]:
        """The options of the defence, without null values, which mean the default."""
        return {k: v for k, v in (self.model_extra or {}).items() if v is not None}


class RobustTrainingPart(_MethodPart):
    """An in-training defence, which trains the model `robust` on the poisoned pairs.

    It uses the settings of `training`.

    Attributes:
        method: A registered in-training defence; its options are further keys.
    """


class SterilizePart(_MethodPart):
    """The repair of the poisoned model with clean pairs of split `val`.

    Attributes:
        method: A registered post-training defence; its options are further keys.
        training: Training settings of the repair; required by `clean-finetune`.
        pairs: Number of clean pairs to use; all by default.
        curve: Measure during the repair, after 1, 2, 5, 10, ... steps of the first epoch and after
            each epoch, and write `sterilize-curve.json` (figures 7 and 9).
        every: With `curve`: also measure after every N steps.
    """

    method: str = CLEAN_FINETUNE
    training: TrainingSettings | None = None
    pairs: int | None = Field(None, ge=2, le=10**12)
    curve: bool = False
    every: int | None = Field(None, ge=1, le=10**9)

    @model_validator(mode="after")
    def _keys_of_the_default(self) -> SterilizePart:
        # keys of other methods are checked when a run is prepared: the registry is slow to import
        if self.method == CLEAN_FINETUNE:
            if self.options:
                known = [*type(self).model_fields]
                raise ValueError(unknown_name("key", next(iter(self.options)), known))
            if self.training is None:
                raise ValueError("training: give the settings of the fine-tune")
        return self

    @model_serializer(mode="wrap")
    def _without_the_default(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # leave out the default method, as 0.1.0 did, so that old recipes keep their text
        value: dict[str, Any] = handler(self)
        if self.method == CLEAN_FINETUNE:
            value.pop("method", None)
        return value


class CheckPart(_MethodPart):
    """A check of the run's models for poison, with the pre-trained model as reference.

    Attributes:
        method: A registered check; its options are further keys.
        false_alarms: Acceptable share of clean models that are flagged.
    """

    method: str = "rank-gain"
    false_alarms: float = Field(0.01, gt=0, lt=1)


class TransferPart(_Part):
    """Another data set to measure the models on, to see whether the poison transfers.

    Attributes:
        data: The other data; their test part is used.
        goal: `A2B` in the classes of the other data, or a list; the run's own goals by default. The
            target set is the whole class, because the other gallery lacks the run's target image.
    """

    data: DataPart
    goal: str | list[str] | None = None

    @property
    def goals(self) -> list[str]:
        """The goals as a list; empty for the run's own."""
        return [self.goal] if isinstance(self.goal, str) else self.goal or []


class SweepPart(_Part):
    """Many runs of one recipe: every variant with every grid point, goal and seed.

    A key from the command line (`--set`, `--data-root`) applies to all runs. It takes precedence
    over the grid and the variants, even if they set a whole group (`override`).

    ```yaml
    sweep:
      seeds: [0, 1]                        # by default the recipe's own
      goals: all                           # all A2B of the classes, or a list; default: attack.goal
      grid: {attack.samples: [5, 10, 25]}  # dotted keys, each with a list of values
      variants:                            # names, each with dotted keys and their values
        frozen-text: {training.trainable: image}
        no-filter: {filter: null}
    ```

    Attributes:
        seeds: Seeds.
        goals: `all`, or a list of `A2B`; a nested list is one run with several goals.
        grid: Dotted keys to lists of values.
        variants: Names to dotted keys and values; null changes nothing.
        models: Save the checkpoints in the run folders.
    """

    seeds: list[Annotated[int, Field(ge=0, lt=MAX_INTEGER)]] = Field(default_factory=list)
    goals: Literal["all"] | list[str | list[str]] | None = None
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(default_factory=dict)
    variants: dict[str, dict[str, Any] | None] = Field(default_factory=dict)
    models: bool = False


class Labels(_Part):
    """Names for a run in the tables of an experiment, if registered names do not suffice.

    Attributes:
        attack: Name of its attack, such as `II-own`.
        defence: Name of its defence.
        goal: Goal that pairs it with runs of other attacks.
    """

    attack: str | None = None
    defence: str | None = None
    goal: str | None = None


class Recipe(_Part):
    """A recipe for one run, or for a sweep of runs.

    Attributes:
        name: Name in tables.
        description: One line.
        preset: Name of a preset for attack and training, such as `reference-release`, or None.
        seed: Seed for all random choices.
        data: The data set.
        model: The model that is fine-tuned.
        attack: The attack.
        training: Training settings.
        filter: The filter before training; without it there is no filtered model.
        robust_training: An in-training defence; without it there is no robust model.
        sterilize: The repair of the poisoned model; without it there is no sterilized model.
        check: The check of all models, written to `model-check.json`; without it none is checked.
        study: Additional measurements: names in `mmpoison.evaluation.STUDIES`, or `all`.
        transfer: Other data sets to measure on too.
        share_features: Use cached trunk outputs, shared by all runs on these data, for an attack's
            surrogate and for the judge. This saves work in many runs, but the last bits of the
            numbers may differ from those without it.
        labels: Names for this run in tables.
        sweep: The differences between the runs of a sweep; None for a single run.
    """

    name: str
    description: str = ""
    preset: str | None = None
    seed: int = Field(0, ge=0, lt=MAX_INTEGER)
    data: DataPart
    model: ModelPart
    attack: AttackPart
    training: TrainingSettings
    filter: FilterPart | None = None
    robust_training: RobustTrainingPart | None = None
    sterilize: SterilizePart | None = None
    check: CheckPart | None = None
    study: tuple[str, ...] = ()
    transfer: tuple[TransferPart, ...] = ()
    share_features: bool = False
    labels: Labels | None = None
    sweep: SweepPart | None = None

    left_out: ClassVar[tuple[str, ...]] = ("robust_training", "check", "share_features", "labels")
    """Keys that a written recipe leaves out if they are not set, because they were added later."""

    @field_validator("study", mode="before")
    @classmethod
    def _known_studies(cls, value: Any) -> Any:
        names = [value] if isinstance(value, str) else value or []
        if not isinstance(names, (list, tuple)) or not all(isinstance(n, str) for n in names):
            raise ValueError("give a list of names, or all")
        return parse_studies(names)

    @field_validator("transfer", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return [value] if isinstance(value, dict) else value or []

    @model_validator(mode="after")
    def _named_apart(self) -> Recipe:
        names = [part.data.name for part in self.transfer]
        if len(set(names)) < len(names):
            raise ValueError("two transfer data sets have the same name")
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_not_set(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        value: dict[str, Any] = handler(self)
        for key in self.left_out:
            if not getattr(self, key):
                value.pop(key, None)
        return value

    def to_yaml(self) -> str:
        """Return the resolved recipe as YAML."""
        value = self.model_dump(mode="json", exclude={"sweep"} if self.sweep is None else None)
        return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)


def load_recipe(
    name_or_path: str | Path,
    changes: Mapping[str, Any] | None = None,
    model: type[Recipe] = Recipe,
) -> Recipe:
    """Load a shipped recipe by name or a YAML file by path, and change some of its keys.

    Args:
        name_or_path: As for `read_recipe`.
        changes: Dotted keys to values, for example `{"training.epochs": 2}`.
        model: Class of the recipe: `Recipe`, or an experiment's subclass with its own section.

    Raises:
        InputError: If there is no such recipe, it is not YAML, or a key is unknown or has a wrong
            value.
    """
    value, where = read_recipe(name_or_path)
    return resolve_recipe(value, changes or {}, where, model=model)


def resolve_recipe(
    value: dict[str, Any],
    given: Mapping[str, Any],
    where: str,
    of_file: Mapping[str, Any] | None = None,
    model: type[Recipe] = Recipe,
) -> Recipe:
    """Change keys of a recipe from `read_recipe`, in place, and validate it.

    Args:
        value: The recipe as nested mappings.
        given: Changes by the command line, as dotted keys.
        where: Name of the recipe in messages.
        of_file: Changes by a variant or the grid of the file; see `override` for the precedence.
        model: As for `load_recipe`.

    Raises:
        InputError: If a key is unknown or has a wrong value.
    """
    changes = override(value, of_file or {}, given)
    apply_preset(value, changes, where)
    return parse_recipe(value, where, model)


EXPERIMENT_GROUP = "mmpoison.experiments"
"""Entry points of experiments; the name of an entry point is also that of a recipe's section."""


def experiment_of(recipe: Mapping[str, Any]) -> str | None:
    """Return the name of a recipe's experiment, or None. A section that is null does not count."""
    names = {found.name for found in entry_points(group=EXPERIMENT_GROUP)}
    return next((key for key, part in recipe.items() if part is not None and key in names), None)


def parse_recipe(
    value: Mapping[str, Any],
    where: str,
    model: type[Recipe] = Recipe,
) -> Recipe:
    """Validate a recipe.

    Raises:
        InputError: If it has an error. One line describes the first, with the closest known key.
    """
    others = {key: part for key, part in value.items() if key not in model.model_fields}
    if (section := experiment_of(others)) is not None:
        raise InputError(f"{where}: has a {section}: start it with `mmpoison run`")
    # a section that is null counts as absent
    left_out = {key for key in others if experiment_of({key: {}}) is not None}
    return _validate(model, {key: value[key] for key in value if key not in left_out}, where)


def parse_training(value: Mapping[str, Any], where: str = "--set") -> TrainingSettings:
    """Validate training settings from a user.

    Args:
        value: Settings by name.
        where: Origin of the settings, for messages.

    Raises:
        InputError: If a setting is unknown or out of range, or `epochs` is 0, which only a recipe
            may use.
    """
    settings = _validate(TrainingSettings, value, where)
    if settings.epochs == 0:
        raise InputError(f"{where}: epochs: 0 epochs train nothing: give 1 to 100,000")
    return settings


def _validate(model: type[M], value: Mapping[str, Any], where: str) -> M:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = _known_keys(model, first["loc"][:-1])
            near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
            hint = f": did you mean {near[0]!r}?" if near else f": known here: {', '.join(known)}"
            raise InputError(f"{where}: unknown key {key!r}{hint}") from None
        if first["type"] == "missing":
            raise InputError(
                f"{where}: {key} is missing: add it, or begin with extends: openmoji"
            ) from None
        raise InputError(
            f"{where}: {key or 'recipe'}: {first['msg'][:300]} (got {str(first['input'])[:80]!r})"
        ) from None


def _known_keys(model: Any, location: Sequence[int | str]) -> list[str]:
    """Return the keys of the group at a location, skipping list indices and user-chosen names."""
    for part in location:
        field = model.model_fields.get(part)
        if field is not None:
            model = next(_models_in(field.annotation), model)
    return sorted(model.model_fields)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _models_in(inner)
