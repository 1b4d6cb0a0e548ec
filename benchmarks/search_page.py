"""The search page over a large gallery: latency, users at once, memory, start.

    python benchmarks/search_page.py --json search_page.json

A real server in a process of its own, asked over HTTP. Texts are embedded by a real model (`--model`, several times for
several columns); the gallery's 100,000 vectors are random unit vectors of the model's width, and so are its images:
there are no files, and nothing is asked for pictures. Every query is another one, so nothing can be remembered.

- `one_user`: one query after the other (`--queries`);
- `users`: 20 users at once, each asks again as soon as it has its answer, for `--seconds`; `errors` are answers other
  than 200 and connections that failed;
- `page_ms`: the first page (HTML) over the same HTTP, on a server that is ready;
- `start`: a fresh `mmpoison search` over the small gallery of `--scenes`, if given: seconds from the command to the
  first page (while models are still loading) and to the first results;
- `cpu_ms_a_query`: processor time of the server for one query of `one_user`; unlike the latency it hardly depends on
  what else the machine does;
- `peak_rss_mib`: of the server's process.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.parse
from pathlib import Path
from typing import Any

import numpy as np

PLACES = ("meadow", "hill", "street", "room", "beach", "forest", "table", "roof")
THINGS = ("sheep", "aeroplane", "sofa", "bird", "horse", "train", "bottle", "person", "dog", "cat")
SIZES = ("small", "large", "white", "brown", "red", "grey")


def query(number: int) -> str:
    """A caption that nobody has asked for before."""
    thing, place = THINGS[number % 10], PLACES[number // 10 % 8]
    return f"a {SIZES[number // 80 % 6]} {thing} on a {place}, seen {number} times"


# -- the server, in its own process ----------------------------------------------------------------


def serve_synthetic(models: list[str], images: int) -> None:
    """Serve a gallery that is made of random vectors, until the process is ended."""
    import tempfile

    from mmpoison.datasets import ImageTable, PairDataset
    from mmpoison.models import load_encoder
    from mmpoison.models.embedding import embed_captions
    from mmpoison.pages import serve
    from mmpoison.pages.search import Collection, Engine, Library, Source
    from mmpoison.pages.search.embedded import Searchable
    from mmpoison.pages.search.web import search_app

    rng = np.random.default_rng(0)
    labels = [THINGS[n % 10] for n in range(images)]
    root = Path(tempfile.mkdtemp())
    table = ImageTable.build(
        [f"{n:06d}.jpg" for n in range(images)], labels, ["test"] * images, root
    )
    captions = [query(n) for n in range(images)]
    collection = Collection("synthetic", PairDataset.build(table, captions, np.arange(images)))
    names = [f"{place + 1} {Path(model).name}" for place, model in enumerate(models)]
    library = Library(
        [
            Source(name, lambda m=model: load_encoder(m))
            for name, model in zip(names, models, strict=True)
        ],
        [Source("synthetic", lambda: collection)],
        device="cpu",
    )
    library.collections["synthetic"] = collection
    for job in library.busy():
        job.state = "ready"
    for name, model in zip(names, models, strict=True):
        encoder = load_encoder(model)
        encoder.module.eval()
        library.encoders[name] = encoder
        width = embed_captions(encoder, captions[:1]).shape[1]
        vectors = rng.standard_normal((images, width), dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        index = Searchable(np.arange(images, dtype=np.int32), vectors)
        library._indices["synthetic", "test", name, "images"] = index
    serve(search_app(Engine(library)), ready=lambda address: print(address, flush=True))


def peak_rss(process: int) -> float | None:
    """Peak memory of a process in MiB, where the system says so."""
    status = Path(f"/proc/{process}/status")
    if not status.exists():
        return None
    line = next(li for li in status.read_text().splitlines() if li.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def cpu_seconds(process: int) -> float | None:
    """Processor time of a process so far, where the system says so."""
    stat = Path(f"/proc/{process}/stat")
    if not stat.exists():
        return None
    user, system = stat.read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


# -- who asks --------------------------------------------------------------------------------------


class User:
    """One connection that is kept open, as a browser does."""

    def __init__(self, address: str) -> None:
        self._connection = http.client.HTTPConnection(
            urllib.parse.urlsplit(address).netloc, timeout=60
        )

    def get(self, path: str) -> tuple[float, int, bytes]:
        """Seconds, status and body."""
        begun = time.perf_counter()
        self._connection.request("GET", path)
        answer = self._connection.getresponse()
        body = answer.read()
        return time.perf_counter() - begun, answer.status, body


def path_of(key: str, number: int) -> str:
    """The address of a search."""
    asked = {"data": key, "part": "test", "q": query(number), "shown": 12, "target": "class:0"}
    return f"/api/search?{urllib.parse.urlencode(asked)}"


def milliseconds(seconds: list[float]) -> dict[str, float]:
    """Median, 95th percentile and the worst."""
    values = np.array(seconds) * 1000
    p50, p95 = np.percentile(values, [50, 95])
    return {
        "p50_ms": float(p50),
        "p95_ms": float(p95),
        "max_ms": float(values.max()),
        "n": len(values),
    }


def many_users(address: str, key: str, users: int, seconds: float) -> dict[str, Any]:
    """So many users at once for so long."""
    taken: list[float] = []
    errors: list[str] = []
    until = time.perf_counter() + seconds

    def use(number: int) -> None:
        user = User(address)
        while time.perf_counter() < until:
            number += users
            try:
                passed, status, _ = user.get(path_of(key, number))
            except OSError as error:
                errors.append(repr(error))
                user = User(address)
                continue
            taken.append(passed)
            if status != 200:
                errors.append(f"status {status}")

    threads = [threading.Thread(target=use, args=(10_000_000 + n,)) for n in range(users)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {
        "users": users,
        "seconds": seconds,
        **milliseconds(taken),
        "per_second": len(taken) / seconds,
        "errors": len(errors),
        "first_errors": errors[:3],
    }


def started(command: list[str]) -> tuple[subprocess.Popen[str], str]:
    """A server's process and its address."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.match(r"http://\S+", line):
            # whatever else it says must not fill the pipe
            threading.Thread(target=process.stdout.read, daemon=True).start()
            return process, found[0]
    raise RuntimeError("the server did not start")


def start_up(models: list[str], scenes: Path) -> dict[str, float]:
    """Seconds from the command to the first page, and to the first results."""
    begun = time.perf_counter()
    process, address = started(
        [
            sys.executable,
            "-m",
            "mmpoison",
            "search",
            "--models",
            *models,
            "--data",
            str(scenes),
            "--no-open",
            "--port",
            "0",
        ]
    )
    try:
        User(address).get("/")
        page = time.perf_counter() - begun
        while True:
            _, _, body = User(address).get("/api/state")
            key = json.loads(body)["data"][0]["key"]
            if key:
                _, status, body = User(address).get(path_of(key, 1))
                if status == 200 and json.loads(body)["models"][0]["state"] == "ready":
                    return {"first_page_s": page, "first_results_s": time.perf_counter() - begun}
            time.sleep(0.05)
    finally:
        process.kill()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--model", action="append", help="default: openmoji-small, one column")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--scenes", type=Path, help="a pairs folder, to measure the start with")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    models = options.model or ["openmoji-small"]
    if options.serve:
        serve_synthetic(models, options.images)
        return
    result: dict[str, Any] = {
        "images": options.images,
        "models": models,
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }
    if options.scenes is not None:
        result["start"] = start_up(models, options.scenes)
    chosen = [argument for model in models for argument in ("--model", model)]
    process, address = started(
        [sys.executable, __file__, "--serve", "--images", str(options.images), *chosen]
    )
    try:
        user = User(address)
        key = json.loads(user.get("/api/state")[2])["data"][0]["key"]
        for number in range(5):  # warm up
            user.get(path_of(key, 1_000_000 + number))
        result["page_ms"] = milliseconds([user.get("/")[0] for _ in range(20)])
        before = cpu_seconds(process.pid)
        answers = [user.get(path_of(key, number)) for number in range(options.queries)]
        if before is not None:
            spent = (cpu_seconds(process.pid) or before) - before
            result["cpu_ms_a_query"] = 1000 * spent / options.queries
        assert all(status == 200 for _, status, _ in answers)
        result["one_user"] = milliseconds([passed for passed, _, _ in answers])
        result["many_users"] = many_users(address, key, options.users, options.seconds)
        result["peak_rss_mib"] = peak_rss(process.pid)
    finally:
        process.kill()
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
