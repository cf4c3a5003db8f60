"""The house: imports run downwards only, and the outer libraries stay where they belong."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = (
    "fed_rebel.cli",
    "fed_rebel.study",
    "fed_rebel.launch",
    "clients",
    "strategy",
    "fed_rebel.offload",
    "fed_rebel.training",
    "fed_rebel.report",
    "fed_rebel.cost",
    "fed_rebel.model",
    "fed_rebel.runs",
    "fed_rebel.early",
    "fed_rebel.exits",
    "fed_rebel.datasets",
    "partitions",
    "fed_rebel.outbox",
    "fed_rebel.tensor_file",
    "fed_rebel.checksums",
    "fed_rebel.files",
    "fed_rebel.ending",
    "fed_rebel.settings",
)
FILES = [
    file for package in ("fed_rebel", "clients", "strategy", "partitions") for file in (ROOT / package).rglob("*.py")
]


def imported(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (
                [f"fed_rebel.{alias.name}" for alias in node.names] if node.module == "fed_rebel" else [node.module]
            )


def layer(module):
    """The number of a module's layer, 0 the topmost; None where it is of no layer of ours."""
    places = [number for number, name in enumerate(LAYERS) if module == name or module.startswith(f"{name}.")]
    return places[0] if places else None


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_run_downwards_only(file):
    module = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    own, modules = layer(module), set(imported(file))
    assert own is not None or module == "fed_rebel"
    for name in modules:
        other = layer(name)
        assert other is None or own is None or other >= own, f"{module} imports {name}, which lies above it"
    if own is not None and own > LAYERS.index("strategy"):
        assert not any(name.split(".")[0] == "flwr" for name in modules)
    if own is not None and own > LAYERS.index("fed_rebel.launch"):
        assert not any(name.split(".")[0] == "ray" for name in modules)
    if module.startswith("partitions"):
        outer = {name.split(".")[0] for name in modules} - {"numpy", "partitions"}
        assert outer <= sys.stdlib_module_names
