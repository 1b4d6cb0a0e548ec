"""The result as one page: no script, no request, every string escaped."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from mmpoison.base.files import atomic_file
from mmpoison.base.untrusted import read_json, read_text
from mmpoison.base.untrusted_yaml import MAX_YAML_BYTES
from mmpoison.errors import InputError
from mmpoison.reporting import map as _map
from mmpoison.reporting import text as _text
from mmpoison.reporting.paper_comparison import Shown, beside_the_paper
from mmpoison.reporting.runs import group_metrics, read_run
from mmpoison.reporting.seeds import group_tables, metrics_tables
from mmpoison.reporting.summary import (
    MODELS,
    RANK_LIST_MODELS,
    Model,
    flags,
    goal_title,
    goals,
    headline,
    section,
)
from mmpoison.reporting.table import Table, cell_texts

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
    ranked = _ranked(run)
    thumbnails = _thumbnails(ranked.get("thumbnails"))
    names = goals(metrics)
    beside, beside_missing = _beside([run])
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            attack=about.get("attack"),
            victim=section(about, "model").get("name"),
            suspected=_suspected(section(about, "filter")),
            beside=beside,
            beside_missing=beside_missing,
            single=True,
            stand_in=_stands_in(section(about, "data")),
            commands=commands(run, metrics),
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
            robust=section(about, "robust_training"),
            sterilize=section(about, "sterilize"),
            suspicious=_suspicious(run / "suspicious_pairs.json", thumbnails),
            run=about,
            data=section(about, "data"),
            seconds=section(about, "seconds"),
            versions=section(about, "versions"),
            recipe_text=_recipe(run / "recipe.yaml"),
        )
    )


def render_runs_html(runs: Sequence[Path]) -> str:
    """The page of several finished runs: means over seeds, the paper's numbers beside them, where they come from.

    Args:
        runs: Run folders, at least one.

    Raises:
        InputError: If one of their files is broken, or one seed of a setting occurs twice.
    """
    read = [read_run(run) for run in runs]
    known = [(run, one.metrics) for run, one in zip(runs, read, strict=True)]
    abouts = [section(metrics, "run") for _, metrics in known]
    datas = [section(about, "data") for about in abouts]
    beside, beside_missing = _beside(runs)
    ranked = _ranked(runs[0])
    thumbnails = _thumbnails(ranked.get("thumbnails"))
    groups = group_metrics(read)
    recipes = dict.fromkeys(str(about.get("recipe")) for about in abouts)
    return (
        _environment()
        .get_template("sweep.html.j2")
        .render(
            absent=_text.ABSENT,
            title=", ".join(recipes),
            settings=[group.title for group in groups],
            flags=[f"{_name(run)}: {flag}" for run, metrics in known for flag in flags(metrics)],
            tables=[_plain_table(table) for table in group_tables(groups)],
            beside=beside,
            beside_missing=beside_missing,
            single=False,
            stand_in=any(map(_stands_in, datas)),
            rank_goals=_rank_goals(ranked),
            queries=[_query(query, thumbnails) for query in _list(ranked.get("queries"))],
            runs=[
                {
                    "name": _name(run),
                    "recipe": about.get("recipe") or _text.ABSENT,
                    "seed": _text.ABSENT if about.get("seed") is None else about["seed"],
                    "version": about.get("tool_version") or _text.ABSENT,
                    "device": about.get("device") or _text.ABSENT,
                    "data": data.get("name") or _text.ABSENT,
                    "fingerprint": data.get("fingerprint") or _text.ABSENT,
                }
                for (run, _), about, data in zip(known, abouts, datas, strict=True)
            ],
            attributions=list(
                dict.fromkeys(str(data["attribution"]) for data in datas if data.get("attribution"))
            ),
            versions=_versions(abouts),
            commands=list(
                dict.fromkeys(line for run, metrics in known for line in commands(run, metrics)[:1])
            ),
        )
    )


def write_html(runs: Sequence[Path], target: Path) -> Path:
    """Write one self-contained page of one run, or of several, and return its path.

    Args:
        runs: Finished run folders.
        target: The file; one that is there is replaced.

    Raises:
        InputError: If one of the runs' files is broken, or `target` is a folder.
    """
    if target.is_dir():
        raise InputError(f"{target}: is a folder, a file is needed, e.g. {target / 'report.html'}")
    page = render_html(runs[0]) if len(runs) == 1 else render_runs_html(runs)
    with atomic_file(target) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return target


def commands(run: Path, metrics: Mapping[str, Any]) -> list[str]:
    """What makes a run again, from a terminal in its folder; each part is quoted for a shell."""
    about = section(metrics, "run")
    seed = about.get("seed")
    seeds = f" --seeds {seed}" if isinstance(seed, int) else ""
    where = shlex.quote(f"{_name(run)}-again")
    return [
        f"mmpoison run recipe.yaml{seeds} --out {where}",
        "mmpoison data verify CLEAN_DATA   # the clean data, if they are not made or fetched by name",
        "mmpoison poison CLEAN_DATA --from-manifest manifest.json --out poisoned   # the poisoned data alone",
    ]


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


def _environment() -> Environment:
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
    return environment


def _beside(runs: Sequence[Path]) -> tuple[list[Shown], list[str]]:
    """What is beside the paper; a run that does not fit it is still shown."""
    try:
        return beside_the_paper(runs)
    except InputError as error:
        return [], [str(error)]


def _ranked(run: Path) -> Mapping[str, Any]:
    # captions are what is judged here: what cannot be printed in them is spelled, not left out
    file = run / "rank_lists.json"
    return _object(file, _text.spelled) if file.exists() else {}


def _stands_in(data: Mapping[str, Any]) -> bool:
    return str(data.get("name")).startswith(("openmoji", "rsicd-ucm"))


def _name(run: Path) -> str:
    """A run's name; with that of the sweep, where it is no more than its seed."""
    folder = run.resolve()
    short = folder.name.startswith("seed") and folder.parent.name
    return _text.visible(f"{folder.parent.name}-{folder.name}" if short else folder.name)


def _versions(abouts: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Versions of each library in all runs."""
    found: dict[str, dict[str, None]] = {}
    for about in abouts:
        for library, version in section(about, "versions").items():
            found.setdefault(library, {})[str(version)] = None
    return {library: ", ".join(versions) for library, versions in found.items()}


def _suspected(filtered: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Goals that a filter suspects."""
    return [
        {
            "sentence": str(goal.get("sentence") or ""),
            "examples": [
                str(caption)
                for caption in (goal.get("example_captions") or [])[:3]
                if isinstance(goal.get("example_captions"), list)
            ],
        }
        for goal in _list(filtered.get("suspected_goals"))
    ]


def _plain_table(table: Table) -> dict[str, Any]:
    return {
        "title": table.title,
        "note": table.note,
        "columns": [column.name for column in table.columns],
        "rows": [cell_texts(row, table.columns) for row in table.rows],
    }


def _object(path: Path, clean: Callable[[Any], Any] = _text.clean) -> Mapping[str, Any]:
    value = clean(read_json(path))
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
    pairs = _text.spelled(read_json(path))
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
        lines = read_text(path, MAX_YAML_BYTES).splitlines()
    except InputError:
        return ""
    return "\n".join(map(_text.visible, lines))
