"""Image and text retrieval against one sort a query, in plain Python."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.retrieval import retrieval_hit_rate

from mmpoison.errors import InputError
from mmpoison.metrics import _retrieval, hit_at_k, image_retrieval_ranks, text_retrieval_ranks

Case = tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[np.int64]]


def slow_ranks(scores: npt.NDArray[Any], match: npt.NDArray[np.bool_]) -> list[int]:
    """Place of the first match in each row once sorted, matches last among equals."""
    places = []
    for row, own in zip(scores, match, strict=True):
        order = np.lexsort((own, -np.round(row, 10)))
        places.append(int(np.flatnonzero(own[order])[0]))
    return places


def cosines(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    table = [[float(np.dot(x, y) / np.sqrt(np.dot(x, x) * np.dot(y, y))) for y in b] for x in a]
    return np.array(table).reshape(len(a), len(b))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Few directions, so that many embeddings tie; captions in any order, every image has one."""
    seed = draw(st.integers(0, 2**32 - 1))
    images, extra, d = draw(st.tuples(st.integers(1, 6), st.integers(0, 8), st.integers(1, 4)))
    tied = draw(st.booleans())
    random = np.random.default_rng(seed)
    owner = random.permutation(np.append(np.arange(images), random.integers(0, images, extra)))

    def embeddings(rows: int) -> npt.NDArray[Any]:
        if not tied:
            return random.standard_normal((rows, d))
        table = random.integers(-1, 2, (rows, d)).astype(np.float32)
        table[~table.any(axis=1), 0] = 1
        return table

    return embeddings(images), embeddings(len(owner)), owner


@given(cases(), st.integers(1, 5), st.integers(1, 5))
def test_equals_a_sort_at_every_block_size(case: Case, query_rows: int, gallery_rows: int) -> None:
    images, texts, owner = case
    match = owner[:, None] == np.arange(len(images))
    scores = cosines(texts.astype(np.float64), images.astype(np.float64))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_retrieval, "_QUERY_ROWS", query_rows)
        patch.setattr(_retrieval, "_GALLERY_ROWS", gallery_rows)
        ir = image_retrieval_ranks(images, texts, owner)
        tr = text_retrieval_ranks(images, texts, owner)
    assert ir.dtype == tr.dtype == np.int64
    assert ir.tolist() == slow_ranks(scores, match)
    assert tr.tolist() == slow_ranks(scores.T, match.T)
    assert image_retrieval_ranks(images, texts, owner).tolist() == ir.tolist()
    assert text_retrieval_ranks(images, texts, owner).tolist() == tr.tolist()


@pytest.fixture(scope="module")
def random_case() -> Case:
    random = np.random.default_rng(1)
    images = random.standard_normal((400, 16)).astype(np.float32)
    return images, random.standard_normal((2000, 16)).astype(np.float32), np.repeat(range(400), 5)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_a_collapsed_encoder_gets_the_worst_ranks(dtype: Any) -> None:
    random = np.random.default_rng(2)
    images = np.tile(random.standard_normal(48), (37, 1)).astype(dtype)
    texts = np.tile(random.standard_normal(48), (111, 1)).astype(dtype)
    owner = random.permutation(np.repeat(np.arange(37), 3))
    assert set(image_retrieval_ranks(images, texts, owner)) == {36}
    assert set(text_retrieval_ranks(images, texts, owner)) == {108}


def test_equals_torchmetrics_without_ties(random_case: Case) -> None:
    images, texts, owner = (part[:200] for part in random_case)
    images = images[:40]
    scores = torch.nn.functional.normalize(torch.from_numpy(images).double(), dim=1)
    scores = scores @ torch.nn.functional.normalize(torch.from_numpy(texts).double(), dim=1).T
    match = torch.from_numpy(np.arange(40)[:, None] == owner)
    for k in (1, 5, 10):
        tr = [float(retrieval_hit_rate(s, m, top_k=k)) for s, m in zip(scores, match, strict=True)]
        ir = [
            float(retrieval_hit_rate(s, m, top_k=k)) for s, m in zip(scores.T, match.T, strict=True)
        ]
        ours = hit_at_k(text_retrieval_ranks(images, texts, owner), k)
        assert ours == pytest.approx(sum(tr) / 40)
        ours = hit_at_k(image_retrieval_ranks(images, texts, owner), k)
        assert ours == pytest.approx(sum(ir) / 200)


def test_images_without_captions_are_distractors_for_image_retrieval() -> None:
    assert image_retrieval_ranks([[1.0, 0.0], [1.0, 0.1]], [[1.0, 0.1]], [0]).tolist() == [1]
    assert image_retrieval_ranks(np.ones((2, 3)), np.ones((0, 3)), []).shape == (0,)


@pytest.mark.parametrize(
    ("owner", "message"),
    [
        ([0, 0, 0], r"image 1 has no caption: 1 of 2 images, text_image of shape \(3,\)"),
        ([1, 1, 1], "image 0 has no caption"),
    ],
)
def test_text_retrieval_refuses_images_without_captions(owner: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        text_retrieval_ranks(np.ones((2, 3)), np.ones((3, 3)), owner)


ONES = np.ones((2, 3))


@pytest.mark.parametrize("function", [image_retrieval_ranks, text_retrieval_ranks])
@pytest.mark.parametrize(
    ("images", "texts", "owner", "message"),
    [
        (np.ones(3), ONES, [0, 1], r"image_embeddings must have shape \(I, d\), not \(3,\)"),
        (ONES, np.ones(3), [0, 1], r"text_embeddings must have shape \(T, d\), not \(3,\)"),
        (np.ones((0, 3)), ONES, [0, 1], r"no images: shape \(0, 3\)"),
        (np.ones((2, 4)), ONES, [0, 1], r"\(2, 4\) and text_embeddings \(2, 3\) differ in d"),
        (ONES, ONES, [0], r"text_image of shape \(1,\) does not match .*\(2, 3\)"),
        (ONES, ONES, [[0], [1]], r"text_image of shape \(2, 1\)"),
        (ONES, ONES, [0.0, 1.0], r"integers, not float64; shape \(2,\)"),
        (ONES, ONES, [False, True], "integers, not bool"),
        (ONES, ONES, [0, 2], r"holds 0 to 2, but image_embeddings of shape \(2, 3\)"),
        (ONES, ONES, [-1, 1], "holds -1 to 1"),
        (ONES * [[1], [0]], ONES, [0, 1], "image_embeddings row 1 is a zero vector"),
        (ONES, ONES * [[0], [1]], [0, 1], "text_embeddings row 0 is a zero vector"),
        (ONES, ONES * [[1], [np.nan]], [0, 1], "text_embeddings row 1 contains NaN"),
    ],
)
def test_bad_input(function: Any, images: Any, texts: Any, owner: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        function(images, texts, owner)


# -- equal captions --------------------------------------------------------------------------------


@given(cases(), st.randoms(use_true_random=False))
def test_equal_words_count_as_right_at_every_chunk_size(case: Case, random: Any) -> None:
    images, texts, owner = case
    wording = np.array([random.randint(0, 3) for _ in owner], dtype=np.int64)
    scores = cosines(images, texts)
    carries = [
        {int(w) for w, o in zip(wording, owner, strict=True) if o == i} for i in range(len(images))
    ]
    match = np.array([[int(w) in carried for w in wording] for carried in carries])
    match = match.reshape(len(images), len(texts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_retrieval, "_QUERY_ROWS", 3)
        patch.setattr(_retrieval, "_GALLERY_ROWS", 2)
        assert image_retrieval_ranks(images, texts, owner, wording).tolist() == slow_ranks(
            scores.T, match.T
        )
        if set(owner.tolist()) == set(range(len(images))):
            assert text_retrieval_ranks(images, texts, owner, wording).tolist() == slow_ranks(
                scores, match
            )


@pytest.mark.parametrize("wording", [[0], [0.5, 1.0], ["a", "b"]])
def test_wording_that_does_not_fit(wording: Any) -> None:
    with pytest.raises(InputError, match=r"wording must be integers of shape \(2,\)"):
        image_retrieval_ranks(np.eye(2), np.eye(2), [0, 1], wording)
