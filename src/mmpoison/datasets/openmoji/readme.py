"""The README that goes with a built data set."""

from __future__ import annotations

from mmpoison.datasets.openmoji.table import CLASSES
from mmpoison.datasets.openmoji.version import OPENMOJI_SCENES_VERSION


def readme_text(
    *, seed: int, size: int, unlabelled: int, per_class: int, held_out: int, attribution: str
) -> str:
    """What the folder holds, how to make it again, and whose drawings it shows."""
    train = len(CLASSES) * (per_class - per_class // 2)
    test = len(CLASSES) * (per_class // 2)
    return f"""# OpenMoji scenes

Composed {size} x {size} pictures of the 20 PASCAL VOC classes with five English captions each,
made by `mmpoison` for studying data poisoning of multimodal encoders and the defences against it.
The objects are OpenMoji drawings, some of them repainted, cut or combined, on painted backgrounds.

| part | images | split | label |
|---|---|---|---|
| `unlabelled/` | {unlabelled} | train | none; classes by the long tail of Flickr30k |
| one folder a class | {train} | train | the class |
| one folder a class | {test} | test | the class |
| `val/` | {held_out} | val | none; all classes equally often |

`captions.jsonl` holds one image a line: `image`, `captions`, `label`, `split`.

Version {OPENMOJI_SCENES_VERSION}, seed {seed}. The same version, seed and counts give the same
pictures and captions: `mmpoison.datasets.openmoji.build_openmoji(out, seed={seed},
unlabelled={unlabelled}, per_class={per_class}, held_out={held_out}, size={size})`.

Classes: {", ".join(CLASSES)}.

## Attribution and licence

{attribution}

<https://openmoji.org>, <https://creativecommons.org/licenses/by-sa/4.0/>. The pictures are adapted
from those drawings and come under the same licence, CC BY-SA 4.0.
"""
