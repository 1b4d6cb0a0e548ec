"""The JSON files of a run folder: `metrics.json`, rank lists, suspicious pairs, the map, and the curve of a repair.

One record writes a file and reads it again. `Record` says what happens to absent and unknown keys.
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
        precision: What was computed in.
        processes: How many shared each batch; absent for one.
        objective: What was minimised; absent for the contrastive loss.
        notes: What a defence says of it; absent where it says nothing.
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
        training: How it went.
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
    """Facts about a checkpoint that programs read back; each is absent where it is not known.

    Attributes:
        name: What the model is called in results.
        activation: `QuickGELU` or `GELU`.
        architecture: Its name in open_clip.
        source: Where the weights come from.
        training: How its last training went.
        seed: Seed of that training.
        poisoned: Whether it was trained on poisoned data.
        pretraining: How it was trained from random weights.
        looks: What was measured during the training, see `run_files.ProbeRecord`.
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
    """Turn a single text into a list of one; None into an empty list."""
    return [value] if isinstance(value, str) and value else value or []


Texts = Annotated[list[str], BeforeValidator(_as_list)]


# -- rows of metrics.json ------------------------------------------------------------------------------------------


class GoalRow(Record):
    """The figures of a goal's queries under one model: how well they retrieve the target set.

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
    """A row of captions repeated several times: `words`, their mean number; `full_context`, the share that was cut."""

    words: Number | None = None
    full_context: Number | None = None


class RankSpread(Record):
    """The distribution of the ranks of a row.

    Attributes:
        median: Of the ranks.
        quantiles: By quantile.
        clusters: Number of images that the queries belong to.
        interval: 95% interval of figures of the row, clustered by image; absent where all queries are of one image.
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
        with_trigger: The same where the target images carry the trigger of a backdoor; absent for other attacks.
        ranks: How the ranks of those rows spread.
        utility: By model.
        utility_equal_texts: The same where a caption of the same words counts as right; absent where none repeats.
        drift: From the clean model to the poisoned one.
    """

    goal: OrEmpty[Rows] = {}
    with_trigger: OrEmpty[Rows] = {}
    ranks: OrEmpty[dict[str, dict[str, RankSpread]]] = {}
    utility: OrEmpty[dict[str, Utility]] = {}
    utility_equal_texts: OrEmpty[dict[str, Utility]] = {}
    drift: OrEmpty[Drift] = Drift()

    def row(self, goal: str, model: str, *, with_trigger: bool = False) -> GoalRow:
        """Return the row of a model; an empty one if it was not computed."""
        rows = self.with_trigger if with_trigger else self.goal
        return rows.get(goal, {}).get(model) or GoalRow()

    def spread(self, goal: str, model: str) -> RankSpread:
        """Return the ranks of a row; empty if they were not computed."""
        return self.ranks.get(goal, {}).get(model) or RankSpread()


# -- studies -------------------------------------------------------------------------------------------------------


class BeforeAfter(Record):
    """A number under the clean and under the poisoned model."""

    clean_model: Number | None = None
    poisoned: Number | None = None


class RankChange(BeforeAfter):
    """Mean ranks under both models, their difference and its 95% interval, and the same for Hit@10."""

    change: Number | None = None
    hit_10: BeforeAfter = Field(BeforeAfter(), alias="hit@10")
    interval: Interval | None = None


class ClassChange(Record):
    """The change of one class's captions: towards the images of their own class, and towards the target set."""

    queries: int | None = None
    own: OrEmpty[RankChange] = RankChange()
    target: OrEmpty[RankChange] = RankChange()


class Silhouettes(Record):
    """Silhouettes of classes, in [-1, 1], and how many points were compared."""

    texts: int | None = None
    images: int | None = None
    text_silhouette: Number | None = None
    image_silhouette: Number | None = None


class Study(Record):
    """Optional parts of an evaluation; rows by goal, model, and kind of query, number of repeats or epoch.

    `order_drift` is that between two clean models, one of which saw the pairs in the order of the poisoned one.
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
        learning_rate: Of the step; absent before the first.
        training_loss: Loss of its batch.
        test: The test part.
        utility: Of what the curve judges by: the test part, or held-out pairs.
        utility_loss: Of a repair: how much of the utility on held-out pairs is lost since its start.
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
    """`sterilize-curve.json`: a repair over its steps."""

    branches: list[RepairBranch] = []


# -- what was run on what ------------------------------------------------------------------------------------------


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
    """Share of a class's captions that retrieve an image of the class first, under the model before fine-tuning."""

    original: Number | None = None
    target: Number | None = None
    mean: Number | None = None


class ModelFacts(Record):
    """The model of a run, its size (millions of parameters, 10^9 multiply-adds) and what it can do."""

    name: str | None = None
    parameters_m: Number | None = None
    flops_g: Number | None = None
    class_retrieval: OrEmpty[ClassRetrieval] = ClassRetrieval()


class SuspectedGoal(Record):
    """A goal that a filter suspects, as a sentence, with captions of its pairs."""

    sentence: str | None = None
    example_captions: list[str] | None = None


class FilterFacts(Record):
    """Facts about the filter of a run; a method may add more."""

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
        """Share of the poisoned pairs that were dropped; None where there were none, or it is not known."""
        if self.poisoned_caught is None or not self.poisoned_total:
            return None
        return self.poisoned_caught / self.poisoned_total


class RobustTrainingFacts(Record):
    """The robust training of a run: its method, and its options."""

    method: str | None = None


class SterilizeFacts(Record):
    """Facts about the repair of a run; `method` is absent for a clean fine-tune."""

    method: str | None = None
    pairs: int | None = None
    steps: int | None = None
    learning_rate: Number | None = None


class ScanFacts(Record):
    """The check of the models of a run: its method and options, and by model what it flagged, found first, and p."""

    method: str | None = None
    flagged: dict[str, list[str]] = {}
    first: dict[str, str] | None = None
    p_value: dict[str, Number] | None = None


class RunFacts(Record):
    """The section `run` of `metrics.json`: the data, the models and the settings of a run.

    Attributes:
        goals: The goals in their order.
        models: Names of the models by row, where no recipe says them.
        row_names: Names of rows that differ from the usual ones: a model of unknown past is not called poisoned.
        training: How each model was trained.
        flags: What a reader must know before believing the numbers.
        seconds: Time by stage.
        note: Why there are no numbers, where the input was refused.
        carrier: Whose images carry the poison: `existing`, `own` or `new images`.
        surrogate: The model that the attacker knew.
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
    """The models of a run on data that they were not trained on."""

    data: OrEmpty[DataFacts] = DataFacts()


class Metrics(Measures):
    """All of `metrics.json`: what a run, or `mmpoison evaluate`, measured."""

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
    """A caption, and what each model retrieves for it."""

    goal: str | None = None
    caption: str | None = None
    image: str | None = None
    models: OrEmpty[dict[str, list[RankedImage]]] = {}
    best_target_rank: OrEmpty[dict[str, int]] = {}


class ConfusingImage(Record):
    """An image that captions of a class retrieve although it has another label, and its captions."""

    image: str | None = None
    label: str | None = None
    similarity: Number | None = None
    captions: list[str] = []


class RankLists(Record):
    """`rank_lists.json`: what a few captions retrieve under each model.

    Attributes:
        goals: The goals.
        goal: The one goal, where an older version wrote the file.
        queries: The captions.
        confusing: By goal, images of other classes that captions of the target class find.
        thumbnails: By image, as data addresses.
    """

    goals: Texts = []
    goal: str | None = None
    queries: list[RankedQuery] = []
    confusing: OrEmpty[dict[str, list[ConfusingImage]]] = {}
    thumbnails: OrEmpty[dict[str, str]] = {}


class SuspiciousPair(Record):
    """A pair that a filter dropped first, of the list in `suspicious_pairs.json`."""

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
