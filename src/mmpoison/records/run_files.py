"""The JSON files of a run folder: `metrics.json`, rank lists, suspicious pairs, the map, and the curve of a repair.

The same record class writes and reads a file. `Record` documents absent and unknown keys.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from mmpoison.base.record import Number, OrEmpty, Record

# -- The record of a checkpoint: the object `mmpoison` of its `open_clip_config.json`.


class EpochRecord(Record):
    """One epoch of a training: its mean loss, last learning rate and seconds."""

    loss: Number
    learning_rate: Number | None = None
    seconds: Number | None = None


class TrainingRecord(Record):
    """A summary of a training.

    Attributes:
        steps: Steps done.
        pairs_per_second: Mean rate.
        precision: Numeric precision of the computation.
        processes: Number of processes that shared each batch; absent for one.
        objective: The loss that was minimised; absent for the contrastive loss.
        notes: Notes of the defence; absent if there are none.
        epochs: The epochs in order.
    """

    steps: int
    pairs_per_second: Number | None = None
    precision: str | None = None
    processes: int = 1
    objective: str | None = None
    notes: list[str] = []
    epochs: list[EpochRecord] = []


class PretrainingRecord(Record):
    """A summary of a training from random weights.

    Attributes:
        settings: The settings of that training.
        training: The record of that training.
    """

    variant: str | None = None
    scenes: int | None = None
    captions_each: int | None = None
    seed: int | None = None
    scenes_version: str | None = None
    tool_version: str | None = None
    settings: dict[str, object] = {}
    training: TrainingRecord = TrainingRecord(steps=0)


class CheckpointRecord(Record):
    """Machine-readable facts about a checkpoint. Unknown facts are absent.

    Attributes:
        name: Name of the model in results.
        activation: `QuickGELU` or `GELU`.
        architecture: Its name in open_clip.
        source: Where the weights come from.
        training: The record of its last training.
        seed: Seed for that training.
        poisoned: Whether it was trained on poisoned data.
        pretraining: The record of its training from random weights.
        looks: Measurements during the training, see `run_files.ProbeRecord`.
    """

    name: str | None = None
    activation: str | None = None
    architecture: str | None = None
    source: str | None = None
    training: TrainingRecord | None = None
    seed: int | None = None
    poisoned: bool | None = None
    looks: list[object] = []
    pretraining: PretrainingRecord | None = None


Interval = Annotated[list[Number], Field(min_length=2, max_length=2)]
"""Low and high end of a 95% interval."""


def _as_list(value: object) -> object:
    """Convert a single text to a list of one, and None to an empty list."""
    return [value] if isinstance(value, str) and value else value or []


Texts = Annotated[list[str], BeforeValidator(_as_list)]


# -- rows of metrics.json ------------------------------------------------------------------------------------------


class GoalRow(Record):
    """Figures of one goal under one model: how well its queries retrieve the target set.

    `hit@1` ... `hit@50` in [0, 1]; `min_rank`, 0-based; `queries`, `gallery`, `targets`, `ties`: counts.
    """

    hit_1: Number | None = Field(None, alias="hit@1")
    hit_5: Number | None = Field(None, alias="hit@5")
    hit_10: Number | None = Field(None, alias="hit@10")
    hit_20: Number | None = Field(None, alias="hit@20")
    hit_30: Number | None = Field(None, alias="hit@30")
    hit_50: Number | None = Field(None, alias="hit@50")
    min_rank: Number | None = None
    queries: int | None = None
    gallery: int | None = None
    targets: int | None = None
    ties: int | None = None


class QueryLengthRow(GoalRow):
    """A row of repeated captions: `words`, mean number of words; `full_context`, share of captions that were cut."""

    words: Number | None = None
    full_context: Number | None = None


class RankSpread(Record):
    """The distribution of the ranks of a row.

    Attributes:
        median: Median rank.
        quantiles: Ranks by quantile.
        clusters: Number of images that the queries belong to.
        interval: 95% intervals of the row's figures, clustered by image; absent if all queries belong to one image.
    """

    median: Number | None = None
    quantiles: dict[str, Number] = {}
    clusters: int | None = None
    interval: OrEmpty[dict[str, Interval]] = {}


class Retrieval(Record):
    """Hit@K of retrieval over the whole test set, in [0, 1]."""

    hit_1: Number | None = Field(None, alias="hit@1")
    hit_5: Number | None = Field(None, alias="hit@5")
    hit_10: Number | None = Field(None, alias="hit@10")


class Utility(Record):
    """A model's retrieval quality: caption to its image, image to any of its captions."""

    image_retrieval: OrEmpty[Retrieval] = Retrieval()
    text_retrieval: OrEmpty[Retrieval] = Retrieval()


class Drift(Record):
    """Mean cosine distance between two models' embeddings of the same inputs, in [0, 2]."""

    text: Number | None = None
    image: Number | None = None


Rows = dict[str, dict[str, GoalRow]]
"""Rows by goal and model."""


class Measures(Record):
    """The measurements of some models on one data set.

    Attributes:
        goal: Rows by goal and model.
        with_trigger: Rows with a backdoor's trigger on the target images; absent for other attacks.
        ranks: Distribution of the ranks of those rows.
        utility: Utility by model.
        utility_equal_texts: Utility if captions with the same words count as correct; absent if no caption repeats.
        drift: Drift from the clean model to the poisoned one.
    """

    goal: OrEmpty[Rows] = {}
    with_trigger: OrEmpty[Rows] = {}
    ranks: OrEmpty[dict[str, dict[str, RankSpread]]] = {}
    utility: OrEmpty[dict[str, Utility]] = {}
    utility_equal_texts: OrEmpty[dict[str, Utility]] = {}
    drift: OrEmpty[Drift] = Drift()

    def row(self, goal: str, model: str, *, with_trigger: bool = False) -> GoalRow:
        """Return a model's row, or an empty row if it was not computed."""
        rows = self.with_trigger if with_trigger else self.goal
        return rows.get(goal, {}).get(model) or GoalRow()

    def spread(self, goal: str, model: str) -> RankSpread:
        """Return a row's ranks, or an empty record if they were not computed."""
        return self.ranks.get(goal, {}).get(model) or RankSpread()


# -- studies -------------------------------------------------------------------------------------------------------


class BeforeAfter(Record):
    """A number under the clean and under the poisoned model."""

    clean_model: Number | None = None
    poisoned: Number | None = None


class RankChange(BeforeAfter):
    """Mean ranks under both models, with difference and 95% interval, and the same for Hit@10."""

    change: Number | None = None
    hit_10: BeforeAfter = Field(BeforeAfter(), alias="hit@10")
    interval: Interval | None = None


class ClassChange(Record):
    """Rank changes of one class's captions: images of their own class, and the target set."""

    queries: int | None = None
    own: OrEmpty[RankChange] = RankChange()
    target: OrEmpty[RankChange] = RankChange()


class Silhouettes(Record):
    """Silhouettes of classes, in [-1, 1], and the number of points compared."""

    texts: int | None = None
    images: int | None = None
    text_silhouette: Number | None = None
    image_silhouette: Number | None = None


class Study(Record):
    """Optional parts of an evaluation; rows by goal, model, and kind of query, number of repeats or epoch.

    `order_drift` is the drift between two clean models; one was trained in the poisoned model's order of pairs.
    """

    queries: OrEmpty[dict[str, dict[str, dict[str, GoalRow]]]] = {}
    query_length: OrEmpty[dict[str, dict[str, dict[str, QueryLengthRow]]]] = {}
    collateral: OrEmpty[dict[str, dict[str, ClassChange]]] = {}
    distribution: OrEmpty[dict[str, Silhouettes]] = {}
    epochs: OrEmpty[dict[str, dict[str, dict[str, GoalRow]]]] = {}
    order_drift: OrEmpty[Drift] = Drift()


# -- during a training ---------------------------------------------------------------------------------------------


class ProbedTest(Record):
    """The test part under a model in training: rows by goal, and its utility."""

    goal: OrEmpty[dict[str, GoalRow]] = {}
    utility: OrEmpty[Utility] = Utility()


class ProbeRecord(Record):
    """The measurements at one step of a training.

    Attributes:
        step: Steps done.
        epoch: Whole epochs done.
        learning_rate: Learning rate of the step; absent before the first.
        training_loss: Loss of its batch.
        test: The test part.
        utility: Utility on the data used to judge the curve: the test part, or held-out pairs.
        utility_loss: For a repair: utility lost on held-out pairs since the start.
    """

    step: int
    epoch: int | None = None
    learning_rate: Number | None = None
    training_loss: Number | None = None
    test: OrEmpty[ProbedTest] = ProbedTest()
    utility: OrEmpty[Utility] = Utility()
    utility_loss: Number | None = None


class RepairBranch(Record):
    """A repair with one learning rate."""

    learning_rate: Number | None = None
    chosen: bool | None = None
    looks: list[ProbeRecord] = []


class RepairCurve(Record):
    """`sterilize-curve.json`: measurements over the steps of a repair."""

    branches: list[RepairBranch] = []


# -- data, models and settings
# ------------------------------------------------------------------------------------------


class DataFacts(Record):
    """The data of a run and their counts."""

    name: str | None = None
    fingerprint: str | None = None
    attribution: str | None = None
    pairs: int | None = None
    images: int | None = None
    labelled_images: int | None = None
    classes: int | None = None


class ClassRetrieval(Record):
    """Share of a class's captions that retrieve an image of the class first, before fine-tuning."""

    original: Number | None = None
    target: Number | None = None
    mean: Number | None = None


class ModelFacts(Record):
    """A run's model: its size (millions of parameters, 10^9 multiply-adds) and its retrieval quality."""

    name: str | None = None
    parameters_m: Number | None = None
    flops_g: Number | None = None
    class_retrieval: OrEmpty[ClassRetrieval] = ClassRetrieval()


class SuspectedGoal(Record):
    """A goal suspected by a filter: a sentence, and captions of its pairs."""

    sentence: str | None = None
    example_captions: list[str] | None = None


class FilterFacts(Record):
    """Facts about a run's filter. A method may add more."""

    method: str | None = None
    encoder: str | None = None
    threshold: Number | None = None
    dropped_pairs: int | None = None
    clean_dropped: int | None = None
    clean_dropped_share: Number | None = None
    poisoned_caught: int | None = None
    poisoned_total: int | None = None
    auroc: Number | None = None
    average_precision: Number | None = None
    recall: dict[str, Number] | None = None
    suspected_goals: list[SuspectedGoal] | None = None

    @property
    def caught_share(self) -> float | None:
        """Share of poisoned pairs that were dropped; None if there were none, or if it is unknown."""
        if self.poisoned_caught is None or not self.poisoned_total:
            return None
        return self.poisoned_caught / self.poisoned_total


class RobustTrainingFacts(Record):
    """A run's robust training: method and options."""

    method: str | None = None


class SterilizeFacts(Record):
    """Facts about a run's repair. `method` is absent for a clean fine-tune."""

    method: str | None = None
    pairs: int | None = None
    steps: int | None = None
    learning_rate: Number | None = None


class ScanFacts(Record):
    """A run's model check: method and options; for each model the flagged goals, the first finding, and p."""

    method: str | None = None
    flagged: dict[str, list[str]] = {}
    first: dict[str, str] | None = None
    p_value: dict[str, Number] | None = None


class RunFacts(Record):
    """The section `run` of `metrics.json`: the data, the models and the settings of a run.

    Attributes:
        goals: The goals in their order.
        models: Names of the models by row, if no recipe defines them.
        row_names: Row names that replace the usual ones: a model of unknown history is not called poisoned.
        training: How each model was trained.
        flags: Warnings to read before trusting the numbers.
        seconds: Time by stage.
        note: Reason for missing numbers, if the input was refused.
        carrier: Images that carry the poison: `existing`, `own` or `new images`.
        surrogate: The attacker's own model.
    """

    recipe: str | None = None
    seed: int | None = None
    tool_version: str | None = None
    goals: Texts = []
    attack: str | None = None
    attack_options: OrEmpty[dict[str, object]] = {}
    target_images: OrEmpty[dict[str, str]] = {}
    mode: str | None = None
    poisoned_pairs: int | None = None
    training_pairs: int | None = None
    poisoning_rate: Number | None = None
    trainable: str | None = None
    data: OrEmpty[DataFacts] = DataFacts()
    model: OrEmpty[ModelFacts] = ModelFacts()
    models: OrEmpty[dict[str, str]] = {}
    row_names: OrEmpty[dict[str, str]] = {}
    training: OrEmpty[dict[str, TrainingRecord]] = {}
    device: str | None = None
    versions: OrEmpty[dict[str, str]] = {}
    filter: FilterFacts | None = None
    robust_training: RobustTrainingFacts | None = None
    sterilize: SterilizeFacts | None = None
    scan: ScanFacts | None = None
    flags: Texts = []
    seconds: OrEmpty[dict[str, Number]] = {}
    note: str | None = None
    carrier: str | None = None
    surrogate: str | None = None


class TransferMeasures(Measures):
    """Measurements of a run's models on data they were not trained on."""

    data: OrEmpty[DataFacts] = DataFacts()


class Metrics(Measures):
    """The whole `metrics.json`: measurements of a run or of `mmpoison evaluate`."""

    study: OrEmpty[Study] = Study()
    transfer: OrEmpty[dict[str, TransferMeasures]] = {}
    run: OrEmpty[RunFacts] = RunFacts()

    @property
    def goals(self) -> list[str]:
        """Every goal, in the order of the run."""
        return list(dict.fromkeys([*self.run.goals, *self.goal]))


# -- what a run shows ----------------------------------------------------------------------------------------------


class RankedImage(Record):
    """An image that a caption retrieved."""

    image: str | None = None
    label: str | None = None
    similarity: Number | None = None
    target: bool | None = None


class RankedQuery(Record):
    """A caption, and the images that each model retrieves for it."""

    goal: str | None = None
    caption: str | None = None
    image: str | None = None
    models: OrEmpty[dict[str, list[RankedImage]]] = {}
    best_target_rank: OrEmpty[dict[str, int]] = {}


class ConfusingImage(Record):
    """An image that captions of a class retrieve although its label differs, with its captions."""

    image: str | None = None
    label: str | None = None
    similarity: Number | None = None
    captions: list[str] = []


class RankLists(Record):
    """`rank_lists.json`: what a few captions retrieve under each model.

    Attributes:
        goals: The goals.
        goal: The single goal, in files of older versions.
        queries: The captions.
        confusing: By goal, images of other classes that captions of the target class retrieve.
        thumbnails: Thumbnails by image, as `data:` addresses.
    """

    goals: Texts = []
    goal: str | None = None
    queries: list[RankedQuery] = []
    confusing: OrEmpty[dict[str, list[ConfusingImage]]] = {}
    thumbnails: OrEmpty[dict[str, str]] = {}


class SuspiciousPair(Record):
    """An entry of `suspicious_pairs.json`, which lists the pairs that a filter dropped first."""

    caption: str | None = None
    image: str | None = None
    distance: Number | None = None
    poisoned: bool | None = None
    thumbnail: str | None = None


MapPoint = Annotated[list[Number], Field(min_length=3, max_length=3)]
"""x, y and class code."""


class ModelMap(Record):
    """Texts and images of one model in two dimensions."""

    texts: list[MapPoint] = []
    images: list[MapPoint] = []


class EmbeddingMap(Record):
    """`embedding_map.json`: the embeddings of each model in two dimensions."""

    method: str | None = None
    classes: list[str] = []
    models: OrEmpty[dict[str, ModelMap]] = {}
