from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from golden import open_golden, run

from dcrafter.events import MemoryDowngraded
from dcrafter.runtime.residency import Residency


@pytest.fixture
def residency(golden: Path) -> Residency:
    return open_golden(golden / "dc256").residency


def loaded(residency: Residency) -> set[str]:
    children = residency.model.named_children()
    return {name for name, module in children if not all(weight.is_meta for weight in module.parameters())}


def test_what_is_loaded_stays_until_something_else_is_needed(residency: Residency) -> None:
    events = list(residency.ensure_loaded("unet", "autoencoder"))
    assert {event.component for event in events} == {"unet", "autoencoder"}
    assert list(residency.ensure_loaded("autoencoder")) == []
    assert loaded(residency) == {"unet", "autoencoder"}
    assert list(residency.ensure_loaded("projector"))
    assert loaded(residency) == {"projector"}
    residency.release()
    assert loaded(residency) == set()
    assert list(residency.ensure_loaded("projector"))


def test_another_type_or_plan_is_loaded_anew(residency: Residency) -> None:
    assert list(residency.ensure_loaded("projector"))
    assert list(residency.ensure_loaded("projector", dtype=torch.bfloat16))
    assert residency.downgrade_plan()
    assert loaded(residency) == set()


def test_evaluations_run_in_working_memory_and_loading_does_not(
    residency: Residency, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two set the same numbers of the C library: within one another, the inner would end the outer."""
    seen: list[str] = []

    @contextmanager
    def working() -> Iterator[None]:
        seen.append("begins")
        yield
        seen.append("ends")

    def evaluate() -> torch.Tensor:
        seen.append("evaluates")
        return torch.tensor(1.0 if "loads" in seen else float("nan"))

    monkeypatch.setattr(residency, "working_memory", working)
    monkeypatch.setattr(residency, "_change_to_float32", lambda *components: seen.append("loads"))
    assert residency.run_finite(evaluate, "projector") == 1
    assert seen == ["begins", "evaluates", "ends", "loads", "begins", "evaluates", "ends"]


def test_memory_that_runs_out_is_tried_again_with_each_smaller_plan(residency: Residency) -> None:
    plans = []

    def attempt() -> Generator[str, None, str]:
        plans.append(residency.plan)
        yield f"begun with {residency.plan}"
        if residency.plan != "min":
            raise RuntimeError("CUDA out of memory")
        return "done"

    events, result = run(residency.retry_with_less(attempt))
    assert plans == ["normal", "low", "min"]
    assert events == [
        "begun with normal", MemoryDowngraded("low"), "begun with low", MemoryDowngraded("min"), "begun with min",
    ]  # fmt: skip
    assert result == "done"


def test_other_errors_and_the_last_plans_come_through(residency: Residency) -> None:
    def failing(message: str) -> Generator[str, None, str]:
        raise RuntimeError(message)
        yield

    with pytest.raises(RuntimeError, match="shapes"):
        run(residency.retry_with_less(lambda: failing("shapes differ")))
    assert residency.plan == "normal"
    with pytest.raises(RuntimeError, match="memory"):
        run(residency.retry_with_less(lambda: failing("out of memory")))
    assert residency.plan == "min"


def test_a_gpu_has_the_next_step_before_one_is_waited_for(residency: Residency) -> None:
    made = []

    def steps() -> Iterator[tuple[int, torch.Tensor]]:
        for number in range(3):
            made.append(number)
            yield number, torch.zeros(1)

    for device, lead in (("cpu", [0, 0, 0]), ("cuda", [1, 1, 0])):
        residency.device = torch.device(device)
        made.clear()
        assert [made[-1] - number for number in residency.follow_finite(steps)] == lead
