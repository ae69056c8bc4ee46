"""A training loop of one's own on accelerate: one coupling, whatever the number of processes.

Each process takes its share of every batch of one global sequence, so that the pairs are those of a single process, and
the optimal coupling does not fall apart into one for each device.

accelerate launch examples/accelerate_training.py --steps 1000
"""

from __future__ import annotations

import argparse

import torch
from accelerate import Accelerator

import proxflow as pf
from proxflow.matching import Uniform, flow_matching_loss, sample_path

BATCH = 256  # pairs of a step, all processes together


def main() -> None:
    """Train a perceptron on two moons and print how near its samples come."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=500)
    options = parser.parse_args()
    accelerator = Accelerator(cpu=not torch.accelerator.is_available(), step_scheduler_with_optimizer=False)
    data = pf.data.load("moons", n=options.rows)
    coupling = pf.couplings.Semidiscrete(pf.semidiscrete.fit(data.points, progress=False).potential, data.points)
    torch.manual_seed(0)
    network = pf.matching.ResidualMLP(data.event_shape, width=64)
    network, optimiser = accelerator.prepare(network, torch.optim.AdamW(network.parameters(), 1e-3))
    times = torch.Generator().manual_seed(accelerator.process_index)
    stream = pf.couplings.PairStream(
        coupling, BATCH, seed=0, rank=accelerator.process_index, processes=accelerator.num_processes
    )
    with stream:
        for _, pairs in zip(range(options.steps), stream, strict=False):
            source, target = pairs.source.to(accelerator.device), pairs.target.to(accelerator.device)
            moved = pf.couplings.Pairs(source, target, pairs.index)
            loss = flow_matching_loss(network, sample_path(moved, Uniform().sample(len(moved), generator=times)))
            optimiser.zero_grad()
            accelerator.backward(loss)
            optimiser.step()
    if accelerator.is_main_process:
        trained = accelerator.unwrap_model(network).cpu()
        noise = torch.randn(500, 2, generator=torch.Generator().manual_seed(1))
        quality = pf.metrics.few_steps(pf.matching.field_of(trained), noise, data.points, steps=(1, 8))
        for steps, distance in zip(quality.steps, quality.energy_distance, strict=True):
            print(f"{steps} Euler steps: energy distance {distance:.4f}")
        print(pf.adapters.check_convention(trained, coupling).message)
    accelerator.end_training()


if __name__ == "__main__":
    main()
