"""Writes the HTML page of one run or several: one offline file, with every string escaped."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict

from mmpoison.base import text as _text
from mmpoison.base.files import atomic_file
from mmpoison.base.text import visible
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
from mmpoison.reporting.figure import Series, pictures_inside, series, template
from mmpoison.reporting.results import curve_of, one_run, read_runs
from mmpoison.reporting.seeds import NAMES, group_metrics, group_tables, metrics_tables
from mmpoison.reporting.summary import (
    MODELS,
    RANK_LIST_MODELS,
    Model,
    classes,
    computed_models,
    goal_title,
    headline,
    shown_models,
)
from mmpoison.reporting.table import Cell, Column, Compared, Link, Table, cell_texts, stacked_texts
from mmpoison.statistics import Summary

# -- Tables of a page, as text. A table wider than the page is split into several, stacked.


PAGE = 1040
"""Pixels for a table in a window of 1,200; `report.css` sets the page width (70rem) and padding."""
CHARACTER, PADDING = 7.8, 11.2
"""Pixels per digit, and before each column, in tables of class `stacked`."""
LONGEST_NAME = 30
"""Characters per line of a text column; longer text wraps (`report.css` sets the same width)."""


@dataclass(frozen=True)
class PageColumn:
    """One column of a table on a page.

    Attributes:
        name: Its header.
        kind: CSS classes: `left` for words, `left prose` for sentences, empty for numbers.
    """

    name: str
    kind: str


@dataclass(frozen=True)
class PageCell:
    """One cell of a table on a page.

    Attributes:
        lines: The text; all lines after the first are small.
        address: Link target of the first line, or empty.
        anchor: Id for links to this cell, or empty.
        shade: Darkness in a heat map, in [0, 1]; None elsewhere.
    """

    lines: list[str]
    address: str = ""
    anchor: str = ""
    shade: float | None = None


@dataclass(frozen=True)
class PageTable:
    """One table on a page.

    Attributes:
        title: The caption; empty if the table continues the one above, or a heading says it.
        label: The title for screen readers, never empty.
        columns: The columns.
        rows: One cell per column.
        note: What a reader must know; shown below the last part.
    """

    title: str
    label: str
    columns: list[PageColumn]
    rows: list[list[PageCell]]
    note: str


def page_table(table: Table, chosen: Sequence[int] | None = None) -> PageTable:
    """Make a table for a page.

    Args:
        table: The table.
        chosen: Indices of the columns to show; all by default.
    """
    shown = range(len(table.columns)) if chosen is None else chosen
    columns = [table.columns[n] for n in shown]
    kinds = [("left prose" if table.columns[n].prose else "left") * table.is_text(n) for n in shown]
    title = visible(table.title)
    return PageTable(
        title,
        title,
        [PageColumn(visible(c.name), kind) for c, kind in zip(columns, kinds, strict=True)],
        [_page_cells([row[n] for n in shown], columns) for row in table.rows],
        visible(table.note),
    )


def page_tables(table: Table, *, leave_out: Sequence[str] = ()) -> list[PageTable]:
    """Split a table into parts that fit the page.

    Each part starts with the row names, and with n if the table has it.

    Args:
        table: The table.
        leave_out: Names of columns to omit.
    """
    shown = [n for n, column in enumerate(table.columns) if column.name not in leave_out]
    # n, the number of seeds, stays with the row name
    fixed = 2 if len(shown) > 1 and table.columns[shown[1]].name == "n" else 1
    names, numbers = shown[:fixed], shown[fixed:]
    room = PAGE - sum(_width(table, n) for n in names)
    parts = balanced_parts([_width(table, n) for n in numbers], room)
    made = []
    for place, part in enumerate(parts):
        whole = page_table(table, [*names, *(numbers[n] for n in part)])
        made.append(
            replace(
                whole,
                title="" if place else whole.title,
                label=whole.label
                + (f", part {place + 1} of {len(parts)}" if len(parts) > 1 else ""),
                note=whole.note if place == len(parts) - 1 else "",
            )
        )
    return made


def balanced_parts(widths: Sequence[float], room: float) -> list[list[int]]:
    """Split columns into the fewest parts that fit, with about equally many columns each.

    Args:
        widths: Width of each column, in order.
        room: Width of one part; a wider column gets its own part.

    >>> balanced_parts([10] * 7, 65), balanced_parts([10, 90, 10], 50), balanced_parts([], 50)
    ([[0, 1, 2, 3], [4, 5, 6]], [[0], [1], [2]], [[]])
    """
    parts = _filled(widths, room, len(widths))
    for most in range(-(-len(widths) // len(parts)), len(widths)):
        even = _filled(widths, room, most)
        if len(even) == len(parts):
            return even
    return parts


def _filled(widths: Sequence[float], room: float, most: int) -> list[list[int]]:
    parts: list[list[int]] = [[]]
    used = 0.0
    for number, width in enumerate(widths):
        if parts[-1] and (used + width > room or len(parts[-1]) >= most):
            parts.append([])
            used = 0.0
        parts[-1].append(number)
        used += width
    return parts


def _width(table: Table, number: int) -> float:
    """Estimate a column's width in pixels from its longest line and longest header word."""
    column = table.columns[number]
    cells = [cell for row in table.rows for cell in _page_cells([row[number]], [column])]
    lines = [line for cell in cells for line in cell.lines]
    longest = max(map(len, [*lines, *column.name.split()]), default=0)
    if table.is_text(number):
        words = [word for line in lines for word in line.split()]
        longest = min(longest, max([LONGEST_NAME, *map(len, words)]))
    return longest * CHARACTER + PADDING


def _page_cells(row: Sequence[Cell], columns: Sequence[Column]) -> list[PageCell]:
    """Make page cells; a number's deviation and interval are lines of their own."""
    texts = zip(row, cell_texts(row, columns), stacked_texts(row, columns), strict=True)
    return [
        PageCell(
            _joined(stacked.split("\n")) if isinstance(cell, Summary | Compared) else [plain],
            cell.address if isinstance(cell, Link | Compared) else "",
            cell.anchor if isinstance(cell, Link) else "",
        )
        for cell, plain, stacked in texts
    ]


def _joined(lines: Sequence[str]) -> list[str]:
    """Join the two ends of an interval, which a terminal shows on two lines."""
    joined: list[str] = []
    for line in lines:
        if joined and joined[-1].startswith("[") and joined[-1].endswith(","):
            joined[-1] += f" {line}"
        else:
            joined.append(line)
    return joined


# -- Turns the embedding map into coordinates; the template does the layout.


SIDE = 100.0
"""Side length of a drawing."""

_MARGIN = 4.0


@dataclass(frozen=True)
class Point:
    """One caption or image: distance from left and top, and `original`, `target` or `other`."""

    x: float
    y: float
    kind: str


@dataclass(frozen=True)
class Drawing:
    """Texts or images of one model; the goal's classes come last, so they are drawn on top."""

    model: str
    what: str
    points: tuple[Point, ...]


def drawings(embedding_map: EmbeddingMap | Mapping[str, object], goal: str) -> list[Drawing]:
    """Make the drawings of a map: the texts and the images of each model.

    Args:
        embedding_map: Content of embedding_map.json.
        goal: Goal whose two classes are marked.

    Raises:
        InputError: If the content is invalid.
    """
    shown = EmbeddingMap.of(embedding_map, "embedding_map.json")
    pair = classes(goal) or ("", "")
    kinds = {pair[0]: "original", pair[1]: "target"}
    found: list[Drawing] = []
    for what in ("texts", "images"):
        per_model = {
            model.name: _points(getattr(shown.models.get(model.key), what, ())) for model in MODELS
        }
        every = [point for points in per_model.values() for point in points]
        for name, points in per_model.items():
            if not points:
                continue
            # all models share the axes of PCA
            place = _placer(every if shown.method == "pca" else points)
            drawn = [
                Point(*place(x, y), kinds.get(_class_name(shown, code), "other"))
                for x, y, code in points
            ]
            order = ("other", "target", "original")
            found.append(
                Drawing(name, what, tuple(sorted(drawn, key=lambda p: order.index(p.kind))))
            )
    return found


def _class_name(shown: EmbeddingMap, code: int) -> str:
    return shown.classes[code] if code < len(shown.classes) else ""


def _points(points: Iterable[Sequence[float]]) -> list[tuple[float, float, int]]:
    """Drop unlabelled points and far outliers, which would squeeze all others together."""
    return [
        (float(x), float(y), int(code))
        for x, y, code in points
        if abs(x) < 1e6 and abs(y) < 1e6 and code >= 0
    ]


def _placer(
    points: Sequence[tuple[float, float, int]],
) -> Callable[[float, float], tuple[float, float]]:
    xs, ys = [x for x, _, _ in points], [y for _, y, _ in points]
    scale = (SIDE - 2 * _MARGIN) / (max(max(xs) - min(xs), max(ys) - min(ys)) or 1.0)

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            round(SIDE / 2 + (x - (max(xs) + min(xs)) / 2) * scale, 1),
            round(SIDE / 2 - (y - (max(ys) + min(ys)) / 2) * scale, 1),
        )

    return place


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

    def interval(self, key: str) -> list[float]:
        """Return the ends of a metric's 95% interval, clustered by image; empty if unknown."""
        return self.ranks.interval.get(key, [])


def render_html(run: Path) -> str:
    """Render the page of a finished run.

    Args:
        run: The run folder; only metrics.json must exist.

    Raises:
        InputError: If metrics.json is missing, or a file is invalid.
    """
    metrics = Metrics.read(run / "metrics.json", _text.clean)
    about, names = metrics.run, metrics.goals
    pictures = _pictures(run)
    tables = {goal: _rows(metrics, goal) for goal in names or [""]}
    return template("report").render(
        **pictures,
        asked=sum(metrics.row(goal, "poisoned").queries or 0 for goal in names),
        absent=_text.ABSENT,
        commands=commands(run, metrics.run),
        title=", ".join(goal_title(goal) for goal in names) or "no goal",
        headline=headline(metrics),
        tables=[
            (
                goal,
                rows,
                _dots((row.model.name, row.goal.hit_10, row.interval("hit@10")) for row in rows),
            )
            for goal, rows in tables.items()
        ],
        mode=_MODES.get(about.mode or "", about.mode),
        drift=metrics.drift,
        repair=_repair(run),
        studies=_studies(metrics),
        maps=_maps(run / "embedding_map.json", names),
        map_goal=names[0] if names else "",
        side=SIDE,
        suspicious=_suspicious(run / "suspicious_pairs.json", pictures["thumbnails"]),
        run=about,
        recipe_text=_recipe(run / "recipe.yaml"),
    )


def render_runs_html(runs: Sequence[Path]) -> str:
    """Render the page of several finished runs: means over seeds, and provenance.

    Args:
        runs: Run folders, folders that contain them, or result files; at least one.

    Raises:
        InputError: If a file is invalid, or a setting has the same seed twice.
    """
    read = read_runs(runs)
    groups = group_metrics(read)
    folders = [Path(one.name) for one in read]
    named = [(_name(run), one.run) for run, one in zip(folders, read, strict=True)]
    attributions = [about.data.attribution for _, about in named if about.data.attribution]
    return template("sweep").render(
        **_pictures(folders[0]),
        absent=_text.ABSENT,
        title=", ".join(dict.fromkeys(str(about.recipe) for _, about in named)),
        settings=[group.title for group in groups],
        warnings=[f"{name}: {flag}" for name, about in named for flag in about.flags],
        tables=[(_dots_of_table(table), page_tables(table)) for table in group_tables(groups)],
        runs=named,
        attributions=list(dict.fromkeys(attributions)),
        versions=_versions([about for _, about in named]),
        commands=list(
            dict.fromkeys(commands(run, one.run)[0] for run, one in zip(folders, read, strict=True))
        ),
    )


def write_html(runs: Sequence[Path], target: Path) -> Path:
    """Write one self-contained page of one run or several, and return its path.

    Args:
        runs: As for `render_runs_html`.
        target: The file; an existing one is replaced.

    Raises:
        InputError: If a file of a run is invalid, or `target` is a folder.
    """
    if target.is_dir():
        raise InputError(f"{target}: is a folder, not a file, e.g. {target / 'report.html'}")
    alone = one_run(runs)
    page = render_runs_html(runs) if alone is None else render_html(alone)
    with atomic_file(target) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return target


def commands(run: Path, about: RunFacts) -> list[str]:
    """List the shell commands that repeat a run, to be run in its folder."""
    seeds = "" if about.seed is None else f" --seeds {about.seed}"
    where = shlex.quote(f"{_name(run)}-again")
    return [
        f"mmpoison run recipe.yaml{seeds} --out {where}",
        "mmpoison data verify CLEAN_DATA   # the clean data, if they are not made or fetched by name",
        "mmpoison poison CLEAN_DATA --from-manifest manifest.json --out poisoned   # the poisoned data alone",
    ]


def write_report(run: Path) -> Path:
    """Write `report.html` into the run folder and return its path.

    Args:
        run: The run folder.

    Raises:
        InputError: If metrics.json is missing, or a file is invalid.
    """
    return write_html([run], run / "report.html")


class _Pictures(TypedDict):
    """Rank lists of a run, with their goals and thumbnails."""

    rank_goals: list[str]
    queries: list[dict[str, object]]
    thumbnails: dict[str, str]


def _pictures(run: Path) -> _Pictures:
    file = run / "rank_lists.json"
    # readers judge these captions, so unprintable characters are spelled out, not dropped
    lists = RankLists.read(file, _text.spelled) if file.exists() else RankLists()
    thumbnails = pictures_inside(lists.thumbnails)
    return {
        "rank_goals": lists.goals or ([lists.goal] if lists.goal else []),
        "queries": [_query(query, thumbnails) for query in lists.queries],
        "thumbnails": thumbnails,
    }


def _name(run: Path) -> str:
    """Return a run's name, prefixed with its sweep's name if it is only a seed."""
    folder = run.resolve()
    short = folder.name.startswith("seed") and folder.parent.name
    return _text.visible(f"{folder.parent.name}-{folder.name}" if short else folder.name)


def _versions(abouts: Sequence[RunFacts]) -> dict[str, str]:
    """Collect the versions of each library over all runs."""
    found: dict[str, dict[str, None]] = {}
    for about in abouts:
        for library, version in about.versions.items():
            found.setdefault(library, {})[version] = None
    return {library: ", ".join(versions) for library, versions in found.items()}


def _rows(metrics: Metrics, goal: str) -> list[Row]:
    # an evaluation of one model has few of a run's rows, and readers do not miss the others
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


def _dots(rows: Iterable[tuple[str, float | None, Iterable[float | None]]]) -> list[Series]:
    """Return a dot chart of the models whose Hit@10 is known, with intervals."""
    return [
        one
        for name, hit, ends in rows
        for one in series(name, [(0, hit)], ends, marked=name == NAMES["poisoned"])
    ]


def _dots_of_table(table: Table) -> list[Series]:
    """Return the dot chart of a setting's models over seeds; empty for other tables."""
    if not table.of_models:
        return []
    place = [column.name for column in table.columns].index("Hit@10")
    cells = [(str(row[0]), row[place]) for row in table.rows]
    return _dots(
        (name, hit.mean, (hit.low, hit.high)) for name, hit in cells if isinstance(hit, Summary)
    )


@dataclass(frozen=True)
class _Repair:
    """Goals and utility during a repair, as a table and as lines over labelled steps."""

    tables: list[PageTable]
    lines: list[Series]
    steps: list[tuple[str, float]]


def _repair(run: Path) -> _Repair | None:
    """Read the curve of a run's repair; None if it has fewer than two probes."""
    probes = [probe for branch in curve_of(run).branches if branch.chosen for probe in branch.looks]
    if len(probes) < 2:
        return None
    goals = dict.fromkeys(goal for probe in probes for goal in probe.test.goal)
    utility = [probe.utility for probe in probes]
    measured = [
        *(
            (goal_title(goal), [probe.test.goal.get(goal, GoalRow()).hit_10 for probe in probes])
            for goal in goals
        ),
        ("IR", [each.image_retrieval.hit_10 for each in utility]),
        ("TR", [each.text_retrieval.hit_10 for each in utility]),
    ]
    # a logarithmic scale, because most probes are among the first steps
    length = [math.log1p(max(probe.step, 0)) for probe in probes]
    places = [each / (max(length) or 1.0) for each in length]
    steps: list[tuple[str, float]] = []
    for probe, place in zip(probes, places, strict=True):
        # omit labels that would overlap on a phone
        if not steps or 100 * place - steps[-1][1] >= 12:
            steps.append((_text.count(probe.step), round(100 * place, 2)))
    table = Table(
        "Each step of the repair",
        (Column("Steps"), *(Column(f"{name} Hit@10") for name, _ in measured)),
        tuple(
            zip(
                (_text.count(probe.step) for probe in probes),
                *(shares for _, shares in measured),
                strict=True,
            )
        ),
    )
    lines = [
        one
        for number, (name, shares) in enumerate(measured)
        for one in series(name, zip(places, shares, strict=True), marked=number < len(goals))
    ]
    return _Repair(page_tables(table), lines, steps)


def _studies(metrics: Metrics) -> list[PageTable]:
    """Return the tables of a run other than the main table and drift."""
    return [
        part
        for table in metrics_tables(metrics)
        if not table.of_models and not table.of_drift
        # n is always 1 for a single run
        for part in page_tables(table, leave_out=("n",))
    ]


def _maps(path: Path, names: list[str]) -> list[Drawing]:
    if not path.exists():
        return []
    return drawings(EmbeddingMap.read(path, _text.clean), names[0] if names else "")


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
