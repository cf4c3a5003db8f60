"""Federated ReBEL: early exits and split inference over clients whose data differ."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fed_rebel.report.grid import load_runs

__all__ = ["load_runs"]


def __getattr__(name: str) -> Any:
    """`load_runs`, imported when it is asked for: the command line starts without pandas."""
    if name == "load_runs":
        from fed_rebel.report.grid import load_runs

        return load_runs
    raise AttributeError(f"module 'fed_rebel' has no attribute '{name}'")
