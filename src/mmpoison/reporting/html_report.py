"""Makes the HTML page of a run, or of several: one file, no script, no request, every string escaped."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from markupsafe import Markup

from mmpoison.base.files import atomic_file
from mmpoison.base.untrusted import MAX_YAML_BYTES, read_text
from mmpoison.errors import InputError
from mmpoison.records.run_files import (
    EmbeddingMap,
    GoalRow,
    Metrics,
    RankedQuery,
    RankLists,
    RankSpread,
    RunFacts,
    SuspiciousPair,
    Utility,
)
from mmpoison.reporting import map as _map
from mmpoison.reporting import text as _text
from mmpoison.reporting.html import pictures_inside, template
from mmpoison.reporting.page_tables import PageTable, page_tables
from mmpoison.reporting.runs import group_metrics, read_run
from mmpoison.reporting.seeds import group_tables, metrics_tables
from mmpoison.reporting.summary import (
    RANK_LIST_MODELS,
    Model,
    computed_models,
    goal_title,
    headline,
    shown_models,
)

SUSPICIOUS_SHOWN = 12

_MODES = {
    "add": "added to the clean pairs",
    "replace": "in place of the clean pairs they came from",
}


@dataclass(frozen=True)
class Row:
    """One model's numbers for one goal."""

    model: Model
    goal: GoalRow
    utility: Utility
    ranks: RankSpread

    @property
    def bar(self) -> float | None:
        """Hit@10 as a length between 0 and 1, where there is one."""
        value = self.goal.hit_10
        return None if value is None or not 0 <= value <= 1 else round(value, 4)

    def interval(self, key: str, digits: int) -> str:
        """Format the 95% interval of a figure, clustered by image, if there is one."""
        ends = self.ranks.interval.get(key)
        if ends is None:
            return _text.ABSENT
        return "\N{EN DASH}".join(_text.decimal(end, digits) for end in ends)


def render_html(run: Path, more: str = "") -> str:
    """Make the page of a finished run.

    Args:
        run: The run folder; of its files only metrics.json must exist.
        more: One more section, as HTML that is escaped already.

    Raises:
        InputError: If one of its files is broken, or metrics.json is missing.
    """
    metrics = Metrics.read(run / "metrics.json", _text.clean)
    about, names = metrics.run, metrics.goals
    pictures = _pictures(run)
    return template("report").render(
        **pictures,
        absent=_text.ABSENT,
        more=Markup(more),
        commands=commands(run, metrics),
        title=", ".join(goal_title(goal) for goal in names) or "no goal",
        headline=headline(metrics),
        tables=[(goal, _rows(metrics, goal)) for goal in names or [""]],
        mode=_MODES.get(about.mode or "", about.mode),
        drift=metrics.drift,
        studies=_studies(metrics),
        maps=_maps(run / "embedding_map.json", names),
        map_goal=names[0] if names else "",
        side=_map.SIDE,
        suspicious=_suspicious(run / "suspicious_pairs.json", pictures["thumbnails"]),
        run=about,
        recipe_text=_recipe(run / "recipe.yaml"),
    )


def render_runs_html(runs: Sequence[Path], more: str = "") -> str:
    """Make the page of several finished runs: means over seeds, and where they come from.

    Args:
        runs: Run folders, at least one.
        more: One more section, as HTML that is escaped already.

    Raises:
        InputError: If one of their files is broken, or one seed of a setting occurs twice.
    """
    read = [read_run(run) for run in runs]
    groups = group_metrics(read)
    named = [(_name(run), one.metrics.run) for run, one in zip(runs, read, strict=True)]
    attributions = [about.data.attribution for _, about in named if about.data.attribution]
    return template("sweep").render(
        **_pictures(runs[0]),
        absent=_text.ABSENT,
        title=", ".join(dict.fromkeys(str(about.recipe) for _, about in named)),
        settings=[group.title for group in groups],
        flags=[f"{name}: {flag}" for name, about in named for flag in about.flags],
        tables=[part for table in group_tables(groups) for part in page_tables(table)],
        more=Markup(more),
        runs=named,
        attributions=list(dict.fromkeys(attributions)),
        versions=_versions([about for _, about in named]),
        commands=list(
            dict.fromkeys(
                commands(run, one.metrics)[0] for run, one in zip(runs, read, strict=True)
            )
        ),
    )


def write_html(runs: Sequence[Path], target: Path, more: str = "") -> Path:
    """Write one self-contained page of one run, or of several, and return its path.

    Args:
        runs: Finished run folders.
        target: The file; an existing one is replaced.
        more: One more section, as HTML that is escaped already.

    Raises:
        InputError: If one of the runs' files is broken, or `target` is a folder.
    """
    if target.is_dir():
        raise InputError(f"{target}: is a folder, a file is needed, e.g. {target / 'report.html'}")
    page = render_html(runs[0], more) if len(runs) == 1 else render_runs_html(runs, more)
    with atomic_file(target) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return target


def commands(run: Path, metrics: Metrics) -> list[str]:
    """List the commands that repeat a run, in its folder; each part is quoted for a shell."""
    seeds = "" if metrics.run.seed is None else f" --seeds {metrics.run.seed}"
    where = shlex.quote(f"{_name(run)}-again")
    return [
        f"mmpoison run recipe.yaml{seeds} --out {where}",
        "mmpoison data verify CLEAN_DATA   # the clean data, if they are not made or fetched by name",
        "mmpoison poison CLEAN_DATA --from-manifest manifest.json --out poisoned   # the poisoned data alone",
    ]


def write_report(run: Path, more: str = "") -> Path:
    """Write `report.html` into the run folder and return its path.

    Args:
        run: The run folder.
        more: One more section, as HTML that is escaped already.

    Raises:
        InputError: If one of the run's files is broken, or metrics.json is missing.
    """
    return write_html([run], run / "report.html", more)


class _Pictures(TypedDict):
    """The rank lists of a run, for a page."""

    rank_goals: list[str]
    queries: list[dict[str, object]]
    thumbnails: dict[str, str]


def _pictures(run: Path) -> _Pictures:
    file = run / "rank_lists.json"
    # captions are what is judged here: what cannot be printed in them is spelled, not left out
    lists = RankLists.read(file, _text.spelled) if file.exists() else RankLists()
    thumbnails = pictures_inside(lists.thumbnails)
    return {
        "rank_goals": lists.goals or ([lists.goal] if lists.goal else []),
        "queries": [_query(query, thumbnails) for query in lists.queries],
        "thumbnails": thumbnails,
    }


def _name(run: Path) -> str:
    """Return a run's name, with that of its sweep if the run's name is only a seed."""
    folder = run.resolve()
    short = folder.name.startswith("seed") and folder.parent.name
    return _text.visible(f"{folder.parent.name}-{folder.name}" if short else folder.name)


def _versions(abouts: Sequence[RunFacts]) -> dict[str, str]:
    """Collect the versions of each library in all runs."""
    found: dict[str, dict[str, None]] = {}
    for about in abouts:
        for library, version in about.versions.items():
            found.setdefault(library, {})[version] = None
    return {library: ", ".join(versions) for library, versions in found.items()}


def _rows(metrics: Metrics, goal: str) -> list[Row]:
    # an evaluation of one model lacks most rows of a run, and a reader looks for none of them
    evaluated = bool(metrics.run.row_names)
    models = (
        computed_models(metrics, goal)
        if evaluated
        else shown_models(metrics.goal.get(goal, metrics.utility))
    )
    return [
        Row(
            model,
            metrics.row(goal, model.key),
            metrics.utility.get(model.key) or Utility(),
            metrics.spread(goal, model.key),
        )
        for model in models
    ]


def _studies(metrics: Metrics) -> list[PageTable]:
    """Describe, as text, what is measured beyond the main table and the drift."""
    return [
        part
        for table in metrics_tables(metrics)
        if not table.of_models and not table.of_drift
        # one run: no n
        for part in page_tables(table, leave_out=("n",))
    ]


def _maps(path: Path, names: list[str]) -> list[_map.Drawing]:
    if not path.exists():
        return []
    return _map.drawings(EmbeddingMap.read(path, _text.clean), names[0] if names else "")


def _query(query: RankedQuery, thumbnails: Mapping[str, str]) -> dict[str, object]:
    return {
        "query": query,
        "rows": [
            {
                "model": model,
                "best": query.best_target_rank.get(model.key),
                "images": [
                    {"image": image, "source": thumbnails.get(image.image or "")}
                    for image in query.models.get(model.key, [])
                ],
            }
            for model in shown_models(query.models, RANK_LIST_MODELS)
        ],
        "source": thumbnails.get(query.image or ""),
    }


def _suspicious(path: Path, thumbnails: Mapping[str, str]) -> list[dict[str, object]]:
    pairs = SuspiciousPair.read_list(path, _text.spelled) if path.exists() else []
    return [
        {
            "pair": pair,
            "source": pictures_inside({"own": pair.thumbnail}).get("own")
            or thumbnails.get(pair.image or ""),
        }
        for pair in pairs[:SUSPICIOUS_SHOWN]
    ]


def _recipe(path: Path) -> str:
    try:
        lines = read_text(path, MAX_YAML_BYTES).splitlines()
    except InputError:
        return ""
    return "\n".join(map(_text.visible, lines))
