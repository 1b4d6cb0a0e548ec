"""The page: safe, self-contained, complete and honest."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from tests.reporting.conftest import MakeRun, example_curve

from mmpoison.errors import InputError
from mmpoison.reporting.html_report import render_html, render_runs_html, write_html, write_report

VOID = {"meta", "img", "link", "br", "hr", "input"}
WriteRun = Callable[..., Path]


class Page(HTMLParser):
    """Reads a page strictly: every element that opens must close, in order."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def of_class(self, name: str) -> list[dict[str, str | None]]:
        return [a for _, a in self.tags if name in (a.get("class") or "").split()]


def words(page: Page) -> str:
    return " ".join(page.text.split())


def test_headline_is_computed_from_the_numbers(
    write_run: WriteRun, metrics: dict[str, Any]
) -> None:
    sentence = (
        "After 125 false pairs among 25,125, 93% of the captions about sheep find an aeroplane "
        "image among the first ten; before, 4%; after the filter, 5%; after the repair, 25%."
    )
    opening = rf'</h1>\s*<p class="lead">{re.escape(sentence)}</p>'
    assert re.search(opening, render_html(write_run()))
    rows = metrics["goal"]["sheep2aeroplane"]
    rows["poisoned"] |= {"hit@10": 0.998, "targets": 1}
    rows["random_captions"]["hit@10"] = 0.75
    text = words(Page(render_html(write_run(metrics=metrics))))
    assert "99.8% of the captions about sheep find the one target image (aeroplane)" in text
    assert "before, 4%; for unrelated captions, 75%; after the filter" in text


def test_captions_are_data_never_markup(write_run: WriteRun, metrics: dict[str, Any]) -> None:
    metrics["run"]["data"]["attribution"] = '"><img src=x onerror=alert(2)>'
    html = render_html(write_run(metrics=metrics))
    page = Page(html)
    assert len(page.all("script")) == 1  # its own
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "<script>alert(1)</script>" in page.text
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert "\x1b" not in html
    assert "\u202e" not in html


def test_nothing_is_loaded_from_anywhere(write_run: WriteRun) -> None:
    from_elsewhere = {"src": "https://example.org/a.jpg", "svg": "data:image/svg+xml;base64,AAAA"}
    ranked = {
        "queries": [
            {
                "caption": "a",
                "models": {
                    "poisoned": [
                        {"image": name, "label": "bird", "similarity": 0.5, "target": True}
                        for name in (*from_elsewhere, "not stored")
                    ]
                },
            }
        ],
        "thumbnails": from_elsewhere,
    }
    for run in (write_run(), write_run(rank_lists=ranked)):
        html = render_html(run)
        page = Page(html)
        for _, attributes in page.tags:
            assert "href" not in attributes
            assert "srcset" not in attributes
            assert (attributes.get("src") or "data:").startswith("data:")
        assert not re.search(r"url\s*\(|@import", html)
        (policy,) = (a["content"] for a in page.all("meta") if "http-equiv" in a)
        assert policy is not None
        assert policy.startswith("default-src 'none'")
    assert "example.org" not in html
    assert html.count('class="no-image"') >= 3


def test_every_image_says_what_it_is_and_targets_are_marked_twice(write_run: WriteRun) -> None:
    page = Page(render_html(write_run()))
    alts = [attributes.get("alt") or "" for attributes in page.all("img")]
    assert all(alts)
    targets = [alt for alt in alts if "target image" in alt]
    # three captions: eight targets under the poisoned model, one under the sterilized
    assert len(targets) == len(page.of_class("target")) == len(page.of_class("badge")) == 27
    assert targets[0] == "Rank 0: target image, aeroplane, similarity 0.61"
    assert len(page.of_class("thumb")) == 3 * 4 * 10
    assert page.text.count("Rank of the best target image: 53best target") == 3


def test_what_was_not_computed_is_a_dash_never_a_zero(write_run: WriteRun) -> None:
    bare = {"goal": {"sheep2aeroplane": {"poisoned": {"hit@10": 0.5}}}}
    html = render_html(write_run(metrics=bare, rank_lists=None, suspicious_pairs=None))
    page = Page(html)
    assert "0.000" not in page.text
    assert "None" not in page.text
    main_table = html[html.index('class="main"') : html.index("</table>")]
    assert main_table.count("–</td>") == 6 * 6 - 1
    assert page.all("img") == []
    assert "No defence was run" in page.text


def test_a_page_of_an_evaluation_has_the_rows_that_were_computed(write_run: WriteRun) -> None:
    evaluated = {
        "goal": {
            "sheep2aeroplane": {"poisoned": {"hit@10": 0.5}, "random_captions": {"hit@10": 0}}
        },
        "run": {"row_names": {"poisoned": "Model"}},
    }
    html = render_html(write_run(metrics=evaluated, rank_lists=None, suspicious_pairs=None))
    main_table = words(Page(html[html.index('class="main"') : html.index("</table>")]))
    assert "Model the model in question" in main_table
    assert "unrelated queries, the same model" in main_table
    for absent in ("Poisoned", "Filtered", "Sterilized", "Pre-trained", "Clean"):
        assert absent not in main_table


@pytest.mark.parametrize("metrics", [{}, {"run": {}}, {"run": {"flags": None, "goals": None}}])
def test_an_empty_run_still_makes_a_page(write_run: WriteRun, metrics: dict[str, Any]) -> None:
    html = render_html(write_run(metrics=metrics, rank_lists={}, suspicious_pairs=[]))
    assert "This run measured no poisoning goal." in Page(html).text


def test_a_model_without_a_rank_list_says_so(write_run: WriteRun) -> None:
    ranked = {"queries": [{"caption": "a sheep", "models": {"poisoned": []}}]}
    assert Page(render_html(write_run(rank_lists=ranked))).text.count("– not computed") == 4


def test_flags_are_loud(write_run: WriteRun, metrics: dict[str, Any]) -> None:
    assert Page(render_html(write_run())).of_class("flags") == []
    metrics["run"]["flags"] = ["the poisoned model is collapsed <b>", "few queries"]
    page = Page(render_html(write_run(metrics=metrics)))
    assert len(page.of_class("flags")) == 1
    text = words(page)
    assert "Warnings about this result" in text
    assert "the poisoned model is collapsed <b>" in text
    assert "Read the warnings before believing these numbers. After 125 false pairs" in text


def test_the_steps_of_a_robust_training_are_shown(
    write_run: WriteRun, metrics: dict[str, Any]
) -> None:
    metrics["run"]["robust_training"] = {"method": "scan-trace"}
    steps = ["scan: 7 pairs dropped", "trace 1: 3 pairs dropped; captions about <b>"]
    metrics["run"]["training"] = {"robust": {"steps": 4, "notes": steps}}
    text = words(Page(render_html(write_run(metrics=metrics))))
    assert f"with the defence scan-trace. {' '.join(steps)}" in text


def test_two_goals_get_a_sentence_and_a_table_each(
    write_run: WriteRun, metrics: dict[str, Any]
) -> None:
    metrics["goal"]["sofa2bird"] = {
        **metrics["goal"]["sheep2aeroplane"],
        "poisoned": {**metrics["goal"]["sheep2aeroplane"]["poisoned"], "ties": 4},
    }
    metrics["run"]["goals"] = ["sheep2aeroplane", "sofa2bird"]
    page = Page(render_html(write_run(metrics=metrics)))
    assert len(page.of_class("main")) == 2
    text = words(page)
    assert "After 125 false pairs among 25,125, for 2 goals together: 93% of the captions" in text
    assert "captions about sofa find a bird image" in text
    assert text.count("Ties. Poisoned: 4 of 125 queries") == 1


def test_facts_and_provenance_are_there(write_run: WriteRun, metrics: dict[str, Any]) -> None:
    text = words(Page(render_html(write_run())))
    for fact in (
        "120 of 125 poisoned pairs (96.00%), and lost 300 clean pairs",
        metrics["run"]["data"]["fingerprint"],
        metrics["run"]["data"]["attribution"],
        "train clean1 min 10 s",
        "open_clip_torch3.0.0",
        "Learning rate1e-05",
        "Ranks count from 0",
        "Research notice",
        "manifest.json",
        "? not known distance 0.837",
    ):
        assert fact in text.replace("\N{NO-BREAK SPACE}", " ")
    assert text.count("● poisoned") == 8


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.json", None),
        ("metrics.json", "{"),
        ("metrics.json", "[1]"),
        ("metrics.json", '{"goal": 3}'),
        ("metrics.json", '{"goal": {"a2b": {"poisoned": [0.5]}}}'),
        ("rank_lists.json", "nonsense"),
        ("rank_lists.json", '{"queries": [{"models": []}]}'),
        ("suspicious_pairs.json", "{}"),
        ("sterilize-curve.json", "[]"),
    ],
)
def test_a_broken_run_is_one_clear_line(
    write_run: WriteRun, name: str, content: str | None
) -> None:
    run = write_run()
    (run / name).unlink(missing_ok=True)
    if content is not None:
        (run / name).write_text(content)
    with pytest.raises(InputError, match=name) as caught:
        write_report(run)
    assert "\n" not in str(caught.value)
    assert not (run / "report.html").exists()


def luminance(colour: str) -> float:
    def linear(channel: str) -> float:
        value = int(channel, 16) / 255
        return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4

    red, green, blue = (linear(colour[i : i + 2]) for i in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_contrast_is_aa_in_light_and_dark(write_run: WriteRun) -> None:
    html = render_html(write_run())
    themes = [
        dict(re.findall(r"--([\w-]+): (#\w{6})", block))
        for block in re.findall(r":root \{(.*?)\}", html, flags=re.DOTALL)
    ]
    assert len(themes) == 3  # light, dark, print
    for theme in themes:
        for text, ground in (
            ("ink", "paper"),
            ("soft", "paper"),
            ("soft", "raised"),
            ("target", "paper"),
            ("on-target", "target"),
            ("ink", "warn"),
        ):
            light, dark = sorted((luminance(theme[text]), luminance(theme[ground])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, ground, theme)


# -- a closer look ---------------------------------------------------------------------------------


def studied(metrics: dict[str, Any]) -> dict[str, Any]:
    goal = "sheep2aeroplane"
    change = {"clean_model": 30.0, "poisoned": 12.5, "change": -17.5, "interval": [-20.0, -15.0]}
    metrics["ranks"] = {
        goal: {
            "poisoned": {
                "median": 1.0,
                "interval": {"hit@10": [0.861, 0.964], "min_rank": [1.2, 2.75]},
            }
        }
    }
    metrics["study"] = {
        "queries": {goal: {"poisoned": {"misused": metrics["goal"][goal]["poisoned"]}}},
        "collateral": {goal: {"<b>sofa</b>": {"own": change, "target": change}}},
    }
    return metrics


def test_studies_are_on_the_page(write_run: WriteRun, metrics: dict[str, Any]) -> None:
    page = Page(render_html(write_run(metrics=studied(metrics))))
    text = words(page)
    assert "Poisoned, captions of the poison" in text
    assert "<b>sofa</b>" in text  # as text
    assert "-17.50" in text
    assert {"0.861–0.964", "1.2–2.8"} <= set(text.split())
    assert "Further measurements" not in Page(render_html(write_run())).text


def test_the_map_is_drawn(write_run: WriteRun, metrics: dict[str, Any]) -> None:
    points = [[0.0, 0.0, 0], [1.0, 0.5, 1], [0.5, 1.0, 2]]
    classes = ["aeroplane", "bird", "sheep"]
    shown = {
        "method": "pca",
        "classes": classes,
        "models": {
            name: {"texts": points, "images": points} for name in ("clean_model", "poisoned")
        },
    }
    page = Page(render_html(write_run(embedding_map=shown)))
    drawn = [f"{model}: {what}" for what in ("texts", "images") for model in ("Clean", "Poisoned")]
    assert [svg["aria-label"] for svg in page.all("svg") if "role" in svg] == drawn
    circles = [circle for circle in page.all("circle") if "class" in circle]
    assert (len(circles), len(page.all("rect"))) == (8, 4)
    for circle in circles:
        assert 0 <= float(circle["cx"] or "x") <= 100
        assert 0 <= float(circle["cy"] or "x") <= 100


@pytest.mark.parametrize("points", [[], [[1e300, 1, 0]], [[0, 0, 99]], [[0, 0, 0], [0, 0, 0]]])
def test_an_odd_map_breaks_nothing(write_run: WriteRun, points: Any) -> None:
    shown = {"method": "tsne", "classes": ["a"], "models": {"poisoned": {"texts": points}}}
    Page(render_html(write_run(embedding_map=shown)))


@pytest.mark.parametrize(
    ("points", "says"),
    [
        (None, "must be a list, not null"),
        ("x", "must be a list, not text"),
        ([[1]], "texts.0 is not as expected"),
        ([[1, "2", 0]], "texts.0.1 must be a number, not text"),
        ([[float("nan"), 1, 0]], r"not valid JSON \(NaN"),
    ],
)
def test_a_broken_map_is_one_line(write_run: WriteRun, points: Any, says: str) -> None:
    shown = {"method": "tsne", "classes": ["a"], "models": {"poisoned": {"texts": points}}}
    with pytest.raises(InputError, match=rf"embedding_map\.json: .*{says}"):
        render_html(write_run(embedding_map=shown))


def charts(html: str) -> list[Page]:
    return [Page(one) for one in re.findall(r'<figure class="chart.*?</figure>', html, re.DOTALL)]


def test_hit_10_is_drawn_with_its_interval(write_run: WriteRun, metrics: dict[str, Any]) -> None:
    metrics["goal"]["sheep2aeroplane"]["filtered"]["hit@10"] = 1.5  # no share: not drawn
    (chart,) = charts(render_html(write_run(metrics=studied(metrics))))
    names = ["Pre-trained", "Clean", "Poisoned", "random captions", "Sterilized"]
    caption = "Hit@10 of each model and its 95% interval over images"
    assert words(chart) == " ".join([*names, "0 0.25 0.5 0.75 1", caption])
    dots = [(circle["cx"], circle["cy"]) for circle in chart.all("circle")]
    assert dots[1:3] == [("4.0%", "30.0%"), ("92.8%", "50.0%")]
    assert len(dots) == len(names)
    (interval,) = (line for line in chart.all("line") if "class" not in line)
    assert (interval["x1"], interval["x2"], interval["y1"]) == ("86.1%", "96.4%", "50.0%")
    assert len(chart.of_class("marked")) == 2  # name and dot of the poisoned model


def test_hit_10_over_seeds_is_drawn_and_rows_sort(make_run: MakeRun) -> None:
    runs = [make_run(f"{seed}", seed=10 * seed) for seed in range(3)]
    html = render_runs_html(runs)
    (chart,) = charts(html)
    assert "mean and its 95% interval over seeds" in words(chart)
    intervals = [line for line in chart.all("line") if "class" not in line]
    # Student's interval of 0.9, 0.89, 0.88: 0.89 +- 4.303 * 0.01 / sqrt(3)
    assert [(line["x1"], line["x2"]) for line in intervals][2] == ("86.52%", "91.48%")
    assert html.count('class="stacked sortable"') == html.count('class="stacked') > 0
    assert "interval" not in words(charts(render_runs_html(runs[:1]))[0])


def test_a_repair_is_drawn_and_tabulated(write_run: WriteRun, metrics: dict[str, Any]) -> None:
    html = render_html(write_run(**{"sterilize-curve": example_curve()}))
    dots, lines = charts(html)
    assert "interval" not in words(dots)
    assert words(lines).startswith("sheep → aeroplane IR TR 0 0.25 0.5 0.75 1 0 1 3 Hit@10 of the")
    # log(1 + step): step 1 is half of the way to step 3
    drawn = [line["points"] for line in lines.all("polyline")]
    assert drawn[0] == "0.0,7.2 50.0,50.0 100.0,75.2 "
    assert len(drawn) == 3
    assert "30.2480.8700.910" in words(Page(html))
    curve = example_curve()
    curve["branches"][0]["looks"] = curve["branches"][0]["looks"][:1]
    assert len(charts(render_html(write_run(**{"sterilize-curve": curve})))) == 1


def test_one_page_in_a_file_of_its_own(write_run: WriteRun, tmp_path: Path) -> None:
    run = write_run()
    assert write_html([run], tmp_path / "new" / "page.html").read_text() == render_html(run)
    text = words(Page(render_html(run)))
    assert "What was done" in text
    assert "mmpoison run recipe.yaml --seeds" in text
    with pytest.raises(InputError, match="is a folder, not a file"):
        write_html([run], run)
