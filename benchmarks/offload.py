"""Throughput and delay of the offload server under 1, 16 and 64 devices, and its memory.

    python benchmarks/offload.py RUN --seconds 60

The server is a process of its own; devices are threads here that send made-up codes as fast as they are answered, in
batches of `--batch`. Delay is that of a batch, as a device sees it. Memory is the server's resident set.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from fed_rebel.offload import credentials
from fed_rebel.offload.connection import Connection, Unanswered
from fed_rebel.offload.device import hello
from fed_rebel.offload.parts import device_part


def resident(process):
    """Megabytes."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def load(address, part, trusted, levels, end, seconds, unanswered):
    with Connection(address, trusted, hello(part, False), len(part.classes), 10.0) as connection:
        while time.monotonic() < end:
            began = time.perf_counter()
            try:
                connection.ask(levels)
            except Unanswered as error:
                unanswered.append(str(error))
                continue
            seconds.append(time.perf_counter() - began)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--seconds", type=float, default=600, help="for each number of devices")
    parser.add_argument("--batch", type=int, default=8, help="codes a message")
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 16, 64])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as configuration:
        os.environ["XDG_CONFIG_HOME"] = configuration
        command = [sys.executable, "-m", "fed_rebel.cli", "offload", "server", str(given.run), "--port", "0"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            port = server.stdout.readline().rsplit(":", 1)[1].strip()
            part, trusted = device_part(given.run, 0), credentials.of_device()
            levels = np.random.default_rng(0).integers(0, 256, (given.batch, 867), np.uint8)
            print("devices  codes/s  p50 [ms]  p99 [ms]  unanswered  memory at start, middle, end [MB]")
            for devices in given.devices:
                seconds, unanswered, end = [], [], time.monotonic() + given.seconds
                arguments = (f"localhost:{port}", part, trusted, levels, end, seconds, unanswered)
                threads = [threading.Thread(target=load, args=arguments) for _ in range(devices)]
                for thread in threads:
                    thread.start()
                memory = []
                for _ in range(3):
                    time.sleep(given.seconds / 3.2)
                    memory.append(resident(server))
                for thread in threads:
                    thread.join()
                p50, p99 = np.percentile(seconds, [50, 99]) * 1000
                rate = len(seconds) * given.batch / given.seconds
                told = ", ".join(f"{one:.0f}" for one in memory)
                print(f"{devices:7d}  {rate:7.0f}  {p50:8.1f}  {p99:8.1f}  {len(unanswered):10d}  {told}", flush=True)
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()


if __name__ == "__main__":
    main()
