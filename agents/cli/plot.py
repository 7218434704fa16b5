"""``gar-env plot RUN``: what a policy over augmentations has learned."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np

from agents.files import read_regular
from gar_env.errors import CheckpointError, ConfigurationError
from gar_env.registry import known_names_only


def plot_run(folder: Path, out: Path | None) -> None:
    """Draw keep chances, strengths and numbers of operations over training, and samples of the final policy.

    Args:
        folder: Of a run of ``ola``.
        out: The first picture; the others lie beside it. By default all are in the run's folder.
    """
    from agents.jobs.results import reading

    path = folder / "policy.npz"
    if not path.is_file():
        raise ConfigurationError(
            f"There is no {path}: {folder} is no finished run of the controller ola. Train one with gar-env train "
            "--env GAR/Augment-v0 --agent ola."
        )
    try:
        with np.load(io.BytesIO(read_regular(path)), allow_pickle=False) as file:
            history = dict(file)
    except CheckpointError:
        raise
    except Exception as error:  # of zipfile, a decompressor, numpy's reader of headers
        raise CheckpointError(f"{path} is cut short, or no file of ola. Train the run again.") from error
    if "space" not in history:
        raise CheckpointError(f"{path} does not say what its operations are. Train the run again.")
    _check_history(path, history)
    with reading(path):
        _draw(folder, path, history, out)


def _draw(folder: Path, path: Path, history: dict[str, np.ndarray], out: Path | None) -> None:
    import torch

    from agents.measures.augmentation_figures import augmented_grid, policy_figure, strengths_figure
    from agents.measures.figures import save
    from agents.policies import OnlineAugmentation
    from agents.studies.invariances.jobs import lies
    from gar_env.augment import ActionLayout, SearchSpace
    from gar_env.data import load_dataset

    space = SearchSpace.from_json(str(history["space"]))  # as it was then, whatever its file holds now
    try:
        dataset = json.loads(read_regular(folder / "config.json"))["env_options"]["dataset"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{folder / 'config.json'} is not there, or no configuration of a run.") from error
    policy = OnlineAugmentation(space, history["num_operations"].shape[1])
    final = [torch.from_numpy(history[name][-1]) for name in ("num_operations", "keep", "strengths")]
    policy.set_distribution(*final)
    with known_names_only():
        images = load_dataset(dataset).x_test[:24]
    generator = torch.Generator().manual_seed(0)
    plan = ActionLayout(space, policy.layout.places).plan(
        policy.sample(len(images), generator), height=images.shape[2], width=images.shape[3], generator=generator
    )
    first = out or folder / "policy.png"
    harmful = []
    if dataset == "synthetic_invariances":
        harmful = [name for name, shares in zip(space.names, lies(space), strict=True) if bool((shares > 0.2).any())]
    print(save(policy_figure(history, highlighted=harmful), first))
    if any(choice.op.unit is not None for choice in space.choices):
        print(save(strengths_figure(history), first.with_name(f"{first.stem}_strengths.png")))
    print(save(augmented_grid(images, plan), first.with_name(f"{first.stem}_samples.png")))


def _check_history(path: Path, history: dict[str, np.ndarray]) -> None:
    """Refuse arrays that do not fit each other.

    Raises:
        CheckpointError: With what does not.
    """
    kinds = {"steps": 1, "names": 1, "num_operations": 2, "keep": 2, "strengths": 3}
    wrong = [name for name, ndim in kinds.items() if name not in history or history[name].ndim != ndim]
    if not wrong:
        steps, names = len(history["steps"]), len(history["names"])
        shapes = {"keep": (steps, names), "strengths": (steps, names, 31)}
        wrong = [name for name, shape in shapes.items() if history[name].shape != shape]
        wrong += ["steps"] * (steps == 0) + ["num_operations"] * (len(history["num_operations"]) != steps)
    if wrong:
        raise CheckpointError(f"{path}: {', '.join(wrong)} is not there, or has another shape than ola writes.")
