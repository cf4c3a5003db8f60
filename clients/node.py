"""What the machine of a client says of itself: `--node-config` of its SuperNode, or what a simulation makes of it."""

from dataclasses import dataclass
from pathlib import Path

from flwr.app import Context


@dataclass(frozen=True)
class Node:
    """One client's place in the world."""

    client: int
    """`partition-id`: its number, from 0."""
    disk: Path | None = None
    """`state`: the folder where it keeps what is its own; None where it sees the server's run directory."""
    data: Path | None = None
    """`data.path`: its own images, an .npz or a folder; None where they are dealt."""

    @classmethod
    def of(cls, context: Context) -> "Node":
        """Raises `ValueError` for a node without a number."""
        told = context.node_config
        client = told.get("partition-id")
        if not isinstance(client, int) or isinstance(client, bool) or client < 0:
            raise ValueError(
                f"partition-id = {client!r} in the node config: allowed: the number of the client, from 0 "
                "(flower-supernode --node-config 'partition-id=0 ...')"
            )
        disk, data = (Path(str(told[key])).expanduser() if key in told else None for key in ("state", "data.path"))
        return cls(client, disk, data)
