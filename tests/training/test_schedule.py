"""The learning rate over a run: warm-up and schedule together, for all parameter groups."""

import math
import sys

import pytest
import torch
from hydra.utils import instantiate
from lightning.pytorch.callbacks import EarlyStopping
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, CyclicLR, LambdaLR

from tests.small_runs import run, write_weights
from tlearn.config.compose import compose
from tlearn.errors import ConfigError
from tlearn.training.schedule import Schedule

HEAD, BODY = 0.1, 0.01
EPOCHS, STEPS = 10, 20
WHOLE = EPOCHS * STEPS


def schedule(option: str, **more) -> Schedule:
    """Build a shipped option."""
    return instantiate(compose([f"scheduler={option}"]).scheduler, _convert_="all", **more)


def optimizer() -> torch.optim.Optimizer:
    head, body = nn.Linear(2, 2), nn.Linear(2, 2)
    return torch.optim.SGD(
        [{"params": head.parameters(), "lr": HEAD}, {"params": body.parameters(), "lr": BODY}], lr=HEAD, momentum=0.9
    )


def rates(chosen: Schedule, losses: list[float] | None = None) -> list[tuple[float, float]]:
    """Give the rates of both groups at each step of a run, and after the last one."""
    optim = optimizer()
    described = chosen.configure(optim, WHOLE, EPOCHS, "val/loss")
    seen = []
    for step in range(WHOLE):
        seen.append(tuple(group["lr"] for group in optim.param_groups))
        optim.step()
        for one in described:
            if one["interval"] == "step":
                one["scheduler"].step()
        if (step + 1) % STEPS == 0:
            for one in described:
                if one["interval"] == "epoch":
                    arguments = [] if losses is None else [losses[step // STEPS]]
                    one["scheduler"].step(*arguments)
    return [*seen, tuple(group["lr"] for group in optim.param_groups)]


# Better for four epochs and then never again: with patience 2 down after epochs 7 and 10
LOSSES = [1.0, 0.9, 0.8, 0.7] + [0.7] * 6
# (option, losses, what is left of the rate after the run)
CASES = [("none", None, 1.0), ("cosine", None, 0.0), ("step", None, 0.1), ("plateau", LOSSES, 0.01)]


@pytest.mark.parametrize("warmup", [0, 7, 30])
@pytest.mark.parametrize(("option", "losses", "left"), CASES, ids=[case[0] for case in CASES])
def test_a_shipped_schedule_goes_where_it_should_with_and_without_warm_up(option, losses, left, warmup):
    seen = rates(schedule(option, warmup_steps=warmup), losses)
    plain = rates(schedule(option), losses)
    assert all(body == pytest.approx(head * BODY / HEAD, abs=1e-12) for head, body in seen)
    assert seen[-1] == pytest.approx((HEAD * left, BODY * left), abs=1e-9)
    assert seen[0][0] == pytest.approx(HEAD * (1e-3 if warmup else 1.0))
    # Warm-up multiplies what the schedule gives, and afterwards leaves it alone.
    for step, (own, without) in enumerate(zip(seen, plain, strict=True)):
        factor = min(1.0, 1e-3 + (1 - 1e-3) * step / warmup) if warmup else 1.0
        assert own[0] == pytest.approx(factor * without[0], rel=1e-6, abs=1e-12)


def test_cosine_falls_along_half_a_cosine():
    heads = [head for head, _ in rates(schedule("cosine"))]
    expected = [HEAD * (1 + math.cos(math.pi * step / WHOLE)) / 2 for step in range(WHOLE + 1)]
    assert heads == pytest.approx(expected, abs=1e-9)


def test_step_falls_once_after_seven_epochs():
    heads = [head for head, _ in rates(schedule("step"))]
    assert heads == pytest.approx([HEAD] * 7 * STEPS + [HEAD * 0.1] * (3 * STEPS + 1))


def test_plateau_falls_only_after_its_patience():
    heads = [head for head, _ in rates(schedule("plateau"), LOSSES)]
    assert heads[: 7 * STEPS] == [HEAD] * 7 * STEPS
    assert heads[7 * STEPS] == pytest.approx(HEAD * 0.1)


def test_one_cycle_peaks_at_each_group_s_rate_and_ends_near_zero():
    seen = rates(schedule("onecycle"))
    peak = max(range(len(seen)), key=lambda step: seen[step][0])
    assert peak == pytest.approx(0.3 * WHOLE, abs=1)
    assert seen[peak] == pytest.approx((HEAD, BODY))
    assert seen[0] == pytest.approx((HEAD / 25, BODY / 25))
    assert seen[WHOLE - 1][0] < HEAD * 1e-4
    assert all(body == pytest.approx(head * BODY / HEAD) for head, body in seen)


def test_lightning_is_told_what_to_watch_and_when_to_move():
    [main, rise] = schedule("plateau", warmup_steps=3).configure(optimizer(), WHOLE, EPOCHS, "val/top1")
    assert (main["interval"], main["monitor"]) == ("epoch", "val/top1")
    assert rise["interval"] == "step"
    assert schedule("none").configure(optimizer(), WHOLE, EPOCHS, "val/loss") == []


def test_epochs_reach_a_scheduler_that_asks_for_them():
    per_epoch = Schedule(torch.optim.lr_scheduler.CosineAnnealingLR, "epoch", from_run={"T_max": "epochs"})
    seen = rates(per_epoch)
    assert seen[STEPS - 1][0] == HEAD
    assert seen[-1] == pytest.approx((0, 0), abs=1e-9)


def test_one_cycle_with_a_second_warm_up_is_refused():
    with pytest.raises(ConfigError, match=r"scheduler\.warmup_steps.*pct_start"):
        schedule("onecycle", warmup_steps=5).configure(optimizer(), WHOLE, EPOCHS, "val/loss")


@pytest.mark.parametrize(
    "build",
    [
        lambda optim: LambdaLR(optim, lambda step: 1.0),
        lambda optim: CyclicLR(optim, 0.001, 0.1),
        lambda optim: CosineAnnealingWarmRestarts(optim, 10),
    ],
    ids=["LambdaLR", "CyclicLR", "CosineAnnealingWarmRestarts"],
)
def test_warm_up_is_refused_with_a_scheduler_that_would_undo_it(build):
    assert len(Schedule(build, "step").configure(optimizer(), WHOLE, EPOCHS, "val/loss")) == 1
    with pytest.raises(ConfigError, match=r"scheduler\.warmup_steps"):
        Schedule(build, "step", 5).configure(optimizer(), WHOLE, EPOCHS, "val/loss")


@pytest.mark.parametrize("option", ["cosine", "onecycle"])
def test_a_run_without_end_is_refused_where_the_length_counts(option):
    with pytest.raises(ConfigError, match=r"trainer\.max_epochs"):
        schedule(option).configure(optimizer(), math.inf, -1, "val/loss")


@pytest.mark.parametrize("option", ["none", "step", "plateau"])
def test_a_run_without_end_is_fine_elsewhere(option):
    schedule(option, warmup_steps=5).configure(optimizer(), math.inf, -1, "val/loss")


def test_an_argument_that_the_scheduler_refuses_is_a_configuration_error():
    with pytest.raises(ConfigError, match=r"scheduler: .*gama"):
        schedule("step", build={"gama": 0.5}).configure(optimizer(), WHOLE, EPOCHS, "val/loss")


@pytest.mark.parametrize(
    ("option", "patience"), [("cosine", sys.maxsize), ("onecycle", sys.maxsize), ("step", 2), ("none", 2)]
)
def test_early_stopping_does_not_end_a_schedule_of_the_whole_run(option, patience, capsys):
    stopping = EarlyStopping("val/loss", patience=2)
    schedule(option).train_to_the_end([stopping])
    assert stopping.patience == patience
    assert ("early stopping: off" in capsys.readouterr().out) == (patience > 2)


def test_a_run_whose_rate_still_rises_goes_on(tmp_path, folder_data):
    weights = write_weights(tmp_path / "weights.pth")
    # No validation can improve by so much.
    stops = ["trainer.max_epochs=4", "callbacks.early_stopping.patience=1", "callbacks.early_stopping.min_delta=100"]
    assert run(tmp_path / "none", folder_data, weights, *stops)["epoch/last"] == 1
    assert run(tmp_path / "onecycle", folder_data, weights, *stops, "scheduler=onecycle")["epoch/last"] == 3
