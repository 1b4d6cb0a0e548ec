"""The result as one page: no script, no request, every string escaped."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from mmpoison.errors import InputError
from mmpoison.files import atomic_file, read_json
from mmpoison.reporting import _map, _text
from mmpoison.reporting._seeds import metrics_tables
from mmpoison.reporting._summary import (
    MODELS,
    RANK_LIST_MODELS,
    Model,
    flags,
    goal_title,
    goals,
    headline,
    section,
)
from mmpoison.reporting._table import cell_texts

_THUMBNAIL = re.compile(r"data:image/(?:jpeg|png|webp|gif);base64,[A-Za-z0-9+/]+={0,2}")
_MODES = {
    "add": "added to the clean pairs",
    "replace": "in place of the clean pairs they came from",
}


@dataclass(frozen=True)
class Row:
    """One model's numbers for one goal."""

    model: Model
    goal: Mapping[str, Any]
    image_retrieval: Mapping[str, Any]
    text_retrieval: Mapping[str, Any]
    ranks: Mapping[str, Any]

    @property
    def bar(self) -> float | None:
        """Hit@10 as a length between 0 and 1, where there is one."""
        value = _text.as_number(self.goal.get("hit@10"))
        return None if value is None or not 0 <= value <= 1 else round(value, 4)

    def interval(self, key: str, digits: int) -> str:
        """The 95 % interval of a figure, clustered by image, where there is one."""
        ends = section(self.ranks, "interval").get(key)
        if not isinstance(ends, list) or len(ends) != 2:
            return _text.ABSENT
        return "\N{EN DASH}".join(_text.decimal(end, digits) for end in ends)


def render_html(run: Path) -> str:
    """The page of a finished run.

    Args:
        run: The run folder; of its files only metrics.json must exist.

    Raises:
        InputError: If one of its files is broken, or metrics.json is missing.
    """
    metrics = _object(run / "metrics.json")
    about = section(metrics, "run")
    ranked = _object(run / "rank_lists.json") if (run / "rank_lists.json").exists() else {}
    thumbnails = _thumbnails(ranked.get("thumbnails"))
    environment = Environment(
        loader=PackageLoader("mmpoison.reporting", "templates"),
        autoescape=True,  # always: the templates' names end in .j2, by which no default would do it
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("decimal", "short", "count", "percent", "seconds"):
        environment.filters[name] = getattr(_text, name)
    environment.filters["number"] = _text.as_number
    environment.filters["goal_title"] = goal_title
    names = goals(metrics)
    return environment.get_template("report.html.j2").render(
        absent=_text.ABSENT,
        title=", ".join(goal_title(goal) for goal in names) or "no goal",
        headline=headline(metrics),
        flags=flags(metrics),
        tables=[(goal, _rows(metrics, goal)) for goal in names or [""]],
        mode=_MODES.get(str(about.get("mode")), about.get("mode")),
        rank_goals=_rank_goals(ranked),
        queries=[_query(query, thumbnails) for query in _list(ranked.get("queries"))],
        drift=section(metrics, "drift"),
        studies=_studies(metrics),
        maps=_maps(run / "embedding_map.json", names),
        map_goal=names[0] if names else "",
        side=_map.SIDE,
        filter=section(about, "filter"),
        sterilize=section(about, "sterilize"),
        suspicious=_suspicious(run / "suspicious_pairs.json", thumbnails),
        run=about,
        data=section(about, "data"),
        seconds=section(about, "seconds"),
        versions=section(about, "versions"),
        recipe_text=_recipe(run / "recipe.yaml"),
    )


def write_report(run: Path) -> Path:
    """Write `report.html` into the run folder and return its path.

    Raises:
        InputError: If one of the run's files is broken, or metrics.json is missing.
    """
    page = render_html(run)
    target = run / "report.html"
    with atomic_file(target) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return target


def _object(path: Path) -> Mapping[str, Any]:
    value = _text.clean(read_json(path))
    if not isinstance(value, Mapping):
        raise InputError(f"{path}: must hold a JSON object, not a {type(value).__name__}")
    return value


def _list(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _rows(metrics: Mapping[str, Any], goal: str) -> list[Row]:
    measured = section(section(metrics, "goal"), goal)
    utility = section(metrics, "utility")
    return [
        Row(
            model,
            section(measured, model.key),
            section(section(utility, model.key), "image_retrieval"),
            section(section(utility, model.key), "text_retrieval"),
            section(section(section(metrics, "ranks"), goal), model.key),
        )
        for model in MODELS
    ]


def _studies(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What is measured beyond the main table and the drift, as text."""
    return [
        {
            "title": table.title,
            "note": table.note,
            # one run: no n
            "columns": [column.name for column in table.columns if column.name != "n"],
            "rows": [
                [
                    text
                    for text, column in zip(
                        cell_texts(row, table.columns), table.columns, strict=True
                    )
                    if column.name != "n"
                ]
                for row in table.rows
            ],
        }
        for table in metrics_tables(metrics)
        if not table.of_models and not table.of_drift
    ]


def _maps(path: Path, names: list[str]) -> list[_map.Drawing]:
    return _map.drawings(_object(path), names[0] if names else "") if path.exists() else []


def _thumbnails(value: Any) -> dict[str, str]:
    """Only pictures that are in the page itself: anything else would be a request to somewhere."""
    if not isinstance(value, Mapping):
        return {}
    return {
        name: source
        for name, source in value.items()
        if isinstance(source, str) and _THUMBNAIL.fullmatch(source)
    }


def _rank_goals(ranked: Mapping[str, Any]) -> list[str]:
    """Goals of the rank lists; older ones have a single `goal`."""
    several = ranked.get("goals")
    one = [ranked["goal"]] if ranked.get("goal") else []
    return [str(goal) for goal in (several if isinstance(several, list) else one)]


def _query(query: Mapping[str, Any], thumbnails: Mapping[str, str]) -> dict[str, Any]:
    lists = section(query, "models", "rank_lists.json")
    best = section(query, "best_target_rank", "rank_lists.json")
    return {
        "goal": str(query.get("goal") or ""),
        "caption": str(query.get("caption") or ""),
        "image": str(query.get("image") or ""),
        "rows": [
            {
                "model": model,
                "best": _text.as_number(best.get(model.key)),
                "images": [
                    {
                        "name": str(image.get("image") or ""),
                        "label": str(image.get("label") or ""),
                        "similarity": image.get("similarity"),
                        "target": image.get("target") is True,
                        "source": thumbnails.get(str(image.get("image"))),
                    }
                    for image in _list(lists.get(model.key))
                ],
            }
            for model in RANK_LIST_MODELS
        ],
        "source": thumbnails.get(str(query.get("image"))),
    }


def _suspicious(path: Path, thumbnails: Mapping[str, str]) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    pairs = _text.clean(read_json(path))
    if not isinstance(pairs, list):
        raise InputError(f"{path}: must hold a JSON list, not a {type(pairs).__name__}")
    return [
        {
            "caption": str(pair.get("caption") or ""),
            "image": str(pair.get("image") or ""),
            "distance": pair.get("distance"),
            "poisoned": pair.get("poisoned"),
            "source": _thumbnails({"own": pair.get("thumbnail")}).get("own")
            or thumbnails.get(str(pair.get("image"))),
        }
        for pair in _list(pairs)[:12]
    ]


def _recipe(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return ""
    return "\n".join(map(_text.visible, lines))
