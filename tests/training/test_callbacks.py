"""Several callbacks as one: all are called, in order, and any of them may end the training."""

from __future__ import annotations

from typing import Any

from mmpoison.training import Step, chain_callbacks

STEP = Step(1, 2, 0, 0.5, 1e-3, 10.0)


def test_all_are_called_in_order_and_one_may_end_it() -> None:
    called: list[str] = []

    def callback(name: str, ends: bool | None) -> Any:
        def callback(step: Step, encoder: Any) -> bool | None:
            called.append(name)
            return ends

        return callback

    model: Any = object()
    assert chain_callbacks(callback("a", True), None, callback("b", None))(STEP, model) is True
    assert chain_callbacks(callback("c", None), callback("d", False))(STEP, model) is False
    assert called == ["a", "b", "c", "d"]


def test_nobody_ends_nothing() -> None:
    assert chain_callbacks(None)(STEP, object()) is False  # type: ignore[arg-type]
