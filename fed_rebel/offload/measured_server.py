"""The server process of `measure`: serves Head2 and Tail, or the whole base model, until its standard input ends."""

import sys
from pathlib import Path

from fed_rebel import tensor_file
from fed_rebel.datasets.images import SIDE
from fed_rebel.model.resnet import build_base_model
from fed_rebel.offload import credentials
from fed_rebel.offload.parts import ServerPart, server_part
from fed_rebel.offload.server import Server
from fed_rebel.runs import RunDirectory
from fed_rebel.training.compute import choose_compute


def whole_images_part(run: Path) -> ServerPart:
    """The base model of a run, to which devices send images: their pixels are a code of 3 x 32 x 32 at eight bits.

    Its weights are fresh: they do not matter for how long it takes.
    """
    directory, settings = RunDirectory.open(run)
    compute, classes = choose_compute(settings.engine), len(directory.shared()["tail.fc.bias"])
    base = compute.place(build_base_model(settings.base.backbone, classes, settings.seed)).eval()
    fingerprint = bytes.fromhex(tensor_file.fingerprint(base.state_dict()))
    return ServerPart(base, (3, SIDE, SIDE), classes, fingerprint, compute)


PARTS = {"codes": server_part, "images": whole_images_part}


def main(run: str, what: str, host: str, folder: str) -> None:
    """Serve with the credentials in `folder`; print the port and the model's fingerprint, then wait."""
    part, place = PARTS[what](Path(run)), Path(folder)
    own = credentials.of_server(place / "certificate.pem", place / "key.pem", place / "token")
    server = Server(part, own, host)
    print(server.port, part.fingerprint.hex(), flush=True)
    sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
