"""Hostile bytes: every parser reads a changed example or refuses it in one line; `make fuzz` tries many more."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import re
import shutil
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console
from tests.conftest import PLACES, nothing_happens, tiny_config, write_square_pairs
from tests.datasets.formats.conftest import write_arrow, write_csv, write_parquet, write_shard
from tests.datasets.published.conftest import karpathy_image, write_coco, write_regions
from tests.defenses.scan.embedded import conftest as embedded
from tests.reporting.conftest import example_metrics, example_rank_lists, example_suspicious
from tests.scan_results import write_scan_result

from mmpoison import SingleTargetLabel, datasets
from mmpoison.attacks import build_attack
from mmpoison.attacks.target_labels import rebuild
from mmpoison.base.untrusted import parse_changes, read_json
from mmpoison.datasets import load_pairs, save_pairs
from mmpoison.datasets.verify import load_to_verify, verify_pairs
from mmpoison.defenses.scan import ShardError, check_shard, open_embedded, write_results
from mmpoison.defenses.scan.cut.labels import LabelFile, labelled_places
from mmpoison.defenses.scan.cut.result import ShardVerdict
from mmpoison.defenses.scan.read.pieces import PairPieces
from mmpoison.defenses.scan.write.keep_lists import keep_filter
from mmpoison.errors import InputError, ResultError
from mmpoison.images.decode import read_image
from mmpoison.images.sources import open_image
from mmpoison.pages.review import as_scanned, group_members, scanned_pairs
from mmpoison.pairs.manifest import PoisonManifest
from mmpoison.records.data_scan import read_scan
from mmpoison.reporting.compare import compare_models
from mmpoison.reporting.html_report import render_runs_html, write_report
from mmpoison.reporting.results import expand, results_table
from mmpoison.reporting.seeds import metrics_tables, seed_tables
from mmpoison.reporting.table import markdown
from mmpoison.reporting.terminal_tables import terminal, terminal_table
from mmpoison.runs.recipe_files import recipe_files
from mmpoison.runs.run_all import experiment_about
from mmpoison.runs.run_list import grid_of_runs

Act = Callable[[Path], Any]
Case = dict[str, bytes]
MAX_BYTES = 1 << 20

# -- changes ---------------------------------------------------------------------------------------

DEEP = 2000
TOKENS = (
    *("", "null", "true", "-1", "0.5", "[]", "{}", '""', '"x"', "[null]", '{"a": {"b": []}}'),
    *("NaN", "-Infinity", "1e999", "1e308", "-0.0", "9" * 400, "-" + "9" * 5000, str(2**63)),
    *("[" * DEEP, "[" * DEEP + "]" * DEEP, '{"a":' * DEEP + "1" + "}" * DEEP),
    *('"\\ud800"', '"\\u0000"', '"a\\nb"', '"a\x1b[31mb"', "\x00", "\ufeff", "\u202e", "\x85"),
    *('"../canary-secret"', "../canary-secret", "/etc/passwd", "/dev/zero", "..", "n" * 5000),
    *('"' + "d/" * 3000 + '"', '"' + "x" * 100_000 + '"', "{0.__class__}", "__class__"),
    *("hf-hub:evil/model", '"pypi:os"', "http://127.0.0.1:9/x", "sheep2sofa", "extends: openmoji"),
    *(".nan", "0x" + "f" * 5000, "1:" * 2000 + "1", "2001-99-99", "!!binary '=='", "!!int ''"),
    *("!!python/object/apply:os.system ['true']", "&a [*a]", "<<: 1", "? [a, b]\n: c", "- " * DEEP),
    "&x [&y [&z [1,1,1,1,1,1,1,1],*z,*z,*z,*z,*z,*z,*z],*y,*y,*y,*y,*y,*y,*y]",
)
"""Text that has broken parsers before."""
NUMBERS = (0, 1, 127, 255, 4096, 65535, 2**24, 2**31 - 1, 2**32 - 1, 2**40, 2**63, 2**64 - 1)
"""Sizes and counts for binary headers."""
SPANS = [re.compile(text) for text in (rb'"[^"\n]*"|[\w.+-]+', rb"[^\n]*\n?", rb"[^,\t]*[,\t]?")]
"""Words and values, lines, cells."""


@st.composite
def changed_bytes(draw: st.DrawFn, raw: bytes) -> bytes:
    """Change one span of bytes, a word, a line or a cell."""
    kind = draw(st.sampled_from([None, None, *SPANS]))
    if kind is None:
        at = draw(st.integers(0, len(raw)) | st.integers(max(0, len(raw) - 64), len(raw)))
        start, end = at, min(len(raw), at + draw(st.sampled_from((0, 1, 2, 4, 8, 64, 300))))
        other = raw[at // 2 : at // 2 + end - start]
    else:
        found = [match.span() for match in kind.finditer(raw)] or [(0, 0)]
        start, end = draw(st.sampled_from(found))
        other = raw[slice(*draw(st.sampled_from(found)))]
    span = raw[start:end]
    size = draw(st.sampled_from((1, 2, 4, 8)))
    number = st.sampled_from(NUMBERS).map(lambda value: value % (1 << 8 * size))
    new = draw(
        st.sampled_from(TOKENS).map(lambda text: text.encode("utf-8", "surrogatepass"))
        | st.sampled_from((b"", other, span + other, span * 2, span * 50, b"\xff" * len(span)))
        | st.integers(0, 7).map(lambda bit: bytes(byte ^ 1 << bit for byte in span))
        | st.builds(int.to_bytes, number, st.just(size), st.sampled_from(("little", "big")))
        | st.binary(max_size=16)
    )
    rest = b"" if draw(st.integers(0, 9)) == 9 else raw[end:]
    return (raw[:start] + new + rest)[:MAX_BYTES]


def unpacked(raw: bytes) -> tuple[bytes, Callable[[bytes], bytes]]:
    """What lies behind a compression, a length or a checksum, and how to put it back there."""
    if raw.startswith(b"\x1f\x8b"):
        return gzip.decompress(raw), lambda inner: gzip.compress(inner, 1, mtime=0)
    if raw[257:262] == b"ustar":
        return raw, _tar_checksums
    header = int.from_bytes(raw[:8], "little") + 8
    if raw[8:9] == b"{" and header < len(raw):
        tensors = raw[header:]
        return raw[8:header], lambda inner: len(inner).to_bytes(8, "little") + inner + tensors
    return raw, lambda inner: inner


def _tar_checksums(raw: bytes) -> bytes:
    data = bytearray(raw)
    for at in range(0, len(data) - 511, 512):
        if data[at + 257 : at + 262] == b"ustar":
            data[at + 148 : at + 156] = b" " * 8
            data[at + 148 : at + 156] = b"%06o\x00 " % sum(data[at : at + 512])
    return bytes(data)


@st.composite
def changed(draw: st.DrawFn, example: Case) -> Case:
    """Change one to four places of the files."""
    case = dict(example)
    for _ in range(draw(st.integers(1, 4))):
        name = draw(st.sampled_from(sorted(case)))
        try:
            inner, pack = unpacked(case[name])
        except (ValueError, OSError, EOFError, zlib.error, LookupError):
            inner, pack = case[name], bytes  # an earlier change broke it
        if draw(st.booleans()):
            case[name] = draw(changed_bytes(case[name]))
        else:
            case[name] = pack(draw(changed_bytes(inner)))
    return case


# -- data ------------------------------------------------------------------------------------------

NAMES = [f"{label}/{n}.png" for label in ("sheep", "sofa") for n in range(4)]
COLUMNS = {
    "image": NAMES,
    "caption": [f"a {name}, on a hill" for name in NAMES],
    "label": [name.split("/")[0] for name in NAMES],
    "split": ["train", "train", "val", "test"] * 2,
}
BYTES: dict[str, Any] = {**COLUMNS, "image": [{"bytes": b"x" * 20, "path": name} for name in NAMES]}
PAIRS = embedded.make_pairs(40)


def squares(folder: Path) -> Path:
    return write_square_pairs(folder, per_class=9, unlabelled=1)


def load(place: Path, format: str | None = None) -> None:
    """Read a set as `data verify`, `train` and `filter` do, and copy it."""
    pairs, name, faults = load_to_verify(place, format=format)
    found = verify_pairs(pairs, images=False, format=name, manifest_faults=faults)
    json.dumps([found.to_json(), *pairs.lines()], allow_nan=False)
    for image in pairs.images.ids:
        with contextlib.suppress(InputError), open_image(pairs.root, str(image)) as stream:
            stream.read(MAX_BYTES)
    for piece in datasets.stream_pairs(place, images_at_once=3, format=format):
        piece.counts()
    copy = place.parent / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    save_pairs(load_pairs(place, format=format), copy, images="none")
    load_pairs(copy)


def tsv(folder: Path) -> None:
    text = write_csv(folder, COLUMNS).read_bytes()
    (folder / "a.tsv.gz").write_bytes(gzip.compress(text.replace(b",", b"\t")))


def published(name: str, **options: Any) -> Act:
    def read(folder: Path) -> None:
        pairs = datasets.load_dataset(name, folder, options={"missing": "keep", **options})
        json.dumps([*pairs.lines(), pairs.counts()])

    return read


def regions(folder: Path) -> None:
    write_regions(folder, {n: ("two sheep", "a lamb", "a jet", "x")[n:] for n in range(4)})
    data = [{"image_id": n, "url": f"https://x/y/VG_100K_2/{n}.jpg"} for n in range(4)]
    (folder / "image_data.json").write_text(json.dumps(data))


def karpathy(folder: Path) -> None:
    images = [karpathy_image(f"airport_{n}.jpg", split) for n, split in enumerate(COLUMNS["split"])]
    (folder / "dataset_rsicd.json").write_text(json.dumps({"images": images, "dataset": "rsicd"}))


def picture(format: str, mode: str = "RGB") -> Act:
    pixels = np.random.default_rng(0).integers(0, 256, (18, 24, 3), dtype=np.uint8)
    return lambda folder: Image.fromarray(pixels).convert(mode).save(folder / "image", format)


# -- our own files ---------------------------------------------------------------------------------


def poisoned(folder: Path) -> None:
    attack = SingleTargetLabel(goal="sheep2sofa", samples=2, mode="add")
    save_pairs(attack.poison(load_pairs(squares(folder / "pairs")), seed=0), folder / "poisoned")


def read_poisoned(folder: Path) -> None:
    clean = load_pairs(folder / "pairs")
    pairs, name, faults = load_to_verify(folder / "poisoned")
    found = verify_pairs(pairs, clean=clean, images=False, format=name, manifest_faults=faults)
    manifest = PoisonManifest.read(folder / "poisoned" / "manifest.json")
    json.dumps([found.to_json(), manifest.to_json()], allow_nan=False)
    rebuild(clean, manifest)


def labels(folder: Path) -> None:
    squares(folder / "pairs")
    images = [f"sheep/{n:02d}.png,{'sofa' if n % 2 else ''},train" for n in range(4)]
    (folder / "images.csv").write_text("\n".join(["image,label,split", *images]))
    verdicts = [f"sheep/{n:02d}.png#{n},{('keep', 'drop', 'unsure', '')[n]}" for n in range(4)]
    (folder / "pairs.csv").write_text("\n".join(["pair,verdict", *verdicts]))


def read_labels(folder: Path) -> None:
    pairs = load_pairs(folder / "pairs")
    with contextlib.suppress(InputError):
        datasets.labels_from_csv(pairs, folder / "images.csv")
    names = [[name for *_, name in PairPieces(pairs).judged("train")]]
    labelled_places(names, folder / "pairs.csv")
    with LabelFile(folder / "pairs.csv", ["sheep/00.png#0"]) as file:
        file.set("sheep/00.png#0", "drop")


def scan(folder: Path) -> None:
    squares(folder / "pairs")
    rows = []
    for n, place in enumerate(PLACES[:5]):
        row = {
            "pair": f"aeroplane/00.png#{n}",
            "caption": f"a aeroplane {place}, picture 0 word {n}",
        }
        rows.append({**row, "score": n / 9, "drop": n > 2, "group": 0})
    write_scan_result(folder, rows, data_path="pairs", groups=[{}])


def read_scores(folder: Path) -> None:
    as_scanned(read_scan(folder), folder)
    group_members(folder)
    for pair in scanned_pairs(folder, PairPieces(folder / "pairs"), 5):
        json.dumps([pair.caption, pair.distance], allow_nan=False)


def recipe(folder: Path) -> None:
    sweep = "sweep:\n  seeds: [0, 1]\n  grid: {attack.samples: [5, 10]}\n"
    sweep += "  variants: {frozen: {training.trainable: image}, plain: null}\n"
    text = recipe_files()["openmoji"].read_text(encoding="utf-8")
    (folder / "recipe.yaml").write_text(text + sweep)


def read_recipe(folder: Path) -> None:
    """Read a recipe as `--set`, `sweep` and `run` do."""
    file = folder / "recipe.yaml"
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    with contextlib.suppress(InputError):
        parse_changes([line.replace(":", "=", 1) for line in lines[5:10]])
    sweep = grid_of_runs(file, {}, classes=lambda recipe: ["sheep", "sofa"])
    assert all(run.id for run in sweep.runs[:100])
    recipe = sweep.runs[0].recipe
    recipe.to_yaml()
    build_attack(recipe.attack.name, recipe.attack.goals, recipe.attack.options)


def sweep(folder: Path) -> None:
    (folder / "experiment.yaml").write_text("name: x\nsweep:\n  seeds: [0]\n  grid: {a: [1]}\n")


def run(folder: Path) -> None:
    ranked = example_rank_lists()
    # one picture is enough, and a small file is changed where it matters
    ranked["thumbnails"] = dict([*ranked["thumbnails"].items()][:1])
    point = {"x": 0.1, "y": -0.2, "label": "sheep", "kind": "image"}
    contents = {
        "metrics": example_metrics(),
        "rank_lists": {**ranked, "queries": ranked["queries"][:1]},
        "suspicious_pairs": example_suspicious()[:3],
        "embedding_map": {"points": [point, point]},
        "manifest": {"seed": 0, "goals": ["sheep2aeroplane"]},
    }
    for name, value in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    recipe(folder)


def read_metrics(folder: Path) -> None:
    """Read the numbers of a run as `report` counts them."""
    runs = expand([folder])
    tables = [*seed_tables(runs), *metrics_tables(read_json(folder / "metrics.json"))]
    markdown(tables)
    results_table(runs)
    tables += compare_models(runs, "clean_model", "poisoned")
    json.dumps([table.to_json() for table in tables], allow_nan=False)


def read_run(folder: Path) -> None:
    """Read a run as `report` shows it: on the page of one run, of several, and on the terminal."""
    write_report(folder)
    render_runs_html(expand([folder]))
    console = Console(file=io.StringIO(), width=120)
    console.print(
        terminal_table(read_json(folder / "metrics.json")), terminal(seed_tables([folder]))
    )


# -- embeddings and models -------------------------------------------------------------------------


def datacomp(folder: Path) -> None:
    for file in list(embedded.datacomp(folder, [PAIRS]).iterdir()):
        file.rename(folder / f"a{file.suffix}")


def embeddings(format: str) -> Act:
    """Read a source as a scan does; a shard that is refused ends nothing."""

    def read(folder: Path) -> None:
        source = open_embedded(folder, format=format)
        shutil.rmtree(folder.parent / "out", ignore_errors=True)
        with write_results(folder.parent / "out", source) as results:
            for shard in source.shards:
                try:
                    rows = check_shard(shard).rows
                    shard.image_ids()
                    results.add(shard, ShardVerdict(np.zeros(rows), np.arange(rows) % 3 == 0))
                except ShardError as error:
                    results.fail(shard, str(error))

    return read


def keep_list(folder: Path) -> None:
    np.save(folder / "keep.npy", np.arange(80, dtype="<u8").view("<u8,<u8"))


def save_model(encoder: Any, folder: Path, format: Any) -> None:
    import safetensors.torch
    import torch

    from mmpoison.models.export import export_model

    folder.rmdir()
    export_model(encoder, folder, "open-clip" if format == "torch" else format)
    if format == "torch":
        weights = folder / "open_clip_model.safetensors"
        torch.save(safetensors.torch.load_file(weights), folder / "open_clip_pytorch_model.bin")
        weights.unlink()


def load_model(place: Path) -> None:
    """Load a model as `models show` and `evaluate` do, and encode captions and an image."""
    import torch

    from mmpoison.models import load_encoder
    from mmpoison.models.export import encoder_facts

    if (place / "model.safetensors").exists() and not (place / "config.json").exists():
        place = place / "model.safetensors"
    encoder = load_encoder(place)
    json.dumps(encoder_facts(encoder), allow_nan=False)
    pixels = np.zeros((1, encoder.image_size, encoder.image_size, 3), dtype=np.uint8)
    with torch.no_grad():
        encoder.encode_text(encoder.tokens(["a sheep", "two sofas! 3 words", ""]))
        encoder.encode_image(encoder.image_input(pixels))


# -- all of them -----------------------------------------------------------------------------------

TARGETS: dict[str, tuple[Act, Act, str]] = {
    "pairs-folder": (squares, load, "captions.jsonl"),
    "csv": (lambda f: write_csv(f, COLUMNS), lambda f: load(f / "a.csv"), "a.csv"),
    "tsv-gzip": (tsv, lambda f: load(f / "a.tsv.gz"), "a.tsv.gz"),
    "parquet": (lambda f: write_parquet(f, BYTES), load, "a.parquet"),
    "arrow": (lambda f: write_arrow(f, BYTES), lambda f: load(f, "hugging-face"), "*"),
    "tar": (lambda f: write_shard(f, COLUMNS), load, "00000.tar"),
    "coco": (
        lambda f: write_coco(f, {n: (17, 1)[n % 2 :] for n in range(5)}),
        published("coco", splits="paper", drop_classes="person", test_per_class=1),
        "annotations/*",
    ),
    "visual-genome": (regions, published("visual-genome"), "*.json"),
    "karpathy": (karpathy, published("rsicd"), "*.json"),
    **{
        f"image-{kind}": (picture(kind), lambda f: read_image(f, "image", 32), "image")
        for kind in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM")
    },
    "manifest": (poisoned, read_poisoned, "poisoned/manifest.json"),
    "labels": (labels, read_labels, "*.csv"),
    "scores": (scan, read_scores, "sc*"),
    "recipe": (recipe, read_recipe, "recipe.yaml"),
    "experiment": (sweep, experiment_about, "experiment.yaml"),
    "metrics": (run, read_metrics, "[mr]e*"),
    "run-page": (run, read_run, "[!m]*"),
    "clip-retrieval": (
        lambda f: embedded.clip_retrieval(f, [PAIRS]),
        embeddings("clip-retrieval"),
        "*/*",
    ),
    "datacomp": (datacomp, embeddings("datacomp"), "*"),
    "parquet-lists": (
        lambda f: embedded.parquet_lists(f, [PAIRS], group=9),
        embeddings("parquet-lists"),
        "*",
    ),
    "keep-filter": (
        keep_list,
        lambda f: [*map(keep_filter(f / "keep.npy"), ({"json": {"uid": u}} for u in PAIRS.uids))],
        "keep.npy",
    ),
}
"""What writes an example, what reads it, and a pattern of the files that are changed."""
MODELS = {
    "open-clip-config": ("make_heads_encoder", "open-clip", "open_clip_config.json"),
    "text-tower-config": ("make_heads_encoder", "open-clip", "text_tower/config.json"),
    "tokenizer-files": ("make_heads_encoder", "open-clip", "tokenizer*.json"),
    "bpe-merges": ("make_encoder", "open-clip", "bpe_merges.txt.gz"),
    "safetensors": ("make_encoder", "open-clip", "*.safetensors"),
    "torch-weights": ("make_encoder", "torch", "*.bin"),
    "transformers-config": ("make_encoder", "transformers", "*config.json"),
}
"""Which encoder is saved, for which software, and a pattern of the files that are changed."""


@pytest.fixture(
    scope="module", params=[*TARGETS, *(pytest.param(m, marks=pytest.mark.slow) for m in MODELS)]
)
def target(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, Case, Act]]:
    """A folder as its owner would write it, the files that are changed, and what reads the folder."""
    folder = tmp_path_factory.mktemp("hostile") / "input"
    folder.mkdir()
    (folder.parent / "canary-secret").write_bytes(b"{}")
    if request.param in TARGETS:
        make, read, pattern = TARGETS[request.param]
        make(folder)
    else:
        fixture, format, pattern = MODELS[request.param]
        # transformers knows vision transformers only
        sizes = {"layers": 1, "width": 32, "head_width": 16, "patch_size": 8}
        config = {"config": tiny_config(**sizes)} if format == "transformers" else {}
        save_model(request.getfixturevalue(fixture)(**config), folder, format)
        read = load_model
    files = [file for file in sorted(folder.glob(pattern)) if file.is_file()]
    assert files
    example = {str(file.relative_to(folder)): file.read_bytes() for file in files}
    with contextlib.chdir(folder), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read(folder)
        yield folder, example, read


@settings(derandomize=settings().max_examples <= 100)  # but `make fuzz` tries others each time
@given(data=st.data())
def test_changed_bytes_are_read_or_refused(
    target: tuple[Path, Case, Act], data: st.DataObject
) -> None:
    folder, example, read = target
    for name, content in data.draw(changed(example)).items():
        # a new file each time, since Arrow files are mapped
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_bytes(content)
    with nothing_happens(folder):
        try:
            read(folder)
        except (InputError, ResultError) as error:
            said = str(error)
            assert len(said.splitlines()) == 1, said
            # it must not repeat a large input
            assert len(said) < 2000, said
