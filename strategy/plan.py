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
    everyone: bool
    """Whether all that there are for it train, or a share of them, drawn for the round."""


def plan(settings: Settings) -> list[Round]:
    """Warm start, private start, distillation with a private pass after its last round, fine-tuning, newcomers.

    The other methods have the same rounds from the private start on, each a round of the whole model: with the same
    settings every client passes as often over its images. The private start and the last round are always evaluated,
    and of the others every `rounds.evaluate_every`-th after the private start.
    """
    rounds = settings.rounds
    stages = [Stage.WARM_START] * rounds.warm_start + [Stage.PRIVATE_START] + [Stage.DISTILL] * rounds.distill
    if rounds.distill:
        stages.append(Stage.PRIVATE_PASS)
    stages += [Stage.FINETUNE] * rounds.finetune
    trained = len(stages) - 1
    if settings.partition.newcomers:
        stages.append(Stage.NEWCOMERS)
    last = len(stages) - 1

    def round_of(number: int, stage: Stage) -> Round:
        since_start = number - rounds.warm_start
        every = rounds.evaluate_every
        evaluate = number >= trained or since_start == 0 or (every > 0 and since_start > 0 and since_start % every == 0)
        everyone = stage in (Stage.PRIVATE_START, Stage.PRIVATE_PASS, Stage.NEWCOMERS)
        if settings.method != "rebel" and stage is not Stage.PRIVATE_START:
            stage = Stage.WHOLE
        return Round(number, stage, evaluate, number == last, everyone)

    return [round_of(number, stage) for number, stage in enumerate(stages)]
