"""What a person sees while a run goes on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from fed_rebel.settings import WarmStart
from fed_rebel.training.warm_start import EpochDone as WarmStartEpochDone
from strategy.rounds import Fault

STAGES = {
    "warm_start": "warm start",
    "private_start": "private start",
    "distill": "distillation",
    "private_pass": "private pass",
    "finetune": "fine-tuning",
    "newcomers": "newcomers",
    "whole": "whole model",
}


class ProgressDisplay:
    """A bar for the run and a line for each round, on standard error; only faults where that is not a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description:<34}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task: Any = None

    def __enter__(self) -> "ProgressDisplay":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    @contextmanager
    def training(self, what: str, epochs: int) -> Iterator[Callable[[int, str], None]]:
        """Show a training's epochs from the first that is done: one that is found in the cache shows nothing."""
        task = None

        def epoch_done(epoch: int, remark: str) -> None:
            nonlocal task
            if task is None:
                task = self._progress.add_task(what, total=epochs)
            self._progress.update(task, completed=epoch, description=f"{what}, {remark}")

        yield epoch_done
        if task is not None:
            self._progress.remove_task(task)

    @contextmanager
    def warm_start(self, what: str, settings: WarmStart) -> Iterator[WarmStartEpochDone]:
        """The same for a pooled warm start: joint distillation, then fine-tuning."""
        before = {"distillation": 0, "fine-tuning": settings.epochs}
        with self.training(what, settings.epochs + settings.finetune_epochs) as epoch_done:
            yield lambda stage, epoch, epochs, losses: epoch_done(before[stage] + epoch, stage)

    def round_began(self, number: int, rounds: int, stage: str, messages: int) -> None:
        """A bar for the replies of this round."""
        if self._task is not None:
            self._progress.remove_task(self._task)
        description = f"round {number + 1} of {rounds}, {STAGES[stage]}"
        self._task = self._progress.add_task(description, total=messages)

    def replied(self) -> None:
        """One more reply."""
        self._progress.advance(self._task)

    def fault(self, round: int, fault: Fault) -> None:
        """Said on every kind of standard error."""
        self._console.print(
            f"round {round + 1}: client {fault.client} left out: {fault.reason}",
            style="yellow",
            soft_wrap=True,
            highlight=False,
            markup=False,
        )

    def run_failed(self, name: str, reason: str) -> None:
        """A run of a sweep; said on every kind of standard error."""
        self._console.print(f"{name}: failed: {reason}", style="yellow", soft_wrap=True, highlight=False, markup=False)

    def round_ended(self, rows: list[dict[str, Any]]) -> None:
        """A line with the means over the clients, where they were measured."""
        measured = [row for row in rows if "overall_acc" in row]
        if not measured or not self._console.is_terminal:
            return
        means = {
            name: sum(row[f"{name}_acc"] for row in measured) / len(measured)
            for name in ("local", "remote", "overall")
            if f"{name}_acc" in measured[0]  # without an early classifier nothing is local
        }
        accuracies = ", ".join(f"{name} {100 * mean:.1f} %" for name, mean in means.items())
        self._console.print(f"{rows[0]['round'] + 1:>3}  {STAGES[rows[0]['stage']]:<14} {accuracies}", highlight=False)
