"""The verb `search`: an image search page for up to four models."""

from __future__ import annotations

import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmpoison.cli.console import (
    DEFAULT_PORT,
    announce,
    check_pages,
    open_in_browser,
    say,
)
from mmpoison.cli.options import Open, Port, changed_options, named_data
from mmpoison.errors import InputError

if TYPE_CHECKING:
    from mmpoison.datasets.catalogue import NamedData
    from mmpoison.pages.search.collection import Collection
    from mmpoison.pages.search.library import Library, Source

RUNS = Path("runs")

PATIENCE = 10.0
"""Longest wait for the models, in seconds, before the browser opens the page."""


def search(
    context: typer.Context,
    models: Annotated[
        list[str] | None, typer.Option("--model", "--models", metavar="MODEL...")
    ] = None,
    more: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,
    data: list[str] | None = None,
    demo: bool = False,
    run: Path | None = None,
    manifest: Path | None = None,
    format: str | None = None,
    data_root: Path | None = None,
    option: list[str] | None = None,
    host: str = "127.0.0.1",
    port: Port = DEFAULT_PORT,
    open_it: Open = True,
    device: str = "auto",
) -> None:
    """Search images in the browser, with up to four models side by side.

    Example: [bold]mmpoison search --model clean poisoned filtered --data scenes --port 8747[/bold]

    The page needs the extra 'search'. After [bold]mmpoison demo[/bold]: [bold]mmpoison search --demo[/bold]

    Options:
        models: Up to four models; NAME=MODEL sets the name shown; the first is the baseline.
        data: Pairs in any format, or the name of a data set; repeatable, to switch between several.
        manifest: Manifest of the first --data, if it has none itself.

    Models and data of a run:
        demo: Use the models and data of the last `mmpoison demo` in runs/.
        run: Use the models and data of this run folder.
    """
    begun = time.perf_counter()
    check_pages("search")
    from mmpoison.pages.local_app import serve
    from mmpoison.pages.search.app import search_app
    from mmpoison.pages.search.engine import Engine
    from mmpoison.pages.search.library import Library

    of_data = ("--manifest", "--format", "--data-root", "--option")
    if not data and (alone := [name for name in changed_options(context) if name in of_data]):
        raise InputError(f"{alone[0]} needs --data")
    named = [_model(text) for text in [*(models or []), *(more or [])]]
    sets = [
        _data(named_data(text, format, data_root, option), manifest if place == 0 else None)
        for place, text in enumerate(data or [])
    ]
    if demo or run is not None:
        found = _of_run(run) if run is not None else _of_demo()
        named, sets = [*found[0], *named], [found[1], *sets]
    if not named or not sets:
        raise InputError("no models or data: give --model and --data, or --demo, or --run DIR")
    library = Library(named, sets, device=device, say=say, on_failure=lambda: app.state.stop())
    app = search_app(Engine(library), host=host)

    def ready(address: str) -> None:
        announce(address, open_it=False)
        if host not in ("127.0.0.1", "localhost", "::1"):
            say("everyone who can reach this machine can see the pictures and captions")
        library.start()
        if open_it:
            opens = partial(_open_with_an_answer, library, address)
            threading.Thread(target=opens, name="browser", daemon=True).start()

    try:
        serve(app, host=host, port=port, ready=ready)
    finally:
        library.stop()
    if library.failure is not None:
        raise library.failure
    say(f"stopped after {time.perf_counter() - begun:,.0f} s")


def _open_with_an_answer(library: Library, address: str, patience: float = PATIENCE) -> None:
    """Open the page when everything is loaded or after `patience` seconds; not after a failure."""
    try:
        library.wait(patience)
    except TimeoutError:
        pass  # a large gallery: the page shows what is loaded so far
    except BaseException:
        return  # the session failed; the library's thread reports it
    open_in_browser(address)


def _model(text: str) -> Source:
    from mmpoison.pages.search.library import Source

    name, equals, rest = text.partition("=")
    if not equals or not name or "/" in name or Path(text).exists():
        name, rest = "", text
    # other names are checked later, while the page is already open
    if "/" in rest and not any(sign in rest for sign in ":@") and not Path(rest).exists():
        raise InputError(f"{rest}: no such checkpoint folder or file")

    return Source(name or Path(rest).resolve().name, partial(_load, rest))


def _load(model: str | Path) -> object:
    from mmpoison.models.loading import load_encoder

    return load_encoder(model)


def _data(named: NamedData, manifest: Path | None) -> Source:
    from mmpoison.pages.search.library import Source

    text = named.data
    if "/" in text and not text.startswith("hf:") and not Path(text).exists():
        raise InputError(f"{text}: no such folder or file")
    if manifest is not None and not manifest.is_file():
        raise InputError(f"{manifest}: no such file")
    name = Path(text).resolve().name if Path(text).exists() else text

    def load() -> Collection:
        from mmpoison.pages.search.collection import Collection
        from mmpoison.pairs.manifest import PoisonManifest

        pairs = named.load()
        given = pairs.manifest if manifest is None else PoisonManifest.read(manifest)
        if pairs.manifest is not None and manifest is not None:
            raise InputError(f"{text}: has its own manifest: remove --manifest")
        return Collection(name, pairs, given)

    return Source(name, load)


def _of_demo() -> tuple[list[Source], Source]:
    from mmpoison.runs.run_folder import last_demo

    return _of_run(last_demo(RUNS))


def _of_run(run: Path) -> tuple[list[Source], Source]:
    from mmpoison.pages.search.collection import Collection
    from mmpoison.pages.search.library import Source
    from mmpoison.runs.run_folder import run_checkpoints, run_data

    def load_data() -> Collection:
        pairs, manifest = run_data(run)
        return Collection(run.resolve().name, pairs, manifest)

    models = [Source(name, partial(_load, folder)) for name, folder in run_checkpoints(run).items()]
    return models, Source(run.resolve().name, load_data)
