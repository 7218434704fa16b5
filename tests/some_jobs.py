"""Jobs that die or raise."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Run:
    """A run that leaves a mark each time it starts, and may kill its worker the first times, or raise."""

    number: int
    folder: str
    kills: int = 0
    raises: bool = False
    steps: int = 1

    @property
    def identity(self):
        return {"number": self.number, "config": "x"}

    def run(self, on_step):
        marks = Path(self.folder) / f"{self.number}.txt"
        with marks.open("a") as file:
            file.write(f"{os.getpid()}\n")
        if len(marks.read_text().splitlines()) <= self.kills:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.raises:
            raise ValueError("of its own")
        on_step()
        return {"square": self.number**2}
