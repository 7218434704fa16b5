"""Examples and README code run as they are printed."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_an_example_runs_and_is_short(path, capsys):
    assert len(path.read_text().splitlines()) < 60
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out.strip()


def readme_blocks():
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)


@pytest.mark.parametrize("block", readme_blocks(), ids=lambda block: block.splitlines()[0])
def test_the_readmes_code_runs(block):
    exec(compile(block, "README.md", "exec"), {})


def test_the_readmes_table_is_that_of_the_committed_results():
    """Every row that the README prints can be made again from examples/results."""
    from agents.experiments.results import read_rows
    from agents.experiments.table1 import accuracy_table, auc_table

    readme = (ROOT / "README.md").read_text()
    for recipe in ("paper", "best"):
        rows = read_rows(ROOT / "examples" / "results" / "table1" / f"{recipe}.jsonl")
        for line in auc_table(rows, recipe).markdown().splitlines():
            assert line in readme
        assert accuracy_table(rows, recipe)
