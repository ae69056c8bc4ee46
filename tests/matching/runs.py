"""A small run, in this process or as a script: python runs.py FOLDER [--pause], alone or under torchrun.

--pause waits in step 25 for a kill; --dropout makes steps random; --interrupt is Ctrl-C in step 15 of the last process,
--nan a loss of its that is none in step 12, and --unwritable a checkpoint that cannot be written.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from proxflow.couplings import Minibatch
from proxflow.errors import ConvergenceError
from proxflow.matching import MLP, TrainResult, train

STEPS = 40


def points() -> torch.Tensor:
    return torch.randn(120, 3, generator=torch.Generator().manual_seed(0))


def labels() -> torch.Tensor:
    return torch.arange(120) % 4


def network() -> MLP:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MLP((3,), width=16, depth=2, classes=4)


def small_run(model: torch.nn.Module, **options: Any) -> TrainResult:
    """OT batches of 100, training batches of 32: assignments are cut across steps."""
    arguments = {"steps": STEPS, "batch_size": 32, "evaluate_every": 10, "progress": False, "seed": 5} | options
    return train(model, Minibatch(points(), 100, labels()), **arguments)


if __name__ == "__main__":
    folder, rank = Path(sys.argv[1]), int(os.environ.get("RANK", "0"))
    last = rank == int(os.environ.get("WORLD_SIZE", "1")) - 1
    checkpoint = folder / "state.safetensors"
    model = network()
    seen: list[torch.Tensor] = []
    torch.manual_seed(rank)
    if "--dropout" in sys.argv:
        model.register_forward_hook(lambda _model, _inputs, output: torch.nn.functional.dropout(output, 0.1))

    def record(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        t, x, label = inputs
        seen.append(torch.cat([t[:, None], x, label[:, None]], dim=1).detach().clone())
        if "--pause" in sys.argv and len(seen) == 25:
            (folder / "waiting").touch()
            time.sleep(60)
        if "--interrupt" in sys.argv and len(seen) == 15 and last:
            os.kill(os.getpid(), signal.SIGINT)
        if "--nan" in sys.argv and len(seen) == 12 and last:
            x.fill_(torch.nan)
        if "--unwritable" in sys.argv and len(seen) == 5:
            checkpoint.mkdir(exist_ok=True)

    model.register_forward_pre_hook(record)
    try:
        result = small_run(model, checkpoint=checkpoint, checkpoint_every=10)
    except (ConvergenceError, OSError) as error:
        torch.save({"seen": seen, "error": repr(error)}, folder / f"rank{rank}.pt")
    else:
        assert checkpoint.exists()
        torch.save({"seen": seen, "network": result.network.state_dict()}, folder / f"rank{rank}.pt")
    os._exit(0)  # all is written; under load a process with a gloo group aborts now and then in its static destructors
