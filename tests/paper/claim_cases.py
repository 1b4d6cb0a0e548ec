"""Made-up results for each claim's rule: some for which it holds, some for which it does not, some between."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mmpoison.paper.claim import FAILS, HOLDS, UNDECIDED, Verdict
from mmpoison.paper.measured import CURVE
from mmpoison.paper.tables import RATE
from mmpoison.reporting.results import Results

REPAIR_EPOCHS = "sterilize.training.epochs"

Row = dict[str, Any]
Values = Sequence[float]

NOISE = (0.4, -0.6, 0.1, -0.3, 0.4)
"""What differs between five seeds; the mean is 0."""
OTHER_NOISE = (-0.7, 0.2, 0.5, 0.4, -0.4)
THIRD_NOISE = (0.3, 0.5, -0.2, -0.8, 0.2)


def about(mean: float, size: float, noise: Values = NOISE) -> list[float]:
    """Five numbers with a mean."""
    return [mean + size * one for one in noise]


def rows(cells: Mapping[str, Values], model: str = "poisoned", /, **more: Any) -> list[Row]:
    """Rows of one model, one a seed; `cells` holds the numbers of each column."""
    attacks = {
        "label": "single-target-label",
        "image": "single-target-image",
        "several": "multiple-target-labels",
    }
    goal, attack = str(more.pop("goal", "sheep2aeroplane")), more.pop("attack", "label")
    original, _, target = goal.partition("2")
    count = max(len(values) for values in cells.values())
    shared: Row = {
        "study": "main",
        "data.name": "flickr-pascal",
        "model.name": "clip-vit-b32",
        "attack.name": attacks[attack],
        "training.trainable": "both",
        "goal": goal,
        "original": original,
        "target": target,
        "model": model,
        **more,
    }
    settings = [
        str(shared.get(key))
        for key in (
            "data.name",
            "model.name",
            "attack.name",
            "training.trainable",
            "attack.rate",
            RATE,
            REPAIR_EPOCHS,
        )
    ]
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


# -- how the rows of two numbers are made, by claim -----------------------------------------------------

Two = Callable[[Values, Values], Results]


def models(column: str, **more: Any) -> Two:
    """The clean and the poisoned model."""
    return lambda clean, poisoned: results(
        rows({column: clean}, "clean_model", **more), rows({column: poisoned}, **more)
    )


def frozen(column: str, first: str, second: str) -> Two:
    """Two kinds of training."""

    def make(one: Values, other: Values) -> Results:
        kinds = {first: one, second: other}
        return results(
            *(rows({column: v}, **{"training.trainable": kind}) for kind, v in kinds.items())
        )

    return make


def drifts(**more: Any) -> Two:
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


def lengths(once: Values, thrice: Values) -> Results:
    said = {1.0: once, 3.0: thrice}
    study = {"study": "query-length", "attack": "image"}
    return results(*(rows({"hit@5": values}, x=x, **study) for x, values in said.items()))


def medians(clean: Values, poisoned: Values) -> Results:
    cells = {"run.filter.median.clean": clean, "run.filter.median.poisoned": poisoned}
    return results(rows(cells, "filtered", **{"run.filter.encoder": "clip-vit-b16"}))


def transferred(clean: Values, poisoned: Values) -> Results:
    on = {"data.name": "vg-pascal"}
    return models("hit@5", **on)(clean, poisoned)


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


def utility(model: str) -> Two:
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


def three_models(both: Values, image: Values, text: Values) -> Results:
    """Hit@K of three kinds of training, all K alike; MinRank is 10 less ten times that."""
    kinds = {"both": both, "image": image, "text": text}
    hits = [f"hit@{k}" for k in (1, 5, 10, 20, 30, 50)]
    return results(
        *(
            rows(
                {
                    **dict.fromkeys(hits, values),
                    "min_rank": [10 - 10 * value for value in values],
                },
                **{"training.trainable": kind},
            )
            for kind, values in kinds.items()
        )
    )


def table_12(text_hit_1: Values, image: Values) -> Results:
    """Four lines of table 12; `image` is what the image encoder reaches in every column."""
    hits = [f"hit@{k}" for k in (1, 5, 10, 20, 30, 50)]

    def line(level: float, noise: Values, **cells: Values) -> dict[str, Values]:
        return {
            **{hit: about(level, 0.01, noise) for hit in hits},
            "min_rank": about(20 - 20 * level, 0.1, noise),
            **cells,
        }

    of_image = {**dict.fromkeys(hits, image), "min_rank": [20 - 20 * v for v in image]}
    return results(
        rows(line(0.8, NOISE)),
        rows(line(0.1, THIRD_NOISE), "pretrained"),
        rows(of_image, **{"training.trainable": "image"}),
        rows(
            line(0.6, OTHER_NOISE, **{"hit@1": text_hit_1}),
            **{"training.trainable": "text"},
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


def epochs(*hits: Values) -> Results:
    return results(
        *(rows({"hit@10": hit}, study="epochs", x=float(x)) for x, hit in enumerate(hits))
    )


def encoders(*ranks: Values) -> Results:
    names = ("clip-vit-b32", "clip-vit-b16", "clip-vit-l14")
    return results(
        *(
            rows({"min_rank": rank, "hit@10": [0.9] * 5}, **{"model.name": name})
            for name, rank in zip(names, ranks, strict=False)
        )
    )


def sizes(*hits: Values) -> Results:
    names = ("coco-s", "coco-m", "coco-paper")
    return results(
        *(
            rows(
                {"hit@10": hit},
                **{"data.name": name, "attack.rate": 0.0024, "run.training_pairs": size},
            )
            for name, size, hit in zip(names, (1e5, 2e5, 4e5), hits, strict=True)
        )
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


def two_goals(first: tuple[Values, Values], second: tuple[Values, Values]) -> Results:
    """MinRank of the clean and the poisoned model, for two goals of one injection."""
    parts = []
    for goal, (clean, poisoned) in (("boat2dog", first), ("zebra2train", second)):
        more = {"goal": goal, "attack": "several"}
        parts += [rows({"min_rank": clean}, "clean_model", **more)]
        parts += [rows({"min_rank": poisoned}, **more)]
    return results(*parts)


def hit_1(clean: Values, poisoned: Values, rank: Values = (10.0, 11, 9, 10, 12)) -> Results:
    """Hit@1 before and after; Hit@5 and Hit@10 rise."""
    before = {"hit@1": clean, "hit@5": about(0.1, 0.01), "hit@10": about(0.2, 0.01)}
    after = {"hit@1": poisoned, "hit@5": about(0.5, 0.02), "hit@10": about(0.8, 0.03)}
    return results(
        rows({**before, "min_rank": about(100, 5)}, "clean_model"),
        rows({**after, "min_rank": rank}),
    )


def model_sizes(
    *sizes: tuple[float, float],
) -> Results:
    names = ("clip-vit-b32", "clip-vit-b16", "clip-vit-l14")
    return results(
        *(
            rows(
                {"run.model.flops_g": [flops], "run.model.parameters_m": [parameters]},
                "pretrained",
                **{"model.name": name},
            )
            for name, (flops, parameters) in zip(names, sizes, strict=True)
        )
    )


def pair(
    make: Two, low: float, high: float, size: float = 0.02
) -> tuple[Results, Results, Results]:
    """Two numbers, the first low and the second high; then the other way round; then alike, with other noise."""
    middle = (low + high) / 2
    return (
        make(about(low, size), about(high, size, OTHER_NOISE)),
        make(about(high, size), about(low, size, OTHER_NOISE)),
        make(about(middle, size), about(middle + size / 10, size, OTHER_NOISE)),
    )


def of(made: tuple[Results, Results, Results], first: Verdict = HOLDS) -> dict[Verdict, Results]:
    """Name the three of `pair` by the verdict that they must have; `first` is that of low to high."""
    second = FAILS if first is HOLDS else HOLDS
    return dict(zip((first, second, UNDECIDED), made, strict=True))


BALANCED = {"data.name": "flickr-pascal-b"}
FLAT = about(0.8, 0.01)

CASES: dict[str, dict[Verdict, Results]] = {
    "claim-01": {
        HOLDS: results(rows({"hit@5": about(0.9, 0.02)}, attack="image")),
        FAILS: results(rows({"hit@5": about(0.7, 0.02)}, attack="image")),
        UNDECIDED: results(rows({"hit@5": about(0.82, 0.1)}, attack="image")),
    },
    "claim-09": {
        HOLDS: results(rows({"drift.text": about(0.1, 0.01), "drift.image": about(1.9, 0.01)})),
        FAILS: results(rows({"drift.text": about(0.1, 0.01), "drift.image": about(2.5, 0.01)})),
    },
    "claim-11": of(pair(models("utility.image_retrieval.hit@10"), 0.8, 0.9)),
    "claim-12": {
        HOLDS: models("min_rank", attack="image")(about(150, 10), about(12, 1)),
        FAILS: models("min_rank", attack="image")(about(150, 10), about(20, 1)),
        UNDECIDED: models("min_rank", attack="image")(about(150, 10), about(15, 6)),
    },
    "claim-13": of(pair(hit_1, 0.02, 0.3), FAILS),
    "claim-14": {
        HOLDS: two_goals((about(100, 9), about(10, 3)), (about(200, 9), about(20, 3))),
        FAILS: two_goals(
            (about(100, 9), about(10, 3)), (about(200, 9), about(220, 8, OTHER_NOISE))
        ),
        UNDECIDED: two_goals(
            (about(100, 9), about(10, 3)), (about(200, 9), about(201, 9, OTHER_NOISE))
        ),
    },
    "claim-15": of(pair(drifts(), 0.05, 0.1, 0.005)),
    "claim-17": of(pair(frozen("min_rank", "image", "text"), 3, 5, 0.5)),
    "claim-18": of(pair(frozen("hit@1", "text", "image"), 0.1, 0.4), FAILS),
    "claim-19": {
        HOLDS: three_models(about(0.9, 0.01), about(0.7, 0.02, OTHER_NOISE), about(0.6, 0.02)),
        FAILS: three_models(about(0.8, 0.01), about(0.9, 0.01, OTHER_NOISE), about(0.6, 0.02)),
        UNDECIDED: three_models(about(0.9, 0.02), about(0.89, 0.02, OTHER_NOISE), about(0.6, 0.02)),
    },
    "claim-22": {
        HOLDS: poisoning([FLAT, FLAT], [about(5, 0.5), about(2, 0.5)]),
        FAILS: poisoning([FLAT, FLAT], [about(9, 0.5), about(2, 0.5)]),
        UNDECIDED: poisoning([FLAT, FLAT], [about(6, 2), about(2, 0.5)]),
    },
    "claim-23": {
        HOLDS: poisoning(
            [about(0.2, 0.02), about(0.5, 0.02), about(0.8, 0.02, OTHER_NOISE)],
            [about(9, 0.5), about(5, 0.5), about(2, 0.5, OTHER_NOISE)],
        ),
        FAILS: poisoning(
            [about(0.8, 0.02), about(0.5, 0.02), about(0.2, 0.02, OTHER_NOISE)],
            [about(2, 0.5), about(5, 0.5), about(9, 0.5, OTHER_NOISE)],
        ),
        UNDECIDED: poisoning(
            [about(0.5, 0.1), FLAT, about(0.51, 0.1, OTHER_NOISE)],
            [about(5, 2), about(5, 1), about(4.9, 2, OTHER_NOISE)],
        ),
    },
    "claim-24": {
        HOLDS: epochs([0.0] * 5, about(0.6, 0.02), about(0.9, 0.02), about(0.8, 0.02)),
        FAILS: epochs([0.0] * 5, about(0.6, 0.02), about(0.9, 0.02), about(0.2, 0.02)),
        UNDECIDED: epochs([0.0] * 5, about(0.6, 0.02), about(0.9, 0.02), about(0.45, 0.3)),
    },
    "claim-25": {
        HOLDS: encoders(about(3, 0.3), about(3.3, 0.3, OTHER_NOISE), about(2.8, 0.3)),
        FAILS: encoders(about(3, 0.3), about(3.3, 0.3, OTHER_NOISE), about(20, 0.3)),
        UNDECIDED: encoders(about(3, 0.3), about(6, 2, OTHER_NOISE), about(5, 0.3)),
    },
    "claim-26": {
        HOLDS: sizes(about(0.8, 0.02), about(0.82, 0.02, OTHER_NOISE), about(0.81, 0.02)),
        FAILS: sizes(about(0.5, 0.02), about(0.9, 0.02, OTHER_NOISE), about(0.6, 0.02)),
        UNDECIDED: sizes(about(0.7, 0.1), about(0.75, 0.1, OTHER_NOISE), about(0.72, 0.02)),
    },
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
    "claim-31": {
        HOLDS: transferred(about(0.1, 0.02), about(0.8, 0.02)),
        FAILS: transferred(about(0.1, 0.02), about(0.2, 0.02)),
        UNDECIDED: transferred(about(0.1, 0.02), about(0.45, 0.2)),
    },
    "claim-32": {
        HOLDS: medians(about(0.75, 0.01), about(0.85, 0.01, OTHER_NOISE)),
        FAILS: medians(about(0.85, 0.01), about(0.75, 0.01, OTHER_NOISE)),
        UNDECIDED: medians(about(0.75, 0.02), about(0.8, 0.02, OTHER_NOISE)),
    },
    "claim-34": {
        HOLDS: filtered(about(49, 2), about(0.02, 0.01)),
        FAILS: filtered(about(8, 2), about(0.8, 0.05)),
        UNDECIDED: filtered(about(49, 2), about(0.1, 0.2)),
    },
    "claim-35": {
        HOLDS: utility("filtered")(about(-0.003, 0.003), about(0.002, 0.003)),
        FAILS: utility("filtered")(about(-0.003, 0.003), about(-0.05, 0.01)),
        UNDECIDED: utility("filtered")(about(-0.01, 0.01), about(0.002, 0.003)),
    },
    "claim-37": {
        HOLDS: after_epochs(about(0.05, 0.02), about(0.04, 0.02)),
        FAILS: after_epochs(about(0.05, 0.02), about(0.4, 0.02)),
        UNDECIDED: after_epochs(about(0.1, 0.05), about(0.04, 0.02)),
    },
    "claim-38": {
        HOLDS: utility("sterilized")(about(-0.005, 0.005), about(0.03, 0.005)),
        FAILS: utility("sterilized")(about(0.03, 0.005), about(-0.05, 0.01)),
        UNDECIDED: utility("sterilized")(about(-0.02, 0.01), about(0.002, 0.003)),
    },
    "claim-40": {
        HOLDS: after_step_50(about(0.9, 0.02), about(0.03, 0.02)),
        FAILS: after_step_50(about(0.9, 0.02), about(0.3, 0.02)),
        UNDECIDED: after_step_50(about(0.9, 0.02), about(0.1, 0.05)),
    },
    "claim-42": {
        HOLDS: rates_of_repair(about(0.005, 0.002), about(0.4, 0.05)),
        FAILS: rates_of_repair(about(0.2, 0.02), about(0.4, 0.05)),
        UNDECIDED: rates_of_repair(about(0.02, 0.01), about(0.4, 0.05)),
    },
    "claim-43": {
        HOLDS: rates_of_repair(about(0.005, 0.002), about(0.4, 0.05)),
        FAILS: rates_of_repair(about(0.005, 0.002), about(0.95, 0.02, OTHER_NOISE)),
        UNDECIDED: rates_of_repair(about(0.005, 0.002), about(0.8, 0.05, OTHER_NOISE)),
    },
    "claim-49": {
        HOLDS: model_sizes((4.9, 84.2), (13.2, 82.5), (56.3, 258.7)),
        FAILS: model_sizes((4.9, 84.2), (13.2, 90.0), (56.3, 258.7)),
    },
    "claim-50": of(pair(drifts(), 0.05, 0.1, 0.005), FAILS),
    "claim-51": {
        HOLDS: table_12(about(0.8, 0.02, OTHER_NOISE), about(0.4, 0.03, NOISE[::-1])),
        FAILS: table_12(about(0.8, 0.02, OTHER_NOISE), about(0.8, 0.03, NOISE[::-1])),
        UNDECIDED: table_12(about(0.75, 0.2, OTHER_NOISE), about(0.4, 0.03, NOISE[::-1])),
    },
    "claim-52": {
        HOLDS: models("hit@10", **BALANCED)(about(0.1, 0.02), about(0.9, 0.02)),
        FAILS: models("hit@10", **BALANCED)(about(0.1, 0.02), about(0.3, 0.02)),
        UNDECIDED: models("hit@10", **BALANCED)(about(0.1, 0.02), about(0.6, 0.2)),
    },
    "claim-53": of(pair(drifts(**BALANCED), 0.05, 0.1, 0.005)),
    "claim-55": of(pair(lengths, 0.3, 0.6), FAILS),
}


def both(rank: tuple[Values, Values], hit: tuple[Values, Values]) -> Results:
    """Claim 44: MinRank and Hit@1 of the image and of the text encoder."""
    return results(
        *(
            rows({"min_rank": r, "hit@1": h}, **{"training.trainable": kind})
            for kind, r, h in zip(("image", "text"), rank, hit, strict=True)
        )
    )


LOW, HIGH = about(0.1, 0.02), about(0.4, 0.03, OTHER_NOISE)
CASES["claim-44"] = {
    HOLDS: both((about(3, 0.3), about(5, 0.4, OTHER_NOISE)), (LOW, HIGH)),
    FAILS: both((about(3, 0.3), about(5, 0.4, OTHER_NOISE)), (HIGH, LOW)),
    UNDECIDED: both((about(3, 0.3), about(3.01, 0.4, OTHER_NOISE)), (LOW, HIGH)),
}
