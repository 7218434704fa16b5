"""A line imports only from layers above its own (the order below), and agents are never imported by gar_env."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENVIRONMENT_LAYERS = (
    "errors", "registry", "seeding", "state", "functional", "data", "networks", "augment", "alignment", "agreement",
    "learner", "optimizers", "rewards", "values", "checks", "envs", "registration", "command",
)  # fmt: skip
AGENT_LAYERS = (
    "files", "container", "agent", "checks", "policies", "peers", "normaliser", "reinforce", "mixture",
    "domain_weights", "value_regression", "sb3", "step_sizes", "optimizer_search", "controllers", "jobs", "measures",
    "training", "studies", "cli",
)  # fmt: skip


def imports(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def layered_files(package: str):
    return sorted(path for path in (ROOT / package).rglob("*.py") if path != ROOT / package / "__init__.py")


@pytest.mark.parametrize(("package", "layers"), [("gar_env", ENVIRONMENT_LAYERS), ("agents", AGENT_LAYERS)])
def test_a_file_imports_only_from_its_own_layer_and_those_above(package, layers):
    found = []
    for path in layered_files(package):
        relative = path.relative_to(ROOT)
        own = relative.parts[1].removesuffix(".py")
        assert own in layers, f"{relative} is in no layer: add {own!r} to the list"
        for name in imports(path):
            parts = name.split(".")
            known = parts[0] == package and len(parts) > 1 and parts[1] in layers
            if known and layers.index(parts[1]) > layers.index(own):
                found.append(f"{relative} imports {name}")
    assert not found


def test_gar_env_never_imports_agents():
    found = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in (ROOT / "gar_env").rglob("*.py")
        for name in imports(path)
        if name.split(".")[0] == "agents"
    ]
    assert not found
