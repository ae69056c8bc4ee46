"""Lightning: batches of pairs, noise in a hook of one's own, and the callback; with its Trainer."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import proxflow as pf
from proxflow.adapters import Convention, PairedNoise
from proxflow.matching import flow_matching_loss, sample_path
from proxflow.results import Verdict
from tests.adapters.models import moons_coupling, moons_potential

pytest.importorskip("lightning")
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # of Lightning's use of torch
    pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning"),
    pytest.mark.filterwarnings("ignore:Your `IterableDataset` has `__len__` defined:UserWarning"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory:UserWarning"),
]


@pytest.fixture(scope="module")
def library() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what Lightning imports
        return importlib.import_module("lightning.pytorch")


def module_of(library: Any) -> Any:
    class Module(library.LightningModule):  # type: ignore[misc]
        """A perceptron trained on pairs; it keeps the rows that it saw."""

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.network = pf.matching.MLP((2,), width=16).double()
            self.seen: list[Tensor] = []
            self.sources: list[Tensor] = []

        def training_step(self, batch: Any, number: int) -> Tensor:
            self.seen.append(batch.index)
            self.sources.append(batch.source)
            times = torch.linspace(0.1, 0.9, len(batch.source), dtype=torch.float64)
            return flow_matching_loss(self.network, sample_path(pf.couplings.Pairs(*batch), times))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 1e-2)

    return Module()


def trainer_of(library: Any, folder: Path, epochs: int, **options: Any) -> Any:
    return library.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def test_a_resumed_run_sees_the_batches_of_one_that_was_not_interrupted(library: Any, tmp_path: Path) -> None:
    adapter = pf.adapters.lightning

    def pairs() -> Any:
        return adapter.PairDataModule(moons_coupling(), 16, steps_per_epoch=3, seed=7)

    whole = module_of(library)
    trainer_of(library, tmp_path, 2, enable_checkpointing=False).fit(whole, datamodule=pairs())
    with pf.couplings.PairStream(moons_coupling(), 16, seed=7) as stream:
        expected = [batch.index for _, batch in zip(range(6), stream, strict=False)]
    assert all(torch.equal(mine, other) for mine, other in zip(whole.seen, expected, strict=True))
    first = trainer_of(library, tmp_path, 1)
    first.fit(module_of(library), datamodule=pairs())
    first.save_checkpoint(tmp_path / "one.ckpt")
    resumed = module_of(library)
    trainer_of(library, tmp_path, 2).fit(resumed, datamodule=pairs(), ckpt_path=tmp_path / "one.ckpt")
    assert all(torch.equal(mine, other) for mine, other in zip(resumed.seen, expected[3:], strict=True))
    for mine, other in zip(resumed.network.parameters(), whole.network.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_a_data_module_of_ones_own_gives_noise_in_its_hook(library: Any, tmp_path: Path) -> None:
    points = moons_coupling().rows.flat
    noise = PairedNoise(moons_coupling())

    class Rows(library.LightningDataModule):  # type: ignore[misc]
        def train_dataloader(self) -> Any:
            return torch.utils.data.DataLoader(points[:32], batch_size=16)  # type: ignore[arg-type]  # it takes any rows

        def on_after_batch_transfer(self, batch: Tensor, number: int) -> Any:
            index = noise.index_of(batch)
            return pf.adapters.lightning.PairBatch(noise(batch, index), batch, index, None)

    module = module_of(library)
    trainer_of(library, tmp_path, 1, enable_checkpointing=False).fit(module, datamodule=Rows())
    assert torch.cat(module.seen).tolist() == list(range(32))
    sources = torch.cat(module.sources)
    assert torch.equal(moons_potential().sample_atom(sources), moons_coupling().atom_of_row[:32])


def test_the_callback_logs_distances_and_warns_of_a_wrong_convention(library: Any, tmp_path: Path) -> None:
    adapter = pf.adapters.lightning
    flow = pf.ProximalFlow(moons_potential(), on_failure="nan")
    points = moons_coupling().rows.flat
    right = adapter.FlowQuality(lambda module: flow, points, steps=(1, 4), count=100, coupling=moons_coupling())
    wrong = adapter.FlowQuality(
        lambda module: lambda t, x: -flow(t, x), points, steps=(1,), count=50, coupling=moons_coupling()
    )
    pairs = adapter.PairDataModule(moons_coupling(), 16, steps_per_epoch=1)
    module = module_of(library)
    trainer = trainer_of(library, tmp_path, 1, enable_checkpointing=False, callbacks=[right])
    trainer.fit(module, datamodule=pairs)
    assert module.training
    logged = trainer.callback_metrics
    assert set(logged) == {"energy_distance/1", "energy_distance/4"}
    assert abs(float(logged["energy_distance/1"])) < 0.05  # exact samples; that of the noise is above 0.1
    assert right.convention.verdict is Verdict.verified
    with pytest.warns(UserWarning, match="predicts negative velocity at forward time, not velocity"):
        trainer_of(library, tmp_path, 1, enable_checkpointing=False, callbacks=[wrong]).fit(
            module_of(library), datamodule=pairs
        )
    assert wrong.convention.best == Convention("negative velocity")


def test_what_is_no_number_is_refused(library: Any) -> None:
    with pytest.raises(ValueError, match="steps_per_epoch must be an integer of at least 1"):
        pf.adapters.lightning.PairDataModule(moons_coupling(), 16, steps_per_epoch=0)
    with pytest.raises(ValueError, match="count must be an integer of at least 1"):
        pf.adapters.lightning.FlowQuality(lambda module: module, moons_coupling().rows.flat, count=0)


def test_figures_of_an_audit_are_logged_every_few_steps(library: Any, tmp_path: Path) -> None:
    adapter = pf.adapters.lightning
    flow = pf.ProximalFlow(moons_potential())
    steps: list[int] = []

    class Log(library.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
            if "audit/recovered_drift" in trainer.callback_metrics:
                steps.append(trainer.global_step)

    def field(module: Any) -> Any:
        assert not module.training
        return flow

    callback = adapter.FlowAudit(field, moons_coupling().rows.flat, every_n_steps=2, count=32)
    module = module_of(library)
    trainer = trainer_of(library, tmp_path, 1, enable_checkpointing=False, callbacks=[callback, Log()])
    trainer.fit(module, datamodule=adapter.PairDataModule(moons_coupling(), 16, steps_per_epoch=3))
    assert module.training
    assert set(trainer.callback_metrics) == {
        "audit/jacobian_asymmetry",
        "audit/recovered_drift",
        "audit/variance_ratio",
    }
    assert float(trainer.callback_metrics["audit/recovered_drift"]) < 1e-6
    assert steps[0] >= 2
    with pytest.raises(ValueError, match="every_n_steps must be an integer of at least 1"):
        adapter.FlowAudit(field, moons_coupling().rows.flat, every_n_steps=0)
