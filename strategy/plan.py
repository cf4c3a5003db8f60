"""The rounds of a run, in order (the federated protocol)."""

from dataclasses import dataclass

from fed_rebel.settings import Settings
from strategy.messages import Stage


@dataclass(frozen=True)
class Round:
    """One round."""

    number: int
    """From 0."""
    stage: Stage
    evaluate: bool
    """Whether every client is evaluated after it."""
    last: bool
    """Whether it is the last of the run."""


def plan(settings: Settings) -> list[Round]:
    """Warm start, private start, distillation with a private pass after its last round, fine-tuning.

    The private start and the last round are always evaluated, and of the others every `rounds.evaluate_every`-th
    after the private start.
    """
    rounds = settings.rounds
    stages = [Stage.WARM_START] * rounds.warm_start + [Stage.PRIVATE_START] + [Stage.DISTILL] * rounds.distill
    if rounds.distill:
        stages.append(Stage.PRIVATE_PASS)
    stages += [Stage.FINETUNE] * rounds.finetune
    last = len(stages) - 1

    def evaluated(number: int) -> bool:
        since_start = number - rounds.warm_start
        every = rounds.evaluate_every
        return number == last or since_start == 0 or (every > 0 and since_start > 0 and since_start % every == 0)

    return [Round(n, stage, evaluated(n), n == last) for n, stage in enumerate(stages)]
