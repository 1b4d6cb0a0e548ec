"""The section `matrix` of a recipe: attacks (rows), defences (columns), and the number of measurements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mmpoison.base import MAX_INTEGER
from mmpoison.runs import Recipe, load_recipe
from mmpoison.training import TrainingSettings

MOST_GOALS = 1000
Seed = Annotated[int, Field(ge=0, lt=MAX_INTEGER)]


class MatrixRow(BaseModel):
    """An attack, with its options next to its name.

    Attributes:
        attack: A registered attack; null for a row without poison, to measure false alarms and the
            cost of a defence.
        goals: Number of simultaneous goals, each with its own target class.
        one_target: Whether all its goals share one target class instead.
        near: Whether to target the class that is nearest to the original class under a surrogate.
        single: Whether to use the data set with one caption per image (`NAME-b`).
        data_options: Options of the data that this row changes.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    attack: str | None
    goals: int = Field(1, ge=1, le=100)
    one_target: bool = False
    near: bool = False
    single: bool = False
    data_options: dict[str, Any] = Field(default_factory=dict)

    @property
    def options(self) -> dict[str, Any]:
        """The options of the attack."""
        return {key: value for key, value in (self.model_extra or {}).items() if value is not None}

    @model_validator(mode="after")
    def _options_need_an_attack(self) -> MatrixRow:
        if self.attack is None and (self.options or self.near or self.one_target or self.goals > 1):
            raise ValueError("a row without an attack has no options")
        return self


class MatrixColumn(BaseModel):
    """A defence of any kind, with its options next to its name.

    Attributes:
        method: A registered defence.
        encoder: The judge of a filter; by default that of the recipe's `filter`.
        as_many_as: Another filter column: drop the same number of pairs as it does, by
            `clean_loss`.
        training: Training settings of a repair; by default those of the recipe's `sterilize`.
        needs: Further requirements beyond those of its kind, for example augmentation.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    method: str
    encoder: str | None = None
    as_many_as: str | None = None
    training: TrainingSettings | None = None
    needs: list[str] = Field(default_factory=list)

    @property
    def options(self) -> dict[str, Any]:
        """The options of the defence."""
        return {key: value for key, value in (self.model_extra or {}).items() if value is not None}


class MatrixPart(BaseModel):
    """Every attack against every defence, on the same goals and seeds.

    ```yaml
    matrix:
      goals: 6                      # random goals, the same for each row
      seeds: [5, 6, 7]
      rows:
        II existing: {attack: single-target-label, samples: 25}
      columns:
        suspicious-groups: {method: suspicious-groups}
    ```

    Attributes:
        goals: Number of goals to draw.
        seeds: Seeds for each goal.
        tuning_seed: Seed for choosing settings, on an extra goal that is not measured; must not be
            among `seeds`.
        took: Minimum success of the undefended attack for a row to count.
        repair_pairs: Number of clean pairs for each repair; all of split `val` by default.
        rows: Attacks by row name; null leaves one out.
        columns: Defences by column name; null leaves one out.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    goals: int = Field(6, ge=1, le=MOST_GOALS)
    seeds: list[Seed] = Field(default_factory=lambda: [5, 6, 7], min_length=1)
    tuning_seed: Seed = 0
    took: float = Field(0.5, ge=0, le=1)
    repair_pairs: int | None = Field(None, ge=2, le=10**12)
    rows: dict[str, MatrixRow] = Field(min_length=1)
    columns: dict[str, MatrixColumn] = Field(min_length=1)

    @field_validator("rows", "columns", mode="before")
    @classmethod
    def _null_leaves_one_out(cls, value: Any) -> Any:
        # otherwise a recipe that extends another could not remove a key
        if not isinstance(value, dict):
            return value
        return {name: entry for name, entry in value.items() if entry is not None}

    @model_validator(mode="after")
    def _consistent(self) -> MatrixPart:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: a seed is given twice")
        if self.tuning_seed in self.seeds:
            # suggest the default seeds, or those after the tuning seed
            free = max(5, self.tuning_seed + 1)
            raise ValueError(
                f"Seed {self.tuning_seed} is reserved for tuning: try --seeds {free}-{free + 2}"
            )
        for name, column in self.columns.items():
            if (other := column.as_many_as) is None:
                continue
            if other not in self.columns:
                raise ValueError(f"columns.{name}.as_many_as: no column {other!r}")
            if self.columns[other].as_many_as is not None:
                raise ValueError(f"columns.{name}.as_many_as: {other!r} drops as many as another")
        return self


class MatrixRecipe(Recipe):
    """A recipe with a matrix.

    Attributes:
        matrix: Its rows and columns; None in the recipe of a single run.
    """

    matrix: MatrixPart | None = None

    left_out: ClassVar[tuple[str, ...]] = (*Recipe.left_out, "matrix")


def load_matrix(name_or_path: str, changes: Mapping[str, Any] | None = None) -> MatrixRecipe:
    """Load a recipe with a matrix, using `load_recipe`."""
    recipe = load_recipe(name_or_path, changes, MatrixRecipe)
    assert isinstance(recipe, MatrixRecipe)
    return recipe
