"""A message with Head2 and Tail of ResNet-50 to a client and back."""

import tempfile
from pathlib import Path
from threading import Event

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from benchmarks.table import Row, times
from benchmarks.timing import in_turn, threads
from fed_rebel.datasets import Form, Normalisation
from fed_rebel.launch.inline import InlineGrid
from fed_rebel.model.heads import Head2
from fed_rebel.model.resnet import build_base_model
from fed_rebel.settings import PartitionSettings, Settings
from fed_rebel.tensor_file import Tensors, prefixed
from fed_rebel.training.allocation import keep_freed_memory
from strategy.messages import Greeting, Hello, Order, Reply, Stage, size
from strategy.rounds import Clients

echo = ClientApp()


@echo.query()
def introduce(message: Message, context: Context) -> Message:
    """The only client there is."""
    return Message(Hello(0).to_record(), reply_to=message)


@echo.train()
def answer(message: Message, context: Context) -> Message:
    """Read the order and send its tensors back, as a client would that trained nothing."""
    return Message(Reply(0, 1, Order.from_record(message.content).tensors).to_record(), reply_to=message)


def rows(quick: bool) -> list[Row]:
    """An exchange with one client, inline, on one thread: an order made, sent, read, answered, its reply checked."""
    backbone = "resnet20" if quick else "resnet50"
    tensors = _tensors(backbone)
    megabytes = size(tensors) / 1e6
    keep_freed_memory()  # as every run does; else most of the time of both goes into new pages
    grid = InlineGrid(echo, clients=1, at_once=1)

    def copy() -> object:
        return [tensor.clone() for tensor in tensors.values()]

    with tempfile.TemporaryDirectory() as folder, threads(1):
        settings = Settings(partition=PartitionSettings(clients=1))
        greeting = Greeting(settings, {}, Form("-", ("-",), Normalisation((0.5,) * 3, (0.5,) * 3), flip=False))
        order = Order(settings, folder, folder, 0, Stage.FINETUNE, 0, False, tensors)
        clients = Clients.find(grid, greeting, Event())
        took, bare = in_turn(lambda: clients.exchange([0], order, "train", lambda _: None), copy, 3 if quick else 9)
        assert Path(folder).is_dir()
    name = f"a message with Head2 and Tail of {backbone} and its reply, {megabytes:.0f} MB each way, inline"
    return [Row(name, "copying its tensors once", times(5), took, bare)]


def _tensors(backbone: str) -> Tensors:
    base = build_base_model(backbone, classes=100, seed=0)
    tensors = prefixed("head2", Head2(base.head.channels).state_dict()) | prefixed("tail", base.tail.state_dict())
    return {name: tensor.contiguous() for name, tensor in tensors.items() if tensor.dtype is torch.float32}
