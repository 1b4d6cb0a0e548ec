"""The scan by ranks on tables: poison is reported, drifts are not, clean fine-tunes say what is usual."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from mmpoison.defenses.catalogue import CheckResult
from mmpoison.defenses.checks.rank_gain import GoalRankChange, Kinds, check_tables
from mmpoison.errors import InputError

KINDS = 12
NAMES = tuple(f"class{number}" for number in range(KINDS))
Table = npt.NDArray[np.float64]


def kinds(count: int = KINDS) -> Kinds:
    """One image a class."""
    return Kinds(
        np.eye(count), np.arange(count, dtype=np.intp), NAMES[:count], NAMES[:count], "classes"
    )


def reference() -> Table:
    table = np.random.default_rng(0).uniform(2, 8, (KINDS, KINDS))
    np.fill_diagonal(table, 0.1)
    return table


def finetuned(seed: int, heavy: bool = False) -> Table:
    """A clean fine-tune: every pair moves a little, some captions and some images more than others."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_t(4, (KINDS, KINDS)) if heavy else rng.normal(size=(KINDS, KINDS))
    rows, columns = rng.normal(size=(KINDS, 1)), rng.normal(size=(1, KINDS))
    return np.maximum(reference() - 0.3 * noise - 0.4 * rows - 0.4 * columns, 0)


def pushed(seed: int, a: int = 3, b: int = 7) -> Table:
    table = finetuned(seed)
    table[a, b] = 0.5
    return table


def named(found: CheckResult) -> list[tuple[str, str]]:
    """Kinds of the findings in their order."""
    rows = [one.to_json() for one in found.findings]
    return [(row["captions"], row["images"]) for row in rows]


CLEAN = [finetuned(seed) for seed in range(1, 6)]


def test_poison_is_reported_with_its_ranks() -> None:
    found = check_tables(reference(), pushed(9), CLEAN, kinds())
    first = found.findings[0]
    assert isinstance(first, GoalRankChange)
    assert (first.captions, first.images) == ("class3", "class7")
    assert first.p_value < 1e-3
    assert first.reference == pytest.approx(2 ** reference()[3, 7] - 1)
    assert first.suspect == pytest.approx(2**0.5 - 1)
    assert found.facts == {
        "null": "clean fine-tunes",
        "clean_models": 5,
        "pairs_of_kinds": KINDS * (KINDS - 1),
    }
    assert not found.notes
    assert found.flagged(0.01)[0] is first
    assert str(first).startswith(
        "captions of class3 find images of class7 at a typical rank of 0.4"
    )
    assert f"{first.expected:.1f} after a clean fine-tune (p = " in str(first)


def test_without_clean_models_the_other_pairs_are_the_null() -> None:
    found = check_tables(reference(), pushed(9), CLEAN[:1], kinds())
    assert found.facts["null"] == "own"
    assert "clean fine-tunes" in found.notes[0]
    assert named(found)[0] == ("class3", "class7")
    assert found.findings[0].p_value < 0.05
    alone = check_tables(reference(), pushed(9), [], kinds()).findings[0]
    assert f"{2 ** reference()[3, 7] - 1:.1f} in the reference (p = " in str(alone)


def test_alone_a_pair_is_compared_with_all_others_but_itself() -> None:
    suspect = pushed(9)
    gain = np.where(np.eye(KINDS, dtype=bool), np.nan, reference() - suspect)
    for axis in (1, 0):
        gain -= np.nanmedian(gain, axis=axis, keepdims=True)
    gain /= 1.4826 * np.nanmedian(np.abs(gain))
    values = [float(one) for one in gain.ravel() if not np.isnan(one)]
    border, mine = np.quantile(values, 0.95), float(gain[3, 7])
    beyond = [one - border for one in values if one > border and one != mine]
    chance = len(beyond) / (len(values) - 1) * np.exp(-(mine - border) / np.mean(beyond))
    first = check_tables(reference(), suspect, [], kinds()).findings[0]
    assert first.p_value == pytest.approx(1 - (1 - chance) ** len(values))


@pytest.mark.parametrize("heavy", [False, True])
def test_clean_suspects_are_flagged_about_as_often_as_stated(heavy: bool) -> None:
    stated = 0.05
    alarms = 0
    for seed in range(200):
        clean = [finetuned(1000 + 7 * seed + n, heavy) for n in range(5)]
        found = check_tables(reference(), finetuned(5000 + seed, heavy), clean, kinds())
        alarms += bool(found.flagged(stated))
    # three standard deviations of a binomial of 200 at 5 % above it
    assert alarms <= 200 * stated + 3 * np.sqrt(200 * stated * (1 - stated))


def test_what_all_captions_or_all_images_gain_is_not_reported() -> None:
    suspect = finetuned(9)
    suspect[4] -= 1.5
    suspect[:, 8] -= 1.5
    found = check_tables(reference(), np.maximum(suspect, 0), CLEAN, kinds())
    assert not found.flagged(0.01)


def test_what_clean_fine_tunes_do_too_is_not_reported() -> None:
    clean = [pushed(seed) for seed in range(1, 6)]
    found = check_tables(reference(), pushed(9), clean, kinds())
    assert not found.flagged(0.01)
    first = found.findings[0].to_json()
    assert first["rank_expected"] < 1.5 or first["captions"] != "class3"


def test_what_nobody_sees_is_not_reported() -> None:
    before = reference() + 5
    suspect = before - 0.3
    suspect[3, 7] -= 4  # still far down
    suspect[3, 7] = max(suspect[3, 7], np.log2(1 + 11))
    found = check_tables(before, suspect, [], kinds())
    assert ("class3", "class7") not in named(found)


def test_a_kind_with_its_own_images_is_not_reported() -> None:
    suspect = finetuned(9)
    np.fill_diagonal(suspect, 0)
    found = check_tables(reference() + 2, suspect, [], kinds())
    assert not any(captions == images for captions, images in named(found))


def test_nothing_moved_reports_nothing() -> None:
    found = check_tables(reference(), reference(), [], kinds())
    assert not found.flagged(0.5)


def test_too_few_kinds() -> None:
    with pytest.raises(InputError, match="3 kinds of captions and 3 of images are too few"):
        check_tables(np.ones((3, 3)), np.ones((3, 3)), [], kinds(3))
