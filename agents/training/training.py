"""``gar-env train``: one controller on one environment, logged, saved, and resumed as if nothing had happened."""

from __future__ import annotations

import csv
import io
import json
import math
import signal
import sys
import threading
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from rich.console import Console

from agents.files import lock, sweep, write_whole
from agents.jobs.progress import step_progress
from agents.jobs.provenance import fingerprint_of, provenance
from agents.jobs.results import Row
from agents.training.checkpoints import load_checkpoint, previous, read_header, save_checkpoint
from agents.training.config import TrainConfig, make_env
from agents.training.loops import NativeSession, Session, start_session
from agents.training.metrics import MetricsLog
from gar_env.envs import RowVectorEnv
from gar_env.errors import CheckpointError, ConfigurationError, GarEnvError
from gar_env.registry import known_names_only, trusted_names

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
        trust: Whether names in the folder's files may import modules, and a controller without a state of its own is
            pickled.
    """

    config: TrainConfig[Any, Any]
    console: Console
    resume: bool = False
    trust: bool = False
    stop: bool = field(default=False, init=False)
    found: list[dict[str, float | str]] = field(default_factory=list, init=False)

    @property
    def checkpoint(self) -> Path:
        """The file to resume from."""
        return self.config.folder / "checkpoint.gar"

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
            # For the whole run: a network is built by its name at the start of every episode.
            names = trusted_names() if self.trust else known_names_only() if self.resume else nullcontext()
            with names:
                self._prepare()
                with step_progress(self.console) as self._bar:
                    done = self.session.steps
                    self._task = self._bar.add_task(self.config.agent, total=self.total, completed=done)
                    self.session.run(self.total, self)
                self._save()
                self._save_controller()
                self.found = self.env.found()
                if self.found:
                    self._save_found()
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
        steps, env = self.session.steps, self.env
        if steps > self.total:
            return  # Stable-Baselines3 finishes its rollout
        last = env.last_step()
        said = f"loss {last['loss']:.3g}, " if "loss" in last else ""
        said += f"reward {last['reward_mean']:.2g}"
        self._bar.update(self._task, completed=steps, description=f"{self.config.agent}: {said}")
        due = steps >= self._say_at or steps == self.total
        if due and not self.console.is_terminal and not self.console.quiet:
            self._say_at = steps + max(1, self.total // LINES)
            print(f"step {steps}/{self.total}: {said}, {self.seconds:.0f} s", flush=True)
        ended = [episode.values for episode in env.finished]
        if ended:
            self._finished = _mean(ended)
            env.finished.clear()
        if steps % self.config.log_every == 0 or ended or steps == self.total:
            self.log.write(steps * self.config.num_envs, self._row(bool(ended)))

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
        names = getattr(self.env, "split_names", ())
        return f"usage of {names[int(number)]}" if number != name and int(number) < len(names) else name

    @property
    def env(self) -> RowVectorEnv:
        """The environment, unwrapped."""
        env = self.session.env.unwrapped
        assert isinstance(env, RowVectorEnv)
        return env

    @property
    def seconds(self) -> float:
        """Time taken, with that before a resume."""
        return self.session.seconds + time.monotonic() - self._clock

    def _prepare(self) -> None:
        config, folder = self.config, self.config.folder
        env = make_env(config)
        unwrapped: Any = env.unwrapped
        unwrapped.resumable = True
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = lock(folder / "run.lock", folder)
        sweep(self.checkpoint, previous(self.checkpoint), folder / "config.json", folder / "progress.csv")
        self._seal: Row | None = None
        dataset = getattr(env.unwrapped, "dataset", None)
        self._data = None if dataset is None else fingerprint_of(dataset)
        self.total = config.episodes * config.env_options.longest
        self._started = self._clock = time.monotonic()  # a clock that is set back must not count
        if self.resume:
            self.session = self._load(env)
        else:
            if self.checkpoint.exists():
                raise ConfigurationError(
                    f"{folder} holds a run already. Go on with it by gar-env train --resume {folder}, or choose "
                    "another --out."
                )
            self.session = self._start(env)
            text = json.dumps({**config.as_json(), "provenance": provenance()}, indent=2)
            write_whole(folder / "config.json", f"{text}\n".encode())
        self._steps_before = self._say_at = self.session.steps
        self._saved_at = self.session.steps if self.resume else -1
        # Stable-Baselines3 may have finished its rollout in an episode more than was asked for; that is in no log.
        self._finished = self.session.finished
        after = self.session.steps * config.num_envs
        self.log = MetricsLog(folder, after=after, tensorboard=config.tensorboard, seal=self._seal)

    def _row(self, ended: bool) -> dict[str, float]:
        env, steps = self.env, self.session.steps
        values = {f"env/{name}": value for name, value in env.last_step().items()}
        now = self._finished if ended else env.metrics()
        values |= {f"env/{name}": value for name, value in now.items() if name not in ("steps", "return")}
        values |= self.session.logged()
        if self._finished:
            values["rollout/ep_rew_mean"] = self._finished["return"]
            values["rollout/ep_len_mean"] = self._finished["steps"]
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
            "data": self._data,
            "pickles": self.session.pickles,
            "log": self.log.seal,
        }
        save_checkpoint(self.checkpoint, header, self.session.state_dict())
        self._saved_at = self.session.steps

    def _load(self, env: Any) -> Session:
        if not self.checkpoint.exists():
            before = previous(self.checkpoint)
            older = self.checkpoint.with_suffix(".pkl")
            if older.exists():
                raise CheckpointError(
                    f"{older} is of an older format, a pickle, which could run any code. Go on with the version that "
                    "wrote it, or train again in another folder."
                )
            raise CheckpointError(
                f"{self.checkpoint} is not there. Rename {before} to it, to go on from the one before."
                if before.exists()
                else f"{self.config.folder} was stopped before its first checkpoint. Start it again with the same "
                "command line."
            )
        header = read_header(self.checkpoint)
        seal = header.get("log")
        whole = isinstance(header.get("config"), dict) and {"data", "pickles"} <= header.keys()
        if not whole or not isinstance(seal, dict) or not isinstance(seal.get("rows"), int):
            raise CheckpointError(f"{self.checkpoint} does not say of which run it is.")
        self._seal = seal
        saved, here = dict(header["config"]), json.loads(json.dumps(self.config.as_json()))
        different = self._differences(saved, here)
        if different:
            raise CheckpointError(
                f"{self.checkpoint} belongs to another run: {'; '.join(different)}. Put its own config.json back."
            )
        if header["data"] != self._data:
            raise CheckpointError(
                f"The data are not those that the run in {self.config.folder} began with: their fingerprint was "
                f"{header['data']}, and is {self._data} now. Put them back, or train again in another folder."
            )
        if header["pickles"] and not self.trust:
            raise CheckpointError(
                f"{self.checkpoint} holds a pickled controller, which could run any code. If you trust it, go on with "
                f"gar-env train --resume {self.config.folder} --trust."
            )
        session = self._start(env)
        state, restore = load_checkpoint(self.checkpoint)
        try:
            session.load_state_dict(state)
            restore()
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, IndexError, OverflowError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(
                f"{self.checkpoint} does not fit this run: {type(error).__name__}: {str(error)[:200]}"
            ) from error
        return session

    def _start(self, env: Any) -> Session:
        return start_session(env, self.config.agent_options.build, self.config.seed, trust=self.trust)

    def _differences(self, saved: Row, here: Row) -> list[str]:
        """In which options a checkpoint's run is another than this one, in words."""
        different = [key for key in here if key != "out" and saved.get(key) != here[key]]
        return [f"{key} was {saved.get(key)!r}, config.json has {here[key]!r}" for key in different]

    def _save_found(self) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(self.found[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.found)
        write_whole(self.config.folder / "found.csv", text.getvalue().encode())

    def _save_controller(self) -> None:
        if not isinstance(self.session, NativeSession):
            from agents.sb3 import save_controller

            save_controller(self.session.model, self.config.folder / "controller.gar")
        elif save := getattr(self.session.agent, "save", None):
            save(self.config.folder)

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        if self.stop:
            kept = "the last checkpoint is kept" if self.checkpoint.exists() else "there was no checkpoint yet"
            self.console.print(f"Stopped at once; {kept}.")
            sys.exit(130)
        self.stop = True
        self.console.print("Stopping as soon as the state is whole; once more stops at once ...")


def _mean(episodes: list[dict[str, float]]) -> dict[str, float]:
    """Of episodes that ended in one step, name by name; NaN, which is no number, is left out where there are others."""
    found = {}
    for name in episodes[0]:
        values = [episode[name] for episode in episodes if not math.isnan(episode[name])]
        found[name] = sum(values) / len(values) if values else math.nan
    return found
