"""Small runs of gar-env train, and ways to kill them."""

import csv

from rich.console import Console

from agents.training.arguments import parse
from agents.training.training import Training

SMALL = ["--num-envs", "16", "--no-tensorboard", "--log-every", "3", "--env-options.num-steps", "12"]


def arguments(out, *more, agent="reinforce", env="GAR/DataSplit-v0"):
    return ["--env", env, "--agent", agent, "--out", str(out), *SMALL, *more]


def run(out, *more, **chosen):
    config, resume, trust = parse(arguments(out, *more, **chosen))
    return Training(config, Console(quiet=True), resume=resume, trust=trust).run()


def metrics(folder):
    """All but the times, as they stand in the file."""
    with (folder / "progress.csv").open(newline="") as file:
        return [
            {k: v for k, v in row.items() if k not in ("time/fps", "time/time_elapsed")} for row in csv.DictReader(file)
        ]


class Killed(BaseException):
    pass


def kill_at(step, monkeypatch):
    usual = Training.on_step

    def die(self):
        usual(self)
        if self.session.steps == step:
            raise Killed

    monkeypatch.setattr(Training, "on_step", die)
