"""Made-up results for each claim's rule: some for which it holds, some for which it does not, some between."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from mmpoison.reporting.results import Results
from mmpoison_lab.paper.claim import FAILS, HOLDS, UNDECIDED, Verdict
from mmpoison_lab.paper.figures import MEDIANS
from mmpoison_lab.paper.measured import CURVE
from mmpoison_lab.paper.tables import RATE

REPAIR_EPOCHS = "sterilize.training.epochs"

Row = dict[str, Any]
Values = Sequence[float]

NOISE = (0.4, -0.6, 0.1, -0.3, 0.4)
"""What differs between five seeds; the mean is 0."""
OTHER_NOISE = (-0.7, 0.2, 0.5, 0.4, -0.4)
THIRD_NOISE = (0.3, 0.5, -0.2, -0.8, 0.2)
NOISES = (NOISE, OTHER_NOISE, THIRD_NOISE, NOISE[::-1], OTHER_NOISE[::-1], THIRD_NOISE[::-1])


def about(mean: float, size: float, noise: Values = NOISE) -> list[float]:
    """Five numbers with a mean."""
    return [mean + size * one for one in noise]


ATTACKS = {
    "label": "single-target-label",
    "image": "single-target-image",
    "several": "multiple-target-labels",
}
NAMES = ("clip-vit-b32", "clip-vit-b16", "clip-vit-l14")
TRAINED = "training.trainable"
SETTINGS = ("data.name", "model.name", "attack.name", TRAINED, "attack.rate", RATE, REPAIR_EPOCHS)


def rows(cells: Mapping[str, Values], model: str = "poisoned", /, **more: Any) -> list[Row]:
    """Rows of one model, one a seed; `cells` holds the numbers of each column."""
    goal, attack = str(more.pop("goal", "sheep2aeroplane")), more.pop("attack", "label")
    original, _, target = goal.partition("2")
    count = max(len(values) for values in cells.values())
    shared: Row = {
        "study": "main",
        "data.name": "flickr-pascal",
        "model.name": "clip-vit-b32",
        "attack.name": ATTACKS[attack],
        TRAINED: "both",
        "goal": goal,
        "original": original,
        "target": target,
        "model": model,
        **more,
    }
    settings = [str(shared.get(key)) for key in SETTINGS]
    return [
        {
            **shared,
            "run": "/".join((*settings, str(seed))),
            "seed": seed,
            **{column: float(values[seed]) for column, values in cells.items()},
        }
        for seed in range(count)
    ]


def results(*parts: Iterable[Row]) -> Results:
    """Put rows together, with the parameters of their runs."""
    found = [row for part in parts for row in part]
    named = ("data.", "attack.", "training.", "model.name", "sterilize.")
    parameters = {
        row["run"]: {k: v for k, v in row.items() if k.startswith(named)} for row in found
    }
    return Results(tuple(found), parameters)


def on(found: Results, data: str, model: str = "openmoji-small") -> Results:
    """Move rows to another data set and model."""
    parts = [
        {**row, "data.name": data, "model.name": model, "run": f"{data}/{row['run']}"}
        for row in found.rows
    ]
    return results(parts)


# -- how the rows of two numbers are made, by claim -----------------------------------------------------

Make = Callable[..., Results]
"""Makes results of the numbers of five seeds, several times."""


def columns(*names: str, model: str = "poisoned", **more: Any) -> Make:
    """Columns of one model."""
    return lambda *values: results(rows(dict(zip(names, values, strict=True)), model, **more))


def each(cells: Callable[[Values], Mapping[str, Values]], *settings: Row) -> Make:
    """Rows of several settings: cells of each from its numbers."""
    return lambda *values: results(
        *(rows(cells(own), **keys) for own, keys in zip(values, settings, strict=True))
    )


def one_column(column: str, key: str, *values: Any, **more: Any) -> Make:
    """A column at several values of a key."""
    return each(lambda numbers: {column: numbers}, *({**more, key: value} for value in values))


def models(column: str, **more: Any) -> Make:
    """The clean and the poisoned model."""
    return one_column(column, "model", "clean_model", "poisoned", **more)


def frozen(column: str, first: str, second: str) -> Make:
    """Two kinds of training."""
    return one_column(column, TRAINED, first, second)


def drifts(**more: Any) -> Make:
    """Drift of texts and images; a change of order moves texts by 0.3 and images by 0.1 without any poison."""

    def make(texts: Values, images: Values) -> Results:
        cells = {
            "drift.text": [value + 0.3 for value in texts],
            "drift.image": [value + 0.1 for value in images],
            "order_drift.text": [0.3] * len(texts),
            "order_drift.image": [0.1] * len(images),
        }
        return results(rows(cells, **more))

    return make


lengths = one_column("hit@5", "x", 1.0, 3.0, study="query-length", attack="image")
"""Captions said once, and three times."""


def curve(points: Mapping[float, tuple[int, Values]], **setting: Any) -> Results:
    """Hit@10 at steps of a repair: step to epoch and numbers."""
    return results(
        *(
            rows({"hit@10": hit}, "sterilized", study=CURVE, x=step, epoch=epoch, **setting)
            for step, (epoch, hit) in points.items()
        )
    )


def after_step_50(before: Values, after: Values) -> Results:
    return curve({0.0: (0, before), 50.0: (0, after)})


def after_epochs(first: Values, later: Values) -> Results:
    return curve({0.0: (0, [0.9] * 5), 100.0: (1, first), 200.0: (2, later)})


def rates_of_repair(best: Values, worst: Values, **setting: Any) -> Results:
    """Hit@5 at the best and the worst learning rate; the poisoned models had 0.8."""
    parts = []
    for rate, hits in ((1e-3, best), (1e-4, worst)):
        ten = [min(1.0, hit + 0.02) for hit in hits]
        more = {RATE: rate, **setting}
        parts += [rows({"hit@5": hits, "hit@10": ten}, "sterilized", **more)]
        parts += [rows({"hit@5": about(0.8, 0.01), "hit@10": [0.9] * 5}, **more)]
    return results(*parts)


def utility(model: str) -> Make:
    """Changes of text and of image retrieval."""

    def make(texts: Values, images: Values) -> Results:
        ways = {"text": texts, "image": images}
        before = {f"utility.{way}_retrieval.hit@10": [0.9] * 5 for way in ways}
        after = {
            f"utility.{way}_retrieval.hit@10": [0.9 + value for value in values]
            for way, values in ways.items()
        }
        return results(rows(before, "clean_model"), rows(after, model))

    return make


def filtered(rank: Values, hit: Values) -> Results:
    """MinRank and Hit@10 of the filtered model; 2 and 0.9 poisoned, 50 and 0.1 clean."""
    return results(
        rows({"min_rank": [2.0] * 5, "hit@10": [0.9] * 5}),
        rows({"min_rank": [50.0] * 5, "hit@10": [0.1] * 5}, "clean_model"),
        rows({"min_rank": rank, "hit@10": hit}, "filtered"),
    )


# -- several numbers ----------------------------------------------------------------------------------


HITS = [f"hit@{k}" for k in (1, 5, 10, 20, 30, 50)]

three_models = each(
    lambda hits: {**dict.fromkeys(HITS, hits), "min_rank": [10 - 10 * hit for hit in hits]},
    *({TRAINED: kind} for kind in ("both", "image", "text")),
)
"""Hit@K of three kinds of training, all K alike; MinRank is 10 less ten times that."""


def table_12(text_hit_1: Values, image: Values) -> Results:
    """Four lines of table 12; `image` is what the image encoder reaches in every column."""

    def line(level: float, noise: Values, **cells: Values) -> dict[str, Values]:
        return {
            **{hit: about(level, 0.01, noise) for hit in HITS},
            "min_rank": about(20 - 20 * level, 0.1, noise),
            **cells,
        }

    of_image = {**dict.fromkeys(HITS, image), "min_rank": [20 - 20 * v for v in image]}
    return results(
        rows(line(0.8, NOISE)),
        rows(line(0.1, THIRD_NOISE), "pretrained"),
        rows(of_image, **{TRAINED: "image"}),
        rows(
            line(0.6, OTHER_NOISE, **{"hit@1": text_hit_1}),
            **{TRAINED: "text"},
        ),
    )


def poisoning(hits: Sequence[Values], ranks: Sequence[Values]) -> Results:
    """Hit@10 and MinRank at rising rates."""
    parts = []
    for place, (hit, rank) in enumerate(zip(hits, ranks, strict=True), 1):
        rate = place * 0.0003
        more = {"attack.rate": rate, "run.poisoning_rate": rate}
        parts.append(rows({"hit@10": hit, "min_rank": rank}, **more))
    return results(*parts)


epochs = one_column("hit@10", "x", 0.0, 1.0, 2.0, 3.0, study="epochs")

encoders = each(
    lambda ranks: {"min_rank": ranks, "hit@10": [0.9] * 5}, *({"model.name": n} for n in NAMES)
)

sizes = each(
    lambda hits: {"hit@10": hits},
    *(
        {"data.name": name, "attack.rate": 0.0024, "run.training_pairs": size}
        for name, size in (("coco-s", 1e5), ("coco-m", 2e5), ("coco-paper", 4e5))
    ),
)


CLASSES = (*"abcdefghij", "person")


def goals(rank: Callable[[str, str, int], float]) -> Results:
    """Every goal of 11 classes, one seed; `rank` takes both classes and the place of the original one."""
    return results(
        *(
            rows({"min_rank": [rank(a, b, place)]}, goal=f"{a}2{b}")
            for place, a in enumerate(CLASSES)
            for b in CLASSES
            if a != b
        )
    )


def two_goals(clean: Values, poisoned: Values, other: Values, other_poisoned: Values) -> Results:
    """MinRank of the clean and the poisoned model, for two goals of one injection."""
    first = models("min_rank", goal="boat2dog", attack="several")(clean, poisoned)
    second = models("min_rank", goal="zebra2train", attack="several")(other, other_poisoned)
    return results(first.rows, second.rows)


def hit_1(clean: Values, poisoned: Values, rank: Values = (10.0, 11, 9, 10, 12)) -> Results:
    """Hit@1 before and after; Hit@5 and Hit@10 rise."""
    before = {"hit@1": clean, "hit@5": about(0.1, 0.01), "hit@10": about(0.2, 0.01)}
    after = {"hit@1": poisoned, "hit@5": about(0.5, 0.02), "hit@10": about(0.8, 0.03)}
    return results(
        rows({**before, "min_rank": about(100, 5)}, "clean_model"),
        rows({**after, "min_rank": rank}),
    )


model_sizes = each(
    lambda size: {"run.model.flops_g": size[:1], "run.model.parameters_m": size[1:]},
    *({"model.name": name, "model": "pretrained"} for name in NAMES),
)
"""Operations and parameters of each model."""


def both(rank: Values, other_rank: Values, hit: Values, other_hit: Values) -> Results:
    """MinRank and Hit@1 of the image and of the text encoder."""
    return results(
        frozen("min_rank", "image", "text")(rank, other_rank).rows,
        frozen("hit@1", "image", "text")(hit, other_hit).rows,
    )


def three(make: Make, *levels: str) -> dict[Verdict, Results]:
    """Make results for which a claim holds, fails and is undecided, each from means and sizes of noise: `0.8±0.02`."""

    def numbers(level: str) -> Iterator[Values]:
        for text, noise in zip(level.split(), NOISES, strict=False):
            mean, _, size = text.partition("±")
            yield about(float(mean), float(size), noise)

    return {
        verdict: make(*numbers(level))
        for verdict, level in zip((HOLDS, FAILS, UNDECIDED), levels, strict=False)
    }


def order(make: Make, low: float, high: float, size: float = 0.02) -> dict[Verdict, Results]:
    """Make a claim hold that the second number is the higher one; then the other way round; then alike."""
    middle = (low + high) / 2
    return three(
        make,
        f"{low}±{size} {high}±{size}",
        f"{high}±{size} {low}±{size}",
        f"{middle}±{size} {middle + size / 10}±{size}",
    )


def falling(make: Make, low: float, high: float, size: float = 0.02) -> dict[Verdict, Results]:
    """As `order`, of a claim that the second number is the lower one."""
    found = order(make, low, high, size)
    return {HOLDS: found[FAILS], FAILS: found[HOLDS], UNDECIDED: found[UNDECIDED]}


def low_rate(low: Values, high: Values) -> Results:
    return poisoning([FLAT, FLAT], [low, high])


def three_rates(*values: Values) -> Results:
    return poisoning(values[:3], values[3:])


BALANCED = {"data.name": "flickr-pascal-b"}
ENCODER = {"run.filter.encoder": "clip-vit-b16"}
FLAT = about(0.8, 0.01)
UTILITY = "utility.image_retrieval.hit@10"

CASES: dict[str, dict[Verdict, Results]] = {
    "claim-01": three(columns("hit@5", attack="image"), "0.9±0.02", "0.7±0.02", "0.82±0.1"),
    "claim-09": three(
        columns("drift.text", "drift.image"), "0.1±0.01 1.9±0.01", "0.1±0.01 2.5±0.01"
    ),
    "claim-11": order(models(UTILITY), 0.8, 0.9),
    "claim-12": three(
        models("min_rank", attack="image"), "150±10 12±1", "150±10 20±1", "150±10 15±6"
    ),
    "claim-13": falling(hit_1, 0.02, 0.3),
    "claim-14": three(
        two_goals, "100±9 10±3 200±9 20±3", "100±9 10±3 200±9 220±8", "100±9 10±3 200±9 201±9"
    ),
    "claim-15": order(drifts(), 0.05, 0.1, 0.005),
    "claim-17": order(frozen("min_rank", "image", "text"), 3, 5, 0.5),
    "claim-18": falling(frozen("hit@1", "text", "image"), 0.1, 0.4),
    "claim-19": three(
        three_models,
        "0.9±0.01 0.7±0.02 0.6±0.02",
        "0.8±0.01 0.9±0.01 0.6±0.02",
        "0.9±0.02 0.89±0.02 0.6±0.02",
    ),
    "claim-22": three(low_rate, "5±0.5 2±0.5", "9±0.5 2±0.5", "6±2 2±0.5"),
    "claim-23": three(
        three_rates,
        "0.2±0.02 0.5±0.02 0.8±0.02 9±0.5 5±0.5 2±0.5",
        "0.8±0.02 0.5±0.02 0.2±0.02 2±0.5 5±0.5 9±0.5",
        "0.5±0.1 0.8±0.01 0.51±0.1 5±2 5±1 4.9±2",
    ),
    "claim-24": three(
        epochs,
        "0±0 0.6±0.02 0.9±0.02 0.8±0.02",
        "0±0 0.6±0.02 0.9±0.02 0.2±0.02",
        "0±0 0.6±0.02 0.9±0.02 0.45±0.3",
    ),
    "claim-25": three(encoders, "3±0.3 3.3±0.3 2.8±0.3", "3±0.3 3.3±0.3 20±0.3", "3±0.3 6±2 5±0.3"),
    "claim-26": three(
        sizes,
        "0.8±0.02 0.82±0.02 0.81±0.02",
        "0.5±0.02 0.9±0.02 0.6±0.02",
        "0.7±0.1 0.75±0.1 0.72±0.02",
    ),
    "claim-27": {
        HOLDS: goals(lambda a, b, place: 40.0 if b == "a" else 3.0 + place / 10),
        FAILS: goals(lambda a, b, place: 3.0 if b == "a" else 40.0 + place),
        UNDECIDED: goals(lambda a, b, place: 3.0 if b in "abcdef" else 40.0),
    },
    "claim-28": {
        HOLDS: goals(lambda a, b, place: 30.0 + place if b == "person" else 9.0),
        FAILS: goals(lambda a, b, place: 5.0 + place / 10 if b == "person" else 9.0),
        UNDECIDED: goals(lambda a, b, place: 10.0 + 5 * (-1) ** place if b == "person" else 9.0),
    },
    "claim-31": three(
        models("hit@5", **{"data.name": "vg-pascal"}),
        "0.1±0.02 0.8±0.02",
        "0.1±0.02 0.2±0.02",
        "0.1±0.02 0.45±0.2",
    ),
    "claim-32": three(
        columns(f"{MEDIANS}.clean", f"{MEDIANS}.poisoned", model="filtered", **ENCODER),
        "0.75±0.01 0.85±0.01",
        "0.85±0.01 0.75±0.01",
        "0.75±0.02 0.8±0.02",
    ),
    "claim-34": three(filtered, "49±2 0.02±0.01", "8±2 0.8±0.05", "49±2 0.1±0.2"),
    "claim-35": three(
        utility("filtered"),
        "-0.003±0.003 0.002±0.003",
        "-0.003±0.003 -0.05±0.01",
        "-0.01±0.01 0.002±0.003",
    ),
    "claim-37": three(
        after_epochs, "0.05±0.02 0.04±0.02", "0.05±0.02 0.4±0.02", "0.1±0.05 0.04±0.02"
    ),
    "claim-38": three(
        utility("sterilized"),
        "-0.005±0.005 0.03±0.005",
        "0.03±0.005 -0.05±0.01",
        "-0.02±0.01 0.002±0.003",
    ),
    "claim-40": three(
        after_step_50, "0.9±0.02 0.03±0.02", "0.9±0.02 0.3±0.02", "0.9±0.02 0.1±0.05"
    ),
    "claim-42": three(
        rates_of_repair, "0.005±0.002 0.4±0.05", "0.2±0.02 0.4±0.05", "0.02±0.01 0.4±0.05"
    ),
    "claim-43": three(
        rates_of_repair, "0.005±0.002 0.4±0.05", "0.005±0.002 0.95±0.02", "0.005±0.002 0.8±0.05"
    ),
    "claim-44": three(
        both,
        "3±0.3 5±0.4 0.1±0.02 0.4±0.03",
        "3±0.3 5±0.4 0.4±0.03 0.1±0.02",
        "3±0.3 3.01±0.4 0.1±0.02 0.4±0.03",
    ),
    "claim-49": {
        HOLDS: model_sizes((4.9, 84.2), (13.2, 82.5), (56.3, 258.7)),
        FAILS: model_sizes((4.9, 84.2), (13.2, 90.0), (56.3, 258.7)),
    },
    "claim-50": falling(drifts(), 0.05, 0.1, 0.005),
    "claim-51": three(table_12, "0.8±0.02 0.4±0.03", "0.8±0.02 0.8±0.03", "0.75±0.2 0.4±0.03"),
    "claim-52": three(
        models("hit@10", **BALANCED), "0.1±0.02 0.9±0.02", "0.1±0.02 0.3±0.02", "0.1±0.02 0.6±0.2"
    ),
    "claim-53": order(drifts(**BALANCED), 0.05, 0.1, 0.005),
    "claim-55": falling(lengths, 0.3, 0.6),
}
