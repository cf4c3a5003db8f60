"""Replies that came after their round: their changes wait in the server's memory for the next round of the stage."""

from collections.abc import Sequence

import torch

from fed_rebel.tensor_file import Tensors, part, prefixed
from strategy.messages import Reply


def keep(replies: Sequence[Reply], sent: Tensors) -> Tensors:
    """Late replies as tensors: how each changed the tensors that were sent, and what else it has."""
    kept: Tensors = {}
    for reply in replies:
        changes = {name: tensor - sent[name] for name, tensor in reply.tensors.items()}
        numbers = torch.tensor([reply.samples, reply.weight], dtype=torch.float64)
        kept |= prefixed(f"late.{reply.client}.change", changes)
        kept |= prefixed(f"late.{reply.client}.beside", reply.beside) | {f"late.{reply.client}.numbers": numbers}
    return kept


def take(memory: Tensors, current: Tensors) -> tuple[list[Reply], Tensors]:
    """The replies that wait, their changes made to the current tensors (as in FedBuff, Nguyen et al. 2022), and the
    memory without them."""
    waiting = part("late", memory)
    replies = []
    for client in sorted({int(name.split(".", 1)[0]) for name in waiting}):
        samples, weight = waiting[f"{client}.numbers"].tolist()
        changes = part(f"{client}.change", waiting)
        tensors = {name: current[name] + change for name, change in changes.items()}
        beside = part(f"{client}.beside", waiting)
        replies.append(Reply(client, int(samples), tensors, weight=weight, beside=beside))
    return replies, {name: tensor for name, tensor in memory.items() if not name.startswith("late.")}
