"""A poisoned set is made again, exactly, from the clean set and the manifest."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmpoison.attacks import (
    MultipleTargetLabels,
    PoisonManifest,
    SingleTargetImage,
    SingleTargetLabel,
    rebuild,
)
from mmpoison.datasets import ImageTable, PairDataset
from mmpoison.errors import InputError

# captions that repeat on an image and across images, as in RSICD
_LABELS = ["sheep"] * 9 + ["aeroplane"] * 7 + ["sofa"] * 7 + ["bird"] * 5 + [None] * 5
_TEST = {*range(6, 9), *range(13, 16), *range(21, 23), *range(26, 28)}
_IMAGES = ImageTable.build(
    [f"{label}/{n}.jpg" for n, label in enumerate(_LABELS)],
    _LABELS,
    ["test" if n in _TEST else "train" for n in range(len(_LABELS))],
    Path("nowhere"),
)
_rng = np.random.default_rng(0)
_image = np.repeat(np.arange(len(_IMAGES)), _rng.integers(1, 6, len(_IMAGES)))
CLEAN = PairDataset.build(_IMAGES, [f"words {n}" for n in _rng.integers(0, 6, len(_image))], _image)

amounts = st.one_of(
    st.fixed_dictionaries({"samples": st.integers(1, 5)}),
    st.fixed_dictionaries({"pairs": st.integers(1, 8)}),
    st.fixed_dictionaries({"share": st.floats(0.2, 1)}),
    st.fixed_dictionaries({"rate": st.floats(0.03, 0.12)}),
)


def attacks() -> st.SearchStrategy[Any]:
    mode, spread = st.sampled_from(["add", "replace"]), st.sampled_from(["captions", "samples"])
    carrier = st.sampled_from(["existing", "own"])
    return st.one_of(
        st.builds(lambda a, m: SingleTargetImage("sheep2aeroplane", mode=m, **a), amounts, mode),
        st.builds(
            lambda a, m, s: SingleTargetLabel("sheep2bird", mode=m, spread=s, **a),
            amounts,
            mode,
            spread,
        ),
        # few enough for the three images of the class
        st.builds(
            lambda n, m, s, c: SingleTargetLabel(
                "sheep2bird", samples=n, mode=m, spread=s, carrier=c
            ),
            st.integers(1, 3),
            mode,
            spread,
            carrier,
        ),
        st.builds(
            lambda a, m, s, d: MultipleTargetLabels(
                ["sheep2aeroplane", "sofa2bird"], mode=m, spread=s, drop_last_targets=d, **a
            ),
            amounts,
            mode,
            spread,
            st.booleans(),
        ),
    )


def content(pairs: PairDataset) -> list[tuple[str, int, int]]:
    return list(zip(pairs.captions, pairs.image.tolist(), pairs.source.tolist(), strict=True))


@given(attacks(), st.integers(0, 2**40))
@settings(max_examples=60)
def test_it_is_the_same_set(attack: Any, seed: int) -> None:
    poisoned = attack.poison(CLEAN, seed)
    # the manifest as it comes back from its file
    value = json.loads(json.dumps(poisoned.manifest.to_json()))
    manifest = read(value)
    assert manifest == poisoned.manifest
    again = rebuild(CLEAN, manifest)
    assert again.fingerprint == poisoned.fingerprint == manifest.fingerprint
    assert content(again) == content(poisoned)
    assert again.manifest == poisoned.manifest


def read(value: dict[str, Any]) -> PoisonManifest:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "manifest.json").write_text(json.dumps(value))
        return PoisonManifest.read(Path(folder) / "manifest.json")


def manifest_of(pairs: PairDataset) -> PoisonManifest:
    manifest = SingleTargetLabel("sheep2bird", pairs=5).poison(pairs).manifest
    assert manifest is not None
    return manifest


def other_captions() -> PairDataset:
    captions = CLEAN.captions.copy()
    captions[0] += "!"
    return PairDataset.build(CLEAN.images, captions, CLEAN.image)


def changed(mode: Any = "add", **first: Any) -> PoisonManifest:
    """A manifest whose first false pair is another one."""
    manifest = manifest_of(CLEAN)
    one = replace(manifest.pairs[0], **first)
    return replace(manifest, mode=mode, pairs=(one, *manifest.pairs[1:]))


IDS = CLEAN.images.ids
OTHER = r"made from a different set|its list of false pairs was chang"


@pytest.mark.parametrize(
    ("clean", "manifest", "says"),
    [
        (other_captions(), manifest_of(CLEAN), other_captions().fingerprint[:12]),
        (
            SingleTargetLabel("sheep2bird", pairs=5).poison(CLEAN),
            manifest_of(CLEAN),
            "the pairs are poisoned already",
        ),
        (CLEAN, replace(manifest_of(CLEAN), filtered={"cut": 1}), "belongs to a filtered set"),
        (CLEAN, changed("replace", caption="never said"), OTHER),
        (CLEAN, changed("replace", clean_image=IDS[-1]), OTHER),
        (
            CLEAN,
            changed(poisoned_image="no/such.jpg"),
            r"image 'no/such.jpg' of the manifest is not in the set",
        ),
    ],
)
def test_what_is_refused(clean: PairDataset, manifest: PoisonManifest, says: str) -> None:
    with pytest.raises(InputError, match=says):
        rebuild(clean, manifest)
