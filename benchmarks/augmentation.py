"""Time of augmentation per example beside Pillow, torchvision and kornia, and its share of a training step.

    python benchmarks/augmentation.py [FILE.npz] [--rounds 21] [--device cuda] [--step-rounds 5]
    python benchmarks/augmentation.py --side 224 --images 32

Every image of a batch of 256 gets 2 random operations of WideLong at random strengths. All contenders get the same
plans, interleaved in one process on one thread; the ratio to ``torch`` is taken round by round. The others differ from
Pillow in some pixels (column "equal"); where they have no such operation they get the nearest that they have.

"share of a step" is drawing actions from the online policy, drawing the plan and applying it, over one SGD step
(forward, backward, update) of WRN-16-2 on the same batch.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from augmentation_contenders import Kornia, torchvision_per_image
from torch import Tensor

from agents.jobs.provenance import provenance
from agents.measures.timing import interleaved, median_and_quartiles, seconds
from agents.policies import OnlineAugmentation
from gar_env.augment import SPACES, Plan, apply
from gar_env.data import Batch, load_dataset, normalisation
from gar_env.learner import Learner, TrainingOptions
from gar_env.networks import build_network

N, OPERATIONS, PLANS = 256, 2, 20


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("dataset", nargs="?", default="synthetic_invariances")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--step-rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--side", type=int, help="resize the images to so many pixels; without the share of a step")
    parser.add_argument("--images", type=int, default=N)
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = load_dataset(args.dataset)
    n = args.images
    images, labels = data.x_train[:n].to(args.device), data.y_train[:n].to(args.device)
    if args.side:
        images = F.interpolate(images.float(), size=(args.side, args.side), mode="bilinear").round().to(torch.uint8)
    _, height, width = images.shape[1:]
    generator = torch.Generator(args.device).manual_seed(0)
    space = SPACES["wl"]
    plans = [
        Plan.sample(space, n, height=height, width=width, generator=generator, num_operations=OPERATIONS)
        for _ in range(PLANS)
    ]
    contenders: dict[str, Callable[[Plan, Tensor], Tensor]] = {
        "torch": lambda plan, batch: apply(plan, batch),
        "masked": lambda plan, batch: apply(plan, batch, backend="masked"),
        "Pillow per image": lambda plan, batch: apply(plan, batch, backend="pillow"),
        "torchvision v2 per image": torchvision_per_image,
        "kornia grouped by operation": Kornia(),
    }
    numbers: dict[str, Iterator[int]] = {name: iter(range(10**9)) for name in contenders}
    calls = {
        name: lambda name=name, run=run: run(plans[next(numbers[name]) % PLANS], images)
        for name, run in contenders.items()
    }
    ratios = interleaved(calls, "torch", args.rounds, args.device)
    own = sorted(seconds(calls["torch"], args.device) for _ in range(args.rounds))[args.rounds // 2]
    expected = apply(plans[0], images)
    print(f"{data.name}, {n} images of {height}x{width}, {OPERATIONS} operations each, {args.rounds} rounds")
    print(f"\ntorch: {1000 * own:.2f} ms per batch (median)\n")
    print("| contender | time / torch | quartiles | images equal to Pillow's |")
    print("| --- | --- | --- | --- |")
    for name, run in contenders.items():
        middle, low, high = median_and_quartiles(ratios[name])
        equal = float((run(plans[0], images) == expected).flatten(1).all(1).float().mean())
        print(f"| {name} | {middle:.1f} | {low:.1f} to {high:.1f} | {equal:.2f} |")
    print()
    if not args.side:
        step_share(images, labels, len(data.classes), args)
    print(provenance())


def step_share(images: Tensor, labels: Tensor, classes: int, args: argparse.Namespace) -> None:
    """Print what the policy and its operations cost beside an SGD step."""
    policy = OnlineAugmentation(SPACES["wl"], device=args.device)
    generator = torch.Generator(args.device).manual_seed(0)
    channels, height, width = images.shape[1:]
    learner = Learner(
        lambda: build_network("wrn-16-2", (channels, height, width), classes),
        TrainingOptions(channels_last=True),
        seed=0,
        num_steps=1000,
        device=args.device,
    )
    normalise = normalisation(images, "standardised")

    def augment() -> Tensor:
        actions = policy.sample(len(images), generator)
        plan = policy.layout.plan(actions, height=height, width=width, generator=generator)
        return apply(plan, images)

    def step() -> None:
        learner.run(Batch(normalise(images), labels))
        learner.update()

    ratios = interleaved({"step": step, "augmentation": augment}, "step", args.step_rounds, args.device)
    middle, low, high = median_and_quartiles(ratios["augmentation"])
    print(f"share of a step, WRN-16-2, batch {len(images)}: {middle:.4f} ({low:.4f} to {high:.4f})\n")


if __name__ == "__main__":
    main()
