"""The paper preset on a GPU, where one is at hand."""

import torch

from benchmarks.table import Row


def rows(quick: bool) -> list[Row]:
    """Images a second of a distillation round, against the bare loop."""
    if not torch.cuda.is_available():
        return [Row("paper preset on a GPU", "a hand-written loop", note="not run: torch sees no CUDA device here")]
    raise NotImplementedError
