"""train_gan: it learns, it draws, and one Adam in turns is two."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorlib
from jobs import train_gan
from jobs.sources import DataConfig, load_source
from jobs.train_gan import Config, frechet_distance
from jobs.training import Step, Training
from orchestrator.errors import UsageError
from orchestrator.plan import RunPlan
from orchestrator.store import RunDir
from orchestrator.submit import preflight
from tensorlib.vision import image

from .conftest import context_of

SMALL: dict[str, Any] = {
    "model": {"noise": 16, "width": 16},
    "data": {"name": "digits"},
    "optimizer": {"name": "adam", "lr": 0.002, "betas": [0.5, 0.999], "weight_decay": 0.0},
    "batch_size": 64,
}


@pytest.fixture(scope="module")
def digits() -> Any:
    """The held-out digits in 0..1."""
    test = load_source(DataConfig(name="digits")).test
    return np.stack([test[i][0] for i in range(len(test))]) / 255.0


def test_it_comes_closer_to_the_digits_than_their_mean_is(
    run_here: Callable[..., RunDir], digits: Any
) -> None:
    run_dir = run_here("train_gan", SMALL | {"epochs": 6})
    alone = float(((digits - digits.mean(0)) ** 2).sum() / (len(digits) - 1))
    distances = [value for _, value, _ in run_dir.metrics()["val/frechet_distance"]]
    assert distances[-1] < 0.75 * alone
    pictures = sorted((run_dir.artifacts_dir / "pictures").iterdir())
    assert [path.name for path in pictures] == [f"epoch-{n:04d}.png" for n in range(1, 7)]
    pixels = np.asarray(image.decode(pictures[-1].read_bytes()).image)
    assert pixels.shape[0] == pixels.shape[1] >= 256
    assert pixels.std() > 30


def test_the_frechet_distance_is_that_of_normal_distributions(digits: Any) -> None:
    linalg = pytest.importorskip("scipy.linalg")
    random = np.random.default_rng(0)
    a, b = random.normal(size=(50, 4)) @ random.normal(size=(4, 4)), random.normal(size=(70, 4))
    one, other = np.cov(a.T), np.cov(b.T)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(
        one + other - 2 * linalg.sqrtm(one @ other).real
    )
    assert frechet_distance(a, b) == pytest.approx(expected)
    assert frechet_distance(digits, digits) == pytest.approx(0, abs=1e-9)


def test_one_adam_in_turns_is_two(planned: Callable[..., RunPlan]) -> None:
    made = planned("train_gan", SMALL)
    config = Config.model_validate(made.config)
    states = []
    for by_hand in (False, True):
        run_dir = RunDir.create(made.model_copy(update={"run_dir": f"{made.run_dir}-{by_hand}"}))
        tensorlib.manual_seed(0)
        training = Training(config, context_of(made, run_dir), train_gan.make(config))
        gan: Any = training.task.model
        networks = {"discriminator": gan.discriminator, "generator": gan.generator}
        two = {name: config.optimizer.build(part) for name, part in networks.items()}
        gan.train()
        for step, batch in zip(range(3), training.loader, strict=False):
            if not by_hand:
                training.train_step(batch, 64)
                continue
            for number, (turn, optimizer) in enumerate(two.items()):
                gan.zero_grad()
                for shard in training.model.step(64, 2 * step + number):
                    own = [part[shard.local] for part in batch]
                    where = Step(0, 0, step, shard.index, turn)
                    (training.task.loss(training.model, own, where)[0] / 64).backward()
                other = networks["generator" if turn == "discriminator" else "discriminator"]
                assert all(p.grad is None for p in other.parameters())
                optimizer.step()
        states.append({name: value.numpy() for name, value in gan.state_dict().items()})
    np.testing.assert_equal(states[0], states[1])


def test_pictures_of_a_folder_in_colour(
    planned: Callable[..., RunPlan], run_here: Callable[..., RunDir], tmp_path: Any
) -> None:
    for name in ("train", "val"):
        folder = tmp_path / "folder" / name / "one"
        folder.mkdir(parents=True)
        for i in range(8):
            image.write(folder / f"{i}.png", np.full((50, 50, 3), [200, 10 * i, 30], np.uint8))
    data = {"name": "image_folder", "root": str(tmp_path / "folder"), "image_size": 16}
    run_dir = run_here("train_gan", SMALL | {"data": data, "epochs": 1})
    pixels = np.asarray(image.decode(run_dir.artifacts_dir / "pictures/epoch-0001.png").image)
    assert pixels.shape == ((8 * 17 - 1) * 3, (8 * 17 - 1) * 3, 3)
    data["image_size"] = 50
    with pytest.raises(UsageError, match="50x50 are halved to 25x25; expected a size"):
        preflight(planned("train_gan", {"data": data}))
    with pytest.raises(UsageError, match="activation_checkpointing"):
        planned("train_gan", SMALL | {"activation_checkpointing": True})


def test_what_is_not_said_is_as_in_the_paper() -> None:
    said = {"data": {"name": "digits"}, "schedule": {"warmup_steps": 5}}
    for optimizer in ({}, {"name": "adam"}, {"weight_decay": 0}):
        config = Config.model_validate(said | {"optimizer": optimizer})
        assert (config.optimizer.name, config.optimizer.lr) == ("adam", 2e-4)
        assert config.optimizer.betas == (0.5, 0.999)
        assert config.schedule.name == "constant"
    config = Config.model_validate(said | {"optimizer": {"name": "sgd"}})
    assert (config.optimizer.name, config.optimizer.lr) == ("sgd", 0.1)
