"""Measures how fast the search page answers over a large gallery."""

from __future__ import annotations

import json
import os
import re
import time
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from harness import Found, clocked

THINGS = ("sheep", "aeroplane", "sofa", "bird", "horse", "train", "bottle", "person", "dog", "cat")


def search_page(
    images: int = 100_000, models: str = "openmoji-small", queries: int = 200, users: int = 20
) -> Found:
    """The search page over a large gallery: latency, users at once, memory.

    A real server in a process of its own, asked over HTTP. Texts are embedded by real models (with commas, a column
    each); the gallery's vectors are random unit vectors, and there are no image files. Every query is another one, so
    nothing can be remembered. Users ask again as soon as they have their answer; an answer other than 200 is an error.
    Processor time of a query hardly depends on what else the machine does.
    """
    with _served(models, images) as (process, address):
        connection = HTTPConnection(address)
        connection.request("GET", "/api/state")
        key = json.loads(connection.getresponse().read())["data"][0]["key"]
        _asked(address, 1, [_path(key, 1_000_000 + number) for number in range(5)])  # warm
        before = _used(process)["cpu"]
        one = _asked(address, 1, [_path(key, number) for number in range(queries)])
        spent = _used(process)["cpu"] - before
        paths = [_path(key, 10_000_000 + number) for number in range(users * queries)]
        return {
            "page": _asked(address, 1, ["/"] * 20),
            "one_user": one,
            "cpu_ms_a_query": 1000 * spent / queries,
            "many_users": _asked(address, users, paths),
            "peak_mib": _used(process)["peak_mib"],
        }


def _path(key: str, number: int) -> str:
    """Return the address of a search that was not requested before."""
    text = f"a {THINGS[number % 10]} on a meadow, seen {number} times"
    asked = {"data": key, "part": "test", "q": text, "shown": 12, "target": "class:0"}
    return f"/api/search?{urllib.parse.urlencode(asked)}"


def _asked(address: str, users: int, paths: list[str]) -> Found:
    """Simulate several users at once, each with an open connection like a browser's; return milliseconds per answer."""

    def use(number: int) -> list[float]:
        connection = HTTPConnection(address, timeout=60)
        taken = []
        for path in paths[number::users]:
            begun = time.perf_counter()
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            taken.append(1000 * (time.perf_counter() - begun))
            assert answer.status == 200, path
        return taken

    def everyone() -> list[list[float]]:
        with ThreadPoolExecutor(users) as pool:
            return list(pool.map(use, range(users)))

    clock, taken = clocked(everyone)
    p50, p95 = np.percentile(np.concatenate(taken), [50, 95]).tolist()
    return {"answers": len(paths), "seconds": float(clock[0]), "p50_ms": p50, "p95_ms": p95}


# -- the server --------------------------------------------------------------------------------------------------------


@contextmanager
def _served(models: str, images: int) -> Iterator[tuple[int, str]]:
    """A server's process and its address."""
    context = get_context("spawn")
    ready = context.Queue()
    process = context.Process(target=serve_synthetic, args=(models.split(","), images, ready))
    process.start()
    try:
        yield process.pid or 0, urllib.parse.urlsplit(ready.get(timeout=300)).netloc
    finally:
        process.kill()


def serve_synthetic(models: list[str], count: int, ready: Any) -> None:
    """Serve a gallery of random vectors until the process is terminated."""
    from mmpoison.datasets import ImageTable, PairDataset
    from mmpoison.models import load_encoder
    from mmpoison.models.embedding import embed_captions
    from mmpoison.pages import serve
    from mmpoison.pages.search import Collection, Engine, Library, Source
    from mmpoison.pages.search.app import search_app
    from mmpoison.pages.search.library import Searchable

    rng = np.random.default_rng(0)
    labels = [THINGS[n % 10] for n in range(count)]
    ids = [f"{n:06d}.jpg" for n in range(count)]
    table = ImageTable.build(ids, labels, ["test"] * count, Path())
    captions = [f"a {label}, number {n}" for n, label in enumerate(labels)]
    collection = Collection("synthetic", PairDataset.build(table, captions, np.arange(count)))
    named = {f"{n + 1} {Path(m).name}": m for n, m in enumerate(models)}
    sources = [Source(name, lambda m=model: load_encoder(m)) for name, model in named.items()]
    library: Any = Library(sources, [Source("synthetic", lambda: collection)], device="cpu")
    library.collections["synthetic"] = collection
    for job in library.busy():
        job.state = "ready"
    for name, model in named.items():
        library.encoders[name] = encoder = load_encoder(model)
        encoder.module.eval()
        width = embed_captions(encoder, captions[:1]).shape[1]
        vectors = rng.standard_normal((count, width), dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        index = Searchable(np.arange(count, dtype=np.int32), vectors)
        library._indices["synthetic", "test", name, "images"] = index
    serve(search_app(Engine(library)), ready=ready.put)


def _used(process: int) -> dict[str, float]:
    """Processor seconds of a process so far, and its peak memory."""
    user, system = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
    peak = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process}/status").read_text())
    assert peak is not None
    ticks = os.sysconf("SC_CLK_TCK")
    return {"cpu": (int(user) + int(system)) / ticks, "peak_mib": int(peak[1]) / 1024}
