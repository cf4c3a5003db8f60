"""The offload server killed and started again under load: no device may crash, and no label be wrong.

    python benchmarks/offload_kills.py RUN --seconds 120

Devices are threads that label the test images of a client over and over; the server, a process of its own, is killed
every few seconds and started again on the same port. Before, one device labelled the images with the server there, and
one without: every label under load must be that of the first where the server gave it, else that of the second.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np

from fed_rebel.offload import credentials
from fed_rebel.offload.device import Device
from fed_rebel.offload.parts import device_part, own_test_images


def serve(run, port):
    command = [sys.executable, "-m", "fed_rebel.cli", "offload", "server", str(run), "--port", str(port)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def labels(address, part, trusted, images):
    with Device(part, address, trusted) as device:
        return np.concatenate([batch.label for batch in device.label(images)])


def load(device, images, expected, end, told, failed):
    """Until the end: how many labels came from whom, and how many of them were not what they must be."""
    try:
        while time.monotonic() < end:
            place = 0
            for batch in device.label(images):
                here = slice(place, place + len(batch.label))
                place = here.stop
                by_server = batch.sent & (batch.offline is None)
                right = np.where(by_server, expected["server"][here], expected["device"][here])
                told["server"] += int(by_server.sum())
                told["device, sure"] += int((~batch.sent).sum())
                told["device, server away"] += int((batch.sent & ~by_server).sum())
                told["wrong"] += int((batch.label != right).sum())
    except Exception as error:
        failed.append(repr(error))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--every", type=float, default=8, help="seconds that a server lives after it serves")
    parser.add_argument("--devices", type=int, default=16)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as configuration, socket.socket() as free:
        os.environ["XDG_CONFIG_HOME"] = configuration
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
        free.close()
        server = serve(given.run, port)
        server.stdout.readline()
        address, part, trusted = f"localhost:{port}", device_part(given.run, 0), credentials.of_device()
        images = own_test_images(given.run, 0)[1].images
        expected = {"server": labels(address, part, trusted, images)}
        expected["device"] = labels("localhost:1", part, trusted, images)
        end, told, failed, kills = time.monotonic() + given.seconds, Counter(), [], 0
        devices = [Device(part, address, trusted, deadline=2.0) for _ in range(given.devices)]
        threads = [
            threading.Thread(target=load, args=(device, images, expected, end, told, failed)) for device in devices
        ]
        for thread in threads:
            thread.start()
        while time.monotonic() < end - given.every:
            time.sleep(given.every)
            server.kill()
            server.wait()
            kills += 1
            server = serve(given.run, port)
            server.stdout.readline()
        for thread in threads:
            thread.join()
        server.send_signal(signal.SIGTERM)
        server.wait()
    print(f"{kills} kills, {given.devices} devices, {len(failed)} crashed {failed[:1]}, labels: {dict(told)}")


if __name__ == "__main__":
    main()
