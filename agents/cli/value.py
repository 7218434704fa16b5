"""``gar-env value``: which labels are doubtful."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from gar_env.errors import CheckpointError, ConfigurationError

STATE, TABLE, PAGE = "state.pt", "values.csv", "doubtful.html"


def value(
    dataset: str,
    network: str = "cnn",
    epochs: int = 8,
    batch_size: int = 128,
    step_size: float = 0.1,
    inputs: str = "symmetric",
    reference_weights: str = "agree",
    seed: int = 0,
    pictures: int = 60,
    image_size: int | None = None,
    device: str = "cpu",
    download: bool = False,
    out: Path = Path("runs/value"),
) -> None:
    """Rank training examples by how doubtful their labels are: a CSV file, and a page with pictures.

    Trains a network on all of them. The same command goes on after an epoch that it was stopped in.

    Args:
        dataset: A name, an .npz file or a folder of images, with a label for each example.
        network: A name, see gar-env list.
        epochs: Passes over the data.
        batch_size: Examples of a step; each half of it judges the other.
        step_size: Of SGD.
        inputs: Of images: unit, symmetric or standardised.
        reference_weights: all, agree or mae: which of the others judge an example.
        seed: Of parameters, order and halves.
        pictures: Examples on the page.
        image_size: Height and width to resize a folder of images to.
        device: Where.
        download: Whether torchvision may fetch the data.
        out: Folder of values.csv, doubtful.html and the state to go on from.
    """
    import torch
    from rich.progress import Progress

    from agents.files import read_regular, write_whole
    from agents.measures.tables import Table, show
    from gar_env.data import load_dataset
    from gar_env.values import Valuation, ValueOptions

    if pictures < 1:
        raise ConfigurationError(f"pictures={pictures} must be at least 1.")
    console = Console()
    data = load_dataset(dataset, download=download, image_size=image_size)
    options = ValueOptions(
        epochs=epochs,
        batch_size=batch_size,
        step_size=step_size,
        inputs=inputs,
        reference_weights=reference_weights,
        seed=seed,
    )
    run, state = Valuation(network, data, options, device=device), out / STATE
    if state.exists():
        try:
            found = torch.load(io.BytesIO(read_regular(state)), weights_only=True, map_location=device)
        except Exception as error:  # of a damaged file
            raise CheckpointError(f"{state} cannot be read: {error}. Remove it to begin anew.") from error
        run.load_state_dict(found)
        console.print(f"Going on after epoch {run.done} of {epochs}.", highlight=False)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("Training", total=epochs * run.steps_of_epoch, completed=run.done * run.steps_of_epoch)
        while run.done < epochs:
            run.epoch(lambda: progress.advance(task))
            content = io.BytesIO()
            torch.save(run.state_dict(), content)
            write_whole(state, content.getvalue())
    values = run.values
    table = Table("Most doubtful labels", ["example", "label", "network", "alignment", "margin", "rank by each"])
    for i in values.most_doubtful(10).tolist():
        named = [data.classes[column[i]] for column in (values.label, values.suggested)]
        ranks = f"{values.rank_by_alignment[i]}, {values.rank_by_margin[i]}"
        table.append([str(i), *named, f"{values.alignment[i]:+.3g}", f"{values.margin[i]:+.3g}", ranks])
    show(table, console, False)
    for path in (values.save(out / TABLE, data), values.page(out / PAGE, data, count=pictures)):
        console.print(str(path), soft_wrap=True, highlight=False)
