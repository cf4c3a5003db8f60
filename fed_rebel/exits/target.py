"""What a threshold is calibrated for: the setting `exits.target`."""

from dataclasses import dataclass
from typing import Literal, Self, cast, get_args

Kind = Literal["best", "never", "coverage", "accuracy", "delay"]

LONGEST = 3600.0
"""Seconds that a delay may be at most."""


@dataclass(frozen=True)
class Target:
    """The best overall accuracy, no local answer, a wanted coverage, a wanted local accuracy of the answered, or the
    best overall accuracy of which a batch is in time."""

    kind: Kind
    value: float | None = None
    """In [0, 1] for coverage and accuracy, seconds for delay; None for best and never."""
    least: float = 0.0
    """For delay: the smallest coverage at which a batch is in time (`cost.least_coverage`)."""

    def __post_init__(self) -> None:
        known = self.kind in get_args(Kind) and (self.kind in ("best", "never")) == (self.value is None)
        highest = LONGEST if self.kind == "delay" else 1.0
        if not known or (self.value is not None and not 0 <= self.value <= highest):
            raise _not_allowed(str(self))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "best", "never", "coverage:0.46", "accuracy:0.8" or "delay:0.5". Raises ValueError, one line, on
        anything else."""
        kind, colon, value = text.partition(":")
        try:
            return cls(cast(Kind, kind), float(value) if colon else None)
        except ValueError:
            raise _not_allowed(text) from None

    def __str__(self) -> str:
        return self.kind if self.value is None else f"{self.kind}:{self.value}"


def _not_allowed(text: str) -> ValueError:
    return ValueError(
        f"exits.target: {text!r} is not allowed; use best, never, coverage:X or accuracy:X with X in [0, 1], "
        f"or delay:X with X in [0, {LONGEST:g}] seconds"
    )
