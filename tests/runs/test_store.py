"""The store: a stage is made once, whatever dies and however many want it."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from mmpoison.errors import InputError
from mmpoison.runs.store import StageKey, StageStore

KEY = StageKey("finetune", "clean_model", {"seed": 0, "data": "abc"}, {"size": "small"}, 10.0)


def read(folder: Path) -> str:
    if not (folder / "value").is_file():
        raise InputError("no value")
    return (folder / "value").read_text()


def test_made_once(tmp_path: Path) -> None:
    store = StageStore(tmp_path)
    made: list[Path] = []

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "value").write_text("one")

    assert KEY not in store
    assert store.obtain(KEY, read, make) == ("one", False)
    assert KEY in store
    assert store.obtain(KEY, read, make) == ("one", True)
    assert len(made) == 1
    assert not list(tmp_path.rglob("*.work"))
    entry = json.loads((store.path(KEY) / "stage.json").read_text())
    assert entry["parts"] == {"seed": 0, "data": "abc"}


def test_the_key_is_the_content_and_not_the_name(tmp_path: Path) -> None:
    other_name = StageKey("finetune", "poisoned", KEY.parts)
    assert other_name.digest == KEY.digest
    for kind, parts in (("filter", KEY.parts), ("finetune", {**KEY.parts, "seed": 1})):
        assert StageKey(kind, KEY.name, parts).digest != KEY.digest


def test_what_failed_is_not_there_and_goes_on(tmp_path: Path) -> None:
    store = StageStore(tmp_path)

    def fails(folder: Path) -> None:
        (folder / "state").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.obtain(KEY, read, fails)
    assert KEY not in store

    def goes_on(folder: Path) -> None:
        assert (folder / "state").read_text() == "half"
        (folder / "value").write_text("whole")

    assert store.obtain(KEY, read, goes_on) == ("whole", False)


def test_a_broken_entry_is_made_anew(tmp_path: Path) -> None:
    store = StageStore(tmp_path)
    store.obtain(KEY, read, lambda folder: (folder / "value").write_text("one"))
    (store.path(KEY) / "value").unlink()
    again = store.obtain(KEY, read, lambda folder: (folder / "value").write_text("two"))
    assert again == ("two", False)


def test_the_pace_of_stages_like_it(tmp_path: Path) -> None:
    store = StageStore(tmp_path)
    assert store.known()(KEY) is None

    def make(folder: Path) -> None:
        time.sleep(0.1)
        (folder / "value").write_text("")

    store.obtain(KEY, read, make)
    twice = StageKey("finetune", "poisoned", {"seed": 9}, KEY.like, 20.0)
    cost = store.known()(twice)
    assert cost is not None
    assert 0.2 <= cost.seconds < 2
    assert cost.bytes > 0
    assert cost.memory > 1e6
    assert store.known()(StageKey("finetune", "poisoned", {}, {"size": "large"}, 20.0)) is None


def _make_slowly(folder: Path) -> None:
    with (folder / "makers").open("a") as stream:
        stream.write(f"{os.getpid()}\n")
    time.sleep(0.5)
    (folder / "value").write_text(str(os.getpid()))


def _want(root: Path) -> None:
    value, _ = StageStore(root).obtain(KEY, read, _make_slowly)
    (root / f"got-{os.getpid()}").write_text(value)


def _die(root: Path) -> None:
    def make(folder: Path) -> None:
        (folder / "state").write_text("half")
        (root / "at-work").touch()
        time.sleep(600)

    StageStore(root).obtain(KEY, read, make)


def test_two_processes_want_the_same(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_want, args=(tmp_path,)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    got = {path.read_text() for path in tmp_path.glob("got-*")}
    assert len(list(tmp_path.glob("got-*"))) == 3
    assert len(got) == 1
    makers = (StageStore(tmp_path).path(KEY) / "makers").read_text().split()
    assert makers == list(got)


def test_the_one_that_made_it_died(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    dying = context.Process(target=_die, args=(tmp_path,))
    dying.start()
    while not (tmp_path / "at-work").exists():
        assert dying.is_alive()
        time.sleep(0.05)
    waiting = context.Process(target=_want, args=(tmp_path,))
    waiting.start()
    time.sleep(0.5)
    assert not list(tmp_path.glob("got-*"))
    dying.kill()
    waiting.join(120)
    assert len(list(tmp_path.glob("got-*"))) == 1
    assert (StageStore(tmp_path).path(KEY) / "state").read_text() == "half"
