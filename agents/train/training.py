"""``gar-env train``: one controller on one environment, logged, saved, and resumed as if nothing had happened."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from rich.console import Console

from agents.files import lock, sweep, write_whole
from agents.jobs.progress import step_progress
from agents.jobs.provenance import provenance
from agents.jobs.results import Row
from agents.train.checkpoints import load_checkpoint, previous, read_header, save_checkpoint
from agents.train.config import TrainConfig, make_env
from agents.train.loops import NativeSession, Session, start_session
from agents.train.metrics import MetricsLog
from gar_env.envs import SlotVectorEnv
from gar_env.errors import CheckpointError, ConfigurationError, GarEnvError

LINES = 10
"""How often a run says where it is, where there is no terminal to draw a bar on."""


class Interrupted(GarEnvError):
    """A run was stopped from outside and is saved."""


@dataclass
class Training:
    """One run: builds it or picks it up, runs it, keeps its files.

    Args:
        config: What to run.
        console: For the progress bar and the closing words.
        resume: Whether to go on from the folder's checkpoint.
    """

    config: TrainConfig[Any, Any]
    console: Console
    resume: bool = False
    stop: bool = field(default=False, init=False)

    @property
    def checkpoint(self) -> Path:
        """The file to resume from."""
        return self.config.folder / "checkpoint.pkl"

    def run(self) -> dict[str, float]:
        """Train to the end.

        Returns:
            What the last finished episode came to.

        Raises:
            Interrupted: After Ctrl-C or a termination signal, saved.
            ConfigurationError: If the folder holds a run already, or environment and controller do not fit.
            CheckpointError: If there is nothing to resume, or it belongs to another run.
        """
        threads = torch.get_num_threads()
        torch.set_num_threads(self.config.threads)
        main = threading.current_thread() is threading.main_thread()  # only there can signals be caught
        signals = (signal.SIGINT, signal.SIGTERM) if main else ()
        handlers = {number: signal.signal(number, self._ask_to_stop) for number in signals}
        try:
            self._prepare()
            with step_progress(self.console) as self._bar:
                self._task = self._bar.add_task(self.config.agent, total=self.total, completed=self.session.steps)
                self.session.run(self.total, self)
            self._save()
            self._save_controller()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            torch.set_num_threads(threads)
            if hasattr(self, "log"):
                self.log.close()
            if hasattr(self, "_lock"):
                self._lock.close()
        return self._finished

    # Hooks of the session

    def on_step(self) -> None:
        """Log; called after each environment step."""
        steps, slots = self.session.steps, self.slots
        if steps > self.total:
            return  # Stable-Baselines3 finishes its rollout
        last = slots.last_step()
        said = f"loss {last['loss']:.3g}, reward {last['reward_mean']:.2g}"
        self._bar.update(self._task, completed=steps, description=f"{self.config.agent}: {said}")
        due = steps >= self._say_at or steps == self.total
        if due and not self.console.is_terminal and not self.console.quiet:
            self._say_at = steps + max(1, self.total // LINES)
            print(f"step {steps}/{self.total}: {said}, {self.seconds:.0f} s", flush=True)
        ended = slots.finished is not self._seen_episode
        if ended:
            self._seen_episode = slots.finished
            self._finished = slots.finished or {}
        if steps % self.config.log_every == 0 or ended or steps == self.total:
            self.log.write(steps * self.config.num_envs, self._row(ended))

    def at_rest(self) -> None:
        """Save if it is time, stop if somebody asked; called when the session is whole."""
        due = self.session.steps - self._saved_at >= self.config.checkpoint_every or self._saved_at < 0
        if due or self.stop:
            self._save()
        if self.stop and self.session.steps < self.total:
            raise Interrupted(
                f"Stopped after {self.session.steps} of {self.total} steps; everything is saved. "
                f"Go on with: gar-env train --resume {self.config.folder}"
            )

    # Its parts

    def in_words(self, name: str) -> str:
        """A metric for people: with the name of a split instead of its number."""
        number = name.removeprefix("usage_")
        names = getattr(self.slots, "split_names", ())
        return f"usage of {names[int(number)]}" if number != name and int(number) < len(names) else name

    @property
    def slots(self) -> SlotVectorEnv:
        """The environment, unwrapped."""
        slots = self.session.env.unwrapped
        assert isinstance(slots, SlotVectorEnv)
        return slots

    @property
    def seconds(self) -> float:
        """Time taken, with that before a resume."""
        return self.session.seconds + time.monotonic() - self._clock

    def _prepare(self) -> None:
        config, folder = self.config, self.config.folder
        env = make_env(config)
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = lock(folder / "run.lock", folder)
        sweep(self.checkpoint, previous(self.checkpoint), folder / "config.json", folder / "progress.csv")
        self._seal: Row | None = None
        self.total = config.episodes * config.env_options.num_steps
        self._started = self._clock = time.monotonic()  # a clock that is set back must not count
        if self.resume:
            self.session = self._load(env)
        else:
            if self.checkpoint.exists():
                raise ConfigurationError(
                    f"{folder} holds a run already. Go on with it by gar-env train --resume {folder}, or choose "
                    "another --out."
                )
            options = config.agent_options
            self.session = start_session(env, options.build, config.seed)
            text = json.dumps({**config.as_json(), "provenance": provenance()}, indent=2)
            write_whole(folder / "config.json", f"{text}\n".encode())
        self._steps_before = self._say_at = self.session.steps
        self._saved_at = self.session.steps if self.resume else -1
        self._seen_episode = self.slots.finished
        # Stable-Baselines3 may have finished its rollout in an episode more than was asked for; that is in no log.
        self._finished = self.session.finished
        after = self.session.steps * config.num_envs
        self.log = MetricsLog(folder, after=after, tensorboard=config.tensorboard, seal=self._seal)

    def _row(self, ended: bool) -> dict[str, float]:
        slots, steps = self.slots, self.session.steps
        values = {f"env/{name}": value for name, value in slots.last_step().items()}
        now = slots.finished if ended and slots.finished else slots.metrics()
        values |= {f"env/{name}": value for name, value in now.items() if name not in ("steps", "return")}
        values |= self.session.logged()
        if slots.finished:
            values["rollout/ep_rew_mean"] = slots.finished["return"]
            values["rollout/ep_len_mean"] = slots.finished["steps"]
        elapsed = time.monotonic() - self._started
        fps = (steps - self._steps_before) * self.config.num_envs / max(elapsed, 1e-9)
        return {**values, "time/fps": round(fps), "time/time_elapsed": round(elapsed, 2)}

    def _save(self) -> None:
        if self._saved_at == self.session.steps:
            return
        self.session.finished = self._finished
        self.session.seconds, self._clock = self.seconds, time.monotonic()
        header = {
            "config": self.config.as_json(),
            "steps": self.session.steps,
            "episode_seed": self.slots.episode_seed,
            "log": self.log.seal,
        }
        save_checkpoint(self.checkpoint, header, self.session, {**_left_out(self.slots), **self.session.leave_out()})
        self._saved_at = self.session.steps

    def _load(self, env: Any) -> Session:
        if not self.checkpoint.exists():
            before = previous(self.checkpoint)
            raise CheckpointError(
                f"{self.checkpoint} is not there. Rename {before} to it, to go on from the one before."
                if before.exists()
                else f"{self.config.folder} was stopped before its first checkpoint. Start it again with the same "
                "command line."
            )
        header = read_header(self.checkpoint)
        self._seal = header["log"]
        saved, here = dict(header["config"]), json.loads(json.dumps(self.config.as_json()))
        different = self._differences(saved, here)
        if different:
            raise CheckpointError(
                f"{self.checkpoint} belongs to another run: {'; '.join(different)}. Put its own config.json back."
            )
        fresh = env.unwrapped
        fresh.pool = fresh.on_device(fresh.make_pool(header["episode_seed"]))
        session = load_checkpoint(self.checkpoint, {**_left_out(fresh), "logger": None})
        env.close()
        return session

    def _differences(self, saved: Row, here: Row) -> list[str]:
        """In which options a checkpoint's run is another than this one, in words."""
        different = [key for key in here if key != "out" and saved.get(key) != here[key]]
        return [f"{key} was {saved.get(key)!r}, config.json has {here[key]!r}" for key in different]

    def _save_controller(self) -> None:
        if not isinstance(self.session, NativeSession):
            from agents.sb3 import save_controller

            save_controller(self.session.model, self.config.folder / "controller.zip")
        elif save := getattr(self.session.agent, "save", None):
            save(self.config.folder)

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        if self.stop:
            kept = "the last checkpoint is kept" if self.checkpoint.exists() else "there was no checkpoint yet"
            self.console.print(f"Stopped at once; {kept}.")
            sys.exit(130)
        self.stop = True
        self.console.print("Stopping as soon as the state is whole; once more stops at once ...")


def _left_out(slots: SlotVectorEnv) -> dict[str, Any]:
    """The large objects that are left out of checkpoints; a name for nothing would stand for every ``None``."""
    return {name: thing for name, thing in slots.made_again().items() if thing is not None}
