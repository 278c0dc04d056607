"""Trains any stage. `accelerate` handles devices, processes and mixed precision; the rest is on this page.

Everything random, data included, is a function of the seed and the step, and so is the learning rate. A checkpoint
holds the weights, their moving average, the optimizer and the step: a killed run resumes as if it had not been killed.
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, DistributedDataParallelKwargs, broadcast_object_list
from PIL import Image
from torch.utils.data import DataLoader

from dcrafter.errors import NumericalError
from dcrafter.training.muon import Muon
from dcrafter.training.recipe import TrainerConfig
from dcrafter.training.run_state import CHECKPOINT, MovingAverage, RunState, Say
from dcrafter.training.sharding import flatten_scalars, gathered, sharding_plugin, whole
from dcrafter.training.stage import TrainingStage


def learning_rate(config: TrainerConfig, step: int) -> float:
    """Linear warm-up, constant, and a cosine to zero over the last `cooldown` steps."""
    rate = config.learning_rate * min(1.0, (step + 1) / max(config.warmup, 1))
    left = config.steps - step
    if left < config.cooldown:
        rate *= 0.5 * (1 - math.cos(math.pi * left / config.cooldown))
    return rate


def batches_from(step: int, stage: TrainingStage, config: TrainerConfig, accelerator: Accelerator) -> Iterator[Any]:
    """This process's batches from a step on; item i of the data belongs to the same step in every run."""
    items = config.batch * config.accumulate * accelerator.num_processes
    loader = DataLoader(
        stage.dataset,
        batch_size=config.batch,
        sampler=range(step * items, config.steps * items),
        num_workers=config.workers,
    )
    return iter(accelerator.prepare_data_loader(loader, device_placement=False))


def progress_line(step: int, steps: int, values: Mapping[str, float], seconds: float | None) -> str:
    """A line for the user: the step, its values, and with the `seconds` of a step the hours left."""
    line = f"step {step}/{steps}  " + "  ".join(f"{name} {value:.4g}" for name, value in values.items())
    if seconds is None:
        return line
    left = int(seconds * (steps - step))
    return line + f"  {seconds:.2f} s a step, {left // 3600}:{left // 60 % 60:02d} h left"


class Trainer:
    """Trains `stage` in the folder `out`, from its checkpoint if there is one.

    `out` gets `checkpoint.pt`, to go on from, the moving average to be used (`weights.safetensors`, of a LoRA
    `lora.safetensors`), `log.jsonl` and pictures. Raises NumericalError when the loss is no number any more.
    """

    def __init__(
        self,
        stage: TrainingStage,
        config: TrainerConfig,
        out: Path,
        *,
        seed: int,
        say: Say,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Load `out`'s checkpoint, if there is one.

        Args:
            stage: what to train.
            config: how.
            out: the folder.
            seed: of the data and of all noise.
            say: prints a line for the user.
            settings: all settings of the run as plain values; on a resume, those that changed are said.

        Raises:
            InputError: the checkpoint is of other parameters.
        """
        self.config, self.out, self.seed, self.say = config, out, seed, say
        self.accelerator = Accelerator(
            log_with="tensorboard" if config.tensorboard else None,
            project_dir=out,
            mixed_precision=config.precision,
            gradient_accumulation_steps=config.accumulate,
            dataloader_config=DataLoaderConfiguration(use_seedable_sampler=False),
            fsdp_plugin=sharding_plugin(stage.layers) if config.shard else None,
            # A batch of single frames leaves the temporal layers out, and a text encoder has layers nothing reads.
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
        self.scalars = flatten_scalars(stage.model) if config.shard else []
        kind = Muon if config.optimizer == "muon" else torch.optim.AdamW
        optimizer = kind(
            stage.trained().values(), lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay
        )
        self.stage = stage
        self.model, self.optimizer = self.accelerator.prepare(stage, optimizer)
        self.average = MovingAverage(stage.trained(), config.ema)
        self.state = RunState(self.accelerator, self.optimizer, self.average, dict(settings or {}), config.shard)
        if config.tensorboard:
            self.accelerator.init_trackers("tensorboard")
        self.stopping = False
        self.step = self.state.load(out / CHECKPOINT, say)

    def export(self) -> Path | None:
        """Write the model with the moving average, as the stage does; returns the file, on the main process."""
        if not (self.accelerator.is_main_process or self.config.shard):
            return None
        weights = whole({**self.stage.model.state_dict(), **self.average.values})
        weights |= {name: weights[name].reshape(()) for name in self.scalars}
        return self.stage.export(weights, self.out) if self.accelerator.is_main_process else None

    def run(self) -> None:
        """Train until `steps`, or until SIGINT or SIGTERM, which save and stop."""
        if self.step:
            self.say(f"resuming from step {self.step}")
        before = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            self._run()
        finally:
            for tracker in self.accelerator.trackers:
                tracker.finish()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _run(self) -> None:
        config = self.config
        batches = batches_from(self.step, self.stage, self.config, self.accelerator)
        saved = logged = time.monotonic()
        sums: dict[str, float] = {}
        started_at = self.step
        while self.step < config.steps and not self._stopped():
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(config, self.step)
            for part in range(config.accumulate):
                for name, value in self._accumulate(next(batches), part).items():
                    once = name == "gradient"  # per step, not per batch
                    sums[name] = sums.get(name, 0.0) + value / (1 if once else config.accumulate)
            if not self.accelerator.optimizer_step_was_skipped:  # as float16 does where gradients overflow
                self.average.update(self.step)
            self.step += 1

            if self.step % config.log_every == 0:
                now = time.monotonic()
                done = min(config.log_every, self.step - started_at)
                self._log({name: value / done for name, value in sums.items()}, (now - logged) / done)
                sums, logged = {}, now
            if self.step % config.evaluate_every == 0 or self.step == config.steps:
                self._evaluate()
            if self._all_agree(time.monotonic() - saved > 60 * config.save_minutes):
                self.state.save(self.out / CHECKPOINT, self.step)
                saved = time.monotonic()
        self.state.save(self.out / CHECKPOINT, self.step)
        made = self.export()
        self.accelerator.wait_for_everyone()
        if self.stopping:
            self.say(f"stopped at step {self.step}; the same command resumes from {self.out / CHECKPOINT}")
        else:
            self.say(f"done at step {self.step}: {made}")

    def _accumulate(self, batch: Any, part: int) -> dict[str, float]:
        """Run forward and backward of a step's batch number `part`, and the optimizer's step when it is due."""
        place = self.step * self.config.accumulate + part
        place = self.accelerator.process_index + self.accelerator.num_processes * place
        generator = torch.Generator().manual_seed((self.seed << 40) + place)
        torch.manual_seed((self.seed << 40) + place)  # of dropout
        with self.accelerator.accumulate(self.model):
            with self.accelerator.autocast():
                terms = self.model(batch, generator)
            self.accelerator.backward(terms["loss"])
            if self.accelerator.sync_gradients:
                norm = self.accelerator.clip_grad_norm_(self.average.parameters.values(), self.config.clip)
                terms = {**terms, "gradient": whole(norm)}
            self.optimizer.step()
            self.optimizer.zero_grad()
        values = {name: float(value.detach()) for name, value in terms.items()}
        if not math.isfinite(values["loss"]):
            raise NumericalError(f"the loss is {values['loss']} at step {self.step}", "Lower the learning rate")
        return values

    def _evaluate(self) -> None:
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process or self.config.shard:
            with self.average.applied(), gathered(self.model), torch.no_grad(), self.accelerator.autocast():
                self.stage.eval()
                self._log(self.stage.evaluate())
                if self.accelerator.is_main_process:
                    Image.fromarray(self.stage.preview().numpy()).save(self.out / f"step-{self.step:07d}.png")
                self.stage.train()
        self.export()

    def _log(self, values: dict[str, float], seconds: float | None = None) -> None:
        if not self.accelerator.is_main_process:
            return
        line = progress_line(self.step, self.config.steps, values, seconds)
        if seconds is not None:
            values = {**values, "seconds": round(seconds, 4)}
        with open(self.out / "log.jsonl", "a") as log:
            log.write(json.dumps({"step": self.step, **values}) + "\n")
        self.accelerator.log(values, step=self.step)
        self.say(line)

    def _all_agree(self, due: bool) -> bool:
        """What the main process says, where all have to take part."""
        return bool(broadcast_object_list([due])[0]) if self.config.shard else due

    def _stop(self, *_: object) -> None:
        self.accelerator.set_trigger()

    def _stopped(self) -> bool:
        """True if any process got a signal: all stop after the same step."""
        self.stopping = self.accelerator.check_trigger()
        return self.stopping
