"""Time and memory of training with a reward per example, over plain SGD: our ways and other people's.

    python benchmarks/alignment.py [--only wrn-16-2 ...] [--rounds 21] [--device cpu] [--no-peers] [--out FILE]
    python benchmarks/alignment.py --only wrn-28-10 --memory-at 32 128
    python benchmarks/alignment.py --plot benchmarks/results/alignment

All contenders of a workload run in one process, interleaved: each round times one plain step and one step of every
contender, and the ratio is taken round by round. "every": a reward at every step. "2nd": at every second step only,
two steps over two plain ones. Memory is the peak of the tensors alive over three steps, network and optimizer included,
over that of three plain ones. "agrees": correlation of the second step's rewards with those of our forward mode (the
derivative of each example's own loss). ``pip install 'gar-env[bench]'`` for the peers; one that cannot do a
network is listed with its reason.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path

import torch
from contenders import (  # pyright: ignore[reportMissingImports]
    BackpackBatchGrad,
    Contender,
    DoubleBackward,
    Opacus,
    Ours,
    Plain,
    VmapGrad,
)
from workloads import WORKLOADS, Workload  # pyright: ignore[reportMissingImports]

from agents.jobs.provenance import provenance
from agents.measures.timing import interleaved, median_and_quartiles, peak_bytes  # pyright: ignore[reportMissingImports]

CONTENDERS: dict[str, Callable[[Workload, str], Contender]] = {
    "hooks": Ours,
    "hooks, autotuned": functools.partial(Ours, autotune=True),
    "hooks, bfloat16": functools.partial(Ours, precision="bfloat16"),
    "forward": functools.partial(Ours, way="forward", batch_norm="derivative"),
    "finite_difference": functools.partial(Ours, way="finite_difference", batch_norm="derivative"),
    "vmap(grad)": VmapGrad,
    "Opacus": Opacus,
    "BackPACK": BackpackBatchGrad,
    "double backward": DoubleBackward,
}
OURS = ("hooks", "hooks, autotuned", "hooks, bfloat16", "forward", "finite_difference")
# A thousand per-example gradients of 616,000 parameters are 2.5 GB, and these keep two sets of them.
SLOW = {("fc", "vmap(grad)"), ("fc", "Opacus"), ("fc", "BackPACK"), ("fc_bn", "BackPACK")}


def run(build: Callable[[], Contender], step: str, times: int = 3) -> None:
    """A few steps of a fresh contender."""
    contender = build()
    for _ in range(times):
        getattr(contender, step)()


def second_rewards(build: Callable[[Workload, str], Contender], case: Workload, device: str) -> torch.Tensor:
    """What a fresh contender pays in its second step; every contender sees the same batches."""
    contender = build(case, device)
    contender.every()
    contender.every()
    assert contender.rewards is not None
    return contender.rewards.detach().cpu().double()


def measure(workload: str, device: str, rounds: int, peers: bool) -> list[dict]:
    """One row for every contender: ratios of time and memory, or why it could not run."""
    case = WORKLOADS[workload]
    builders = {name: make for name, make in CONTENDERS.items() if peers or name in OURS}
    rows: dict[str, dict] = {name: {"workload": workload, "n": case.n, "way": name} for name in builders}
    contenders: dict[str, Contender] = {"plain": Plain(case, device)}
    for name, make in builders.items():
        try:
            contenders[name] = make(case, device)
            contenders[name].every()
            contenders[name].second()
        # Whatever a peer raises is what its users would see.
        except Exception as error:
            contenders.pop(name, None)
            rows[name]["refused"] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:160]}"
    slow = {name for name in contenders if (workload, name) in SLOW}
    for names, repeats, warm_up in ((set(contenders) - slow, rounds, 2), ({"plain", *slow}, 2, 0)):
        if names == {"plain"}:
            continue
        calls: dict[str, Callable[[], object]] = {"plain": contenders["plain"].every}
        for name in sorted(names - {"plain"}):
            calls[f"{name}/every"], calls[f"{name}/second"] = contenders[name].every, contenders[name].second
        ratios = interleaved(calls, "plain", repeats, device, warm_up=warm_up)
        for name in names - {"plain"}:
            every = median_and_quartiles(ratios[f"{name}/every"])
            second = median_and_quartiles([ratio / 2 for ratio in ratios[f"{name}/second"]])
            rows[name] |= {"every": every, "second": second, "rounds": repeats}
    measured = [name for name in contenders if name != "plain"]
    contenders.clear()
    rewards = {name: second_rewards(builders[name], case, device) for name in measured}
    for name in measured:
        reference = rewards.get("forward")
        agrees = None if reference is None else torch.corrcoef(torch.stack([rewards[name], reference]))[0, 1]
        rows[name]["agrees"] = None if agrees is None else float(agrees)
    plain = peak_bytes(lambda: run(lambda: Plain(case, device), "every"), device)
    for name in measured:
        build = functools.partial(builders[name], case, device)
        rows[name]["memory"] = peak_bytes(functools.partial(run, build, "every"), device) / plain
        rows[name]["memory_second"] = peak_bytes(functools.partial(run, build, "second"), device) / plain
        rows[name]["plain_bytes"] = plain
    return list(rows.values())


def print_memory(workload: str, sizes: list[int], device: str) -> None:
    """Peak over a plain step's for several batch sizes; a reward at every step."""
    for n in sizes:
        case = dataclasses.replace(WORKLOADS[workload], n=n)
        plain = peak_bytes(lambda case=case: run(lambda: Plain(case, device), "every", times=2), device)
        # The first call of a contender takes two steps.
        ours = peak_bytes(lambda case=case: run(lambda: Ours(case, device), "every", times=1), device)
        print(f"{workload}, n = {n}: {ours / 1e6:.0f} / {plain / 1e6:.0f} MB = {ours / plain:.3f}", flush=True)


HEAD = ("network", "n", "way", "every step", "every 2nd", "memory", "memory, 2nd", "agrees")


def table(rows: list[dict]) -> str:
    """Markdown."""
    lines = [f"| {' | '.join(HEAD)} |", f"|{' --- |' * len(HEAD)}"]
    for row in rows:
        if "refused" in row:
            cells = [row["refused"], *[""] * 4]
        else:
            every, second = ("{:.2f} [{:.2f}, {:.2f}]".format(*row[key]) for key in ("every", "second"))
            agrees = "" if row.get("agrees") is None else f"{row['agrees']:.3f}"
            cells = [every, second, f"{row['memory']:.2f}", f"{row['memory_second']:.2f}", agrees]
        lines.append(f"| {row['workload']} | {row['n']} | {row['way']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def summary(rows: list[dict]) -> str:
    """Markdown: one line a network, every step / every second step and memory; of other libraries the fastest."""
    columns = ("hooks", "forward", "finite_difference")
    lines = [f"| network | n | {' | '.join(columns)} | other libraries, the fastest |", f"|{' --- |' * 6}"]

    def cell(row: dict) -> str:
        return f"{row['every'][0]:.2f} / {row['second'][0]:.2f}, {row['memory']:.2f}"

    for workload in dict.fromkeys(row["workload"] for row in rows):
        measured = {row["way"]: row for row in rows if row["workload"] == workload and "every" in row}
        others = [row for way, row in measured.items() if way not in OURS]
        best = min(others, key=lambda row: row["every"][0], default=None)
        last = "" if best is None else f"{best['way']}: {cell(best)}"
        cells = [cell(measured[way]) if way in measured else "" for way in columns]
        lines.append(f"| {workload} | {row_n(rows, workload)} | {' | '.join(cells)} | {last} |")
    return "\n".join(lines)


def plot(rows: list[dict], path: Path) -> None:
    """Time against memory, one panel per network."""
    import matplotlib.pyplot as plt

    workloads = list(dict.fromkeys(row["workload"] for row in rows))
    columns = min(4, len(workloads))
    lines = -(-len(workloads) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(3.4 * columns, 3.1 * lines), squeeze=False)
    figure.set_layout_engine("constrained")
    styles = {name: (f"C{i}", "o" if name in OURS else "^") for i, name in enumerate(CONTENDERS)}
    for axis in axes.flat[len(workloads) :]:
        axis.axis("off")
    for axis, workload in zip(axes.flat, workloads, strict=False):
        shown = [row for row in rows if row["workload"] == workload and "refused" not in row]
        for row in shown:
            color, marker = styles[row["way"]]
            axis.plot(row["every"][0], row["memory"], marker, color=color, alpha=0.85)
        axis.set(title=f"{workload}, n = {row_n(rows, workload)}")
        if max(max(row["every"][0], row["memory"]) for row in shown) > 10:
            axis.set(xscale="log", yscale="log")
        axis.axvline(1, color="0.8", linewidth=0.8)
        axis.axhline(1, color="0.8", linewidth=0.8)
        for one in (axis.xaxis, axis.yaxis):
            one.set_major_formatter(lambda value, _: f"{value:g}")
            one.set_minor_formatter(lambda value, _: "")
        axis.tick_params(labelsize=7)
    handles = [
        plt.Line2D([], [], color=color, marker=marker, linestyle="", label=name)
        for name, (color, marker) in styles.items()
    ]
    figure.supxlabel("time of a step with a reward at every step, plain SGD = 1")
    figure.supylabel("peak memory, plain SGD = 1")
    figure.legend(handles=handles, loc="outside upper center", ncols=4)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def row_n(rows: list[dict], workload: str) -> int:
    """Batch size of a workload."""
    return next(row["n"] for row in rows if row["workload"] == workload)


def write(rows: list[dict], out: Path) -> None:
    """Results as JSON lines and as a table."""
    machines = sorted({f"{row['machine']}, {row['device']}, torch {row['torch']}" for row in rows})
    commits = sorted({row["commit"].removesuffix("-dirty") for row in rows})
    said = f"Median of the rounds and quartiles; one thread; {'; '.join(machines)}; commits {', '.join(commits)}."
    head = f"# Time and memory over plain SGD\n\n{said}\n"
    out.with_suffix(".md").write_text(f"{head}\n{summary(rows)}\n\n{table(rows)}\n")
    plot(rows, out.with_suffix(".png"))


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), metavar="NETWORK")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument(
        "--memory-at", type=int, nargs="+", metavar="N", help="only memory, of hooks, at these batch sizes"
    )
    parser.add_argument("--out", type=Path, help="write results, table and plot: benchmarks/results/alignment is ours")
    parser.add_argument("--plot", type=Path, help="only draw what is in this results file")
    args = parser.parse_args()
    out = args.plot or args.out
    lines = out.with_suffix(".jsonl") if out else None
    rows = [json.loads(line) for line in lines.read_text().splitlines()] if lines and lines.exists() else []
    if args.memory_at:
        for workload in args.only:
            print_memory(workload, args.memory_at, args.device)
        return
    if args.plot is None:
        torch.set_num_threads(1)
        machine = provenance() | {"device": torch.cuda.get_device_name() if args.device == "cuda" else "CPU"}
        for workload in args.only:
            fresh = [row | machine for row in measure(workload, args.device, args.rounds, not args.no_peers)]
            print(table(fresh), flush=True)
            rows = [row for row in rows if row["workload"] != workload or row["device"] != machine["device"]] + fresh
            order = {name: i for i, name in enumerate(WORKLOADS)}
            rows.sort(key=lambda row: order[row["workload"]])
            if lines:
                lines.parent.mkdir(parents=True, exist_ok=True)
                lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if out:
        write(rows, out)


if __name__ == "__main__":
    main()
