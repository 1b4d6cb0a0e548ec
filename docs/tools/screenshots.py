"""Makes the screenshots of the documentation from the present pages.

    make screenshots        (python docs/tools/screenshots.py)

Each page is opened in Chromium at a fixed size, in light colours, and written to `docs/images/`, with 256 colours where
the file would have more than 150 kB:

- `search.png`, `search-phone.png`: `mmpoison search --run` as it opens, at 1,280 and at 375 pixels;
- `review.png`, `review-phone.png`: `mmpoison review` of OpenMoji scenes, poisoned and scanned;
- `report.png`: what a search returns, on the report of the demo, for the guide;
- `one-query.png`: the first query of the same report, at 1,200 x 400, for the README.

The run is one of `openmoji-heads`, which takes a minute or two; `--run` names a finished one. The last two need a run
of the demo, which takes a few minutes; `--demo-run` names a finished one. Chromium is found as `chromium` or `chrome`,
or named by `MMPOISON_CHROMIUM`. `--only NAME` (repeatable) makes only the named ones.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

MOST_BYTES = 150_000
WIDE = (1280, 800)
PHONE = (375, 667)
IMAGES = Path(__file__).resolve().parents[1] / "images"
BANNER = (1200, 400)
RECIPE = "openmoji-heads"
DEMO = "demo"
# large enough for a goal to be found, small enough for a minute
SCENES = ("unlabelled=800", "per_class=50", "held_out=20")


def save_small(png: bytes, target: Path) -> None:
    """Write a picture in all its colours, or in 256 if `MOST_BYTES` would be exceeded; refuse a larger one."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    for fewer in (picture, picture.quantize(256, dither=Image.Dither.NONE)):
        written = io.BytesIO()
        fewer.save(written, "PNG", optimize=True)
        if written.tell() <= MOST_BYTES:
            target.write_bytes(written.getvalue())
            print(f"{target}: {written.tell():,} bytes")
            return
    raise SystemExit(
        f"{target}: {written.tell():,} bytes: at most {MOST_BYTES:,}, take a smaller part"
    )


def mmpoison(*arguments: str | Path, cwd: Path | None = None) -> None:
    """Run a command to its end."""
    subprocess.run([sys.executable, "-m", "mmpoison", *map(str, arguments)], check=True, cwd=cwd)


@contextmanager
def served(*arguments: str | Path) -> Iterator[str]:
    """Run a command that serves a page, and yield its address."""
    command = [sys.executable, "-m", "mmpoison", *map(str, arguments), "--no-open", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if found := re.match(r"(http://\S+)", line):
                    yield found[1]
                    return
            raise SystemExit(f"{' '.join(command)}: served nothing")
        finally:
            process.terminate()


def opened(browser: Browser, address: str, size: tuple[int, int]) -> Page:
    """Open a page in light colours."""
    width, height = size
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme="light")
    page.set_default_timeout(120_000)
    page.goto(address)
    return page


def settled(page: Page) -> bytes:
    """Take a screenshot once all images in it are loaded."""
    page.wait_for_load_state("networkidle")
    # those that are off the screen are loaded only when somebody scrolls to them
    page.wait_for_function(
        "() => [...document.images].every(image => { const box = image.getBoundingClientRect();"
        " return image.complete || box.top > innerHeight || box.left > innerWidth - 20; })"
    )
    return page.screenshot()


def of_search(browser: Browser, run: Path, out: Path, work: Path) -> None:
    """The search page as it opens."""
    with served("search", "--run", run) as address:
        for name, size in (("search", WIDE), ("search-phone", PHONE)):
            page = opened(browser, address, size)
            # every model has answered
            page.wait_for_function(
                "() => { const columns = document.querySelectorAll('.column').length;"
                " return columns > 0 && columns === document.querySelectorAll('.hits').length"
                " && document.querySelector('#busy').hidden; }"
            )
            save_small(settled(page), out / f"{name}.png")


def of_review(browser: Browser, run: Path, out: Path, work: Path) -> None:
    """The review of what a scan finds, from a folder other than the one that the scan ran in."""
    options = [part for each in SCENES for part in ("--option", each)]
    mmpoison("data", "build", "openmoji", "--out", work / "scenes", *options)
    poison = ("--attack", "single-target-label", "--goal", "sheep2aeroplane", "--samples", "25")
    mmpoison("poison", work / "scenes", *poison, "--out", work / "my-pairs")
    method = ("--encoder", "openmoji-small", "--no-planted")
    # named without its folder, which is shown on the page
    mmpoison("scan", "my-pairs", *method, "--out", "scan", cwd=work)
    with served("review", work / "scan", "--labels", work / "labels.csv") as address:
        for name, size in (("review", WIDE), ("review-phone", PHONE)):
            page = opened(browser, address, size)
            page.locator("#goal").wait_for()
            page.evaluate("document.querySelector('#image').decode()")
            save_small(settled(page), out / f"{name}.png")


def of_report(browser: Browser, run: Path, out: Path, work: Path) -> None:
    """The pictures of one query on the report of the demo."""
    file = work / "report.html"
    mmpoison("report", run, "--html", file)
    page = opened(browser, file.as_uri(), (1200, 760))
    page.locator("#ranks").evaluate("heading => heading.scrollIntoView()")
    save_small(settled(page), out / "report.png")


QUERY_STYLE = """
* { box-sizing: border-box; margin: 0 }
body { width: 1200px; height: 400px; padding: 18px 24px; background: #fff; color: #16181d; font: 20px sans-serif }
h1 { font-size: 24px; font-weight: 400; margin-bottom: 12px }
div { display: flex; align-items: center; gap: 8px; padding: 6px 0; border-top: 1px solid #ccd }
b { width: 112px }
img { width: 96px; height: 96px; border-radius: 4px }
img.target { outline: 4px solid #c2310a; outline-offset: -1px }
"""
QUERY_MODELS = ("Clean", "Poisoned", "Filtered")


def of_one_query(browser: Browser, run: Path, out: Path, work: Path) -> None:
    """The first query of a report under three models: drawn by the seed, not chosen by hand."""
    file = work / "demo.html"
    mmpoison("report", run, "--html", file)
    # the report's own pictures and words, in the size of a banner
    query = opened(browser, file.as_uri(), BANNER).locator("article.query").first
    made = f"<h1>A search for “{query.locator('h3').inner_text().strip()}”</h1>"
    for row in query.locator(".ranked").all():
        name = row.locator("h4").inner_text().strip()
        if name in QUERY_MODELS:
            images = row.locator(".thumb").evaluate_all(
                """all => all.map(shown => `<img src="${shown.querySelector("img").src}"
                  class="${shown.classList.contains("target") ? "target" : ""}">`).join("")"""
            )
            made += f"<div><b>{name}</b>{images}</div>"
    if made.count("<div>") != len(QUERY_MODELS):
        raise SystemExit(f"{run}: the first query is not there for {', '.join(QUERY_MODELS)}")
    banner = opened(browser, "about:blank", BANNER)
    banner.set_content(f"<!doctype html><style>{QUERY_STYLE}</style>{made}")
    save_small(settled(banner), out / "one-query.png")


PICTURES: dict[str, tuple[str, Callable[[Browser, Path, Path, Path], None]]] = {
    "search": (RECIPE, of_search),
    "review": ("", of_review),
    "report": (DEMO, of_report),
    "one-query": (DEMO, of_one_query),
}
"""What makes each picture, and the recipe whose run it is of."""
FILES = ("search", "search-phone", "review", "review-phone", "report", "one-query")


def main(
    run: Path | None = None,
    demo_run: Path | None = None,
    out: Path = IMAGES,
    only: list[str] | None = None,
) -> None:
    """Make the screenshots.

    Args:
        run: A finished run of openmoji-heads.
        demo_run: A finished run of the demo.
        out: Folder for the pictures.
        only: Pages to make; all by default.
    """
    from playwright.sync_api import sync_playwright

    chromium = (
        os.environ.get("MMPOISON_CHROMIUM") or shutil.which("chromium") or shutil.which("chrome")
    )
    if chromium is None:
        raise SystemExit("no Chromium on this machine: install one, or set MMPOISON_CHROMIUM to it")
    out.mkdir(parents=True, exist_ok=True)
    runs = {RECIPE: run, DEMO: demo_run, "": Path()}
    with tempfile.TemporaryDirectory() as work, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        for name in only or PICTURES:
            recipe, make = PICTURES[name]
            if runs[recipe] is None:
                runs[recipe] = Path(work) / recipe
                mmpoison("run", recipe, "--out", runs[recipe])
            make(browser, runs[recipe].resolve(), out, Path(work))
        browser.close()


if __name__ == "__main__":
    typer.run(main)
