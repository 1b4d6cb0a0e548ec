"""How fast the search page answers over a large gallery."""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from harness import Found, clocked

PLACES = ("meadow", "hill", "street", "room", "beach", "forest", "table", "roof")
THINGS = ("sheep", "aeroplane", "sofa", "bird", "horse", "train", "bottle", "person", "dog", "cat")


def search_page(
    images: int = 100_000,
    models: str = "openmoji-small",
    queries: int = 200,
    users: int = 20,
    seconds: float = 60.0,
) -> Found:
    """The search page over a large gallery: latency, users at once, memory.

    A real server in a process of its own, asked over HTTP. Texts are embedded by real models (with commas, a column
    each); the gallery's vectors are random unit vectors, and there are no image files. Every query is another one, so
    nothing can be remembered. Processor time of a query hardly depends on what else the machine does.
    """
    with _served(models, images) as (process, address):
        user = _User(address)
        key = json.loads(user.get("/api/state")[2])["data"][0]["key"]
        for number in range(5):  # warm up
            user.get(_path(key, 1_000_000 + number))
        page = [user.get("/")[0] for _ in range(20)]
        before = _used(process)["cpu"]
        answers = [user.get(_path(key, number)) for number in range(queries)]
        spent = _used(process)["cpu"] - before
        assert all(status == 200 for _, status, _ in answers)
        return {
            "page": _milliseconds(page),
            "one_user": _milliseconds([passed for passed, _, _ in answers]),
            "cpu_ms_a_query": 1000 * spent / queries,
            "many_users": _many_users(address, key, users, seconds),
            "peak_mib": _used(process)["peak_mib"],
        }


def _milliseconds(seconds: list[float]) -> dict[str, float]:
    p50, p95 = np.percentile(np.array(seconds) * 1000, [50, 95])
    return {"p50_ms": float(p50), "p95_ms": float(p95), "answers": len(seconds)}


def _path(key: str, number: int) -> str:
    """The address of a search that nobody has asked for before."""
    text = f"a {THINGS[number % 10]} on a {PLACES[number // 10 % 8]}, seen {number} times"
    asked = {"data": key, "part": "test", "q": text, "shown": 12, "target": "class:0"}
    return f"/api/search?{urllib.parse.urlencode(asked)}"


class _User:
    """One connection that is kept open, as a browser does."""

    def __init__(self, address: str) -> None:
        where = urllib.parse.urlsplit(address).netloc
        self._connection = http.client.HTTPConnection(where, timeout=60)

    def get(self, path: str) -> tuple[float, int, bytes]:
        """Seconds, status and body."""

        def ask() -> tuple[int, bytes]:
            self._connection.request("GET", path)
            answer = self._connection.getresponse()
            return answer.status, answer.read()

        clock, (status, body) = clocked(ask)
        return float(clock[0]), status, body


def _many_users(address: str, key: str, users: int, seconds: float) -> Found:
    """So many users at once for so long; errors are answers other than 200 and connections that failed."""
    taken: list[float] = []
    errors: list[str] = []
    until = time.perf_counter() + seconds

    def use(number: int) -> None:
        user = _User(address)
        while time.perf_counter() < until:
            number += users
            try:
                passed, status, _ = user.get(_path(key, number))
            except OSError as error:
                errors.append(repr(error))
                user = _User(address)
                continue
            taken.append(passed)
            if status != 200:
                errors.append(f"status {status}")

    threads = [threading.Thread(target=use, args=(10_000_000 + n,)) for n in range(users)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"users": users, **_milliseconds(taken), "errors": len(errors), "first": errors[:3]}


# -- the server --------------------------------------------------------------------------------------------------------


@contextmanager
def _served(models: str, images: int) -> Iterator[tuple[int, str]]:
    """A server's process and its address."""
    command = [
        sys.executable,
        "-c",
        "import cases.pages, sys; cases.pages.serve_synthetic(*sys.argv[1:])",
    ]
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        [*command, models, str(images)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    ) as process:
        try:
            assert process.stdout is not None
            found = next(filter(None, (re.match(r"http://\S+", line) for line in process.stdout)))
            # whatever else it says must not fill the pipe
            threading.Thread(target=process.stdout.read, daemon=True).start()
            yield process.pid, found[0]
        finally:
            process.kill()


def serve_synthetic(models: str, images: str) -> None:
    """Serve a gallery that is made of random vectors, until the process is ended."""
    from mmpoison.datasets import ImageTable, PairDataset
    from mmpoison.models import load_encoder
    from mmpoison.models.embedding import embed_captions
    from mmpoison.pages import serve
    from mmpoison.pages.search import Collection, Engine, Library, Source
    from mmpoison.pages.search.embedded import Searchable
    from mmpoison.pages.search.web import search_app

    rng = np.random.default_rng(0)
    count = int(images)
    labels = [THINGS[n % 10] for n in range(count)]
    ids = [f"{n:06d}.jpg" for n in range(count)]
    table = ImageTable.build(ids, labels, ["test"] * count, Path())
    captions = [f"a {label}, number {n}" for n, label in enumerate(labels)]
    collection = Collection("synthetic", PairDataset.build(table, captions, np.arange(count)))
    named = {f"{n + 1} {Path(m).name}": m for n, m in enumerate(models.split(","))}
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
    serve(search_app(Engine(library)), ready=lambda address: print(address, flush=True))


def _used(process: int) -> dict[str, float]:
    """Processor seconds of a process so far, and its peak memory."""
    user, system = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
    peak = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process}/status").read_text())
    assert peak is not None
    ticks = os.sysconf("SC_CLK_TCK")
    return {"cpu": (int(user) + int(system)) / ticks, "peak_mib": int(peak[1]) / 1024}
