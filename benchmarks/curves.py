"""Coverage curves, calibrated thresholds and the table of clients of 1,000 clients of 500 images."""

import numpy as np
import pandas as pd

from benchmarks.table import Row, within
from benchmarks.timing import in_turn
from fed_rebel.exits import Target, calibrate, coverage_curve
from fed_rebel.exits.rows import client_rows

AGAINST = "np.argsort of the same scores"


def rows(quick: bool) -> list[Row]:
    """The curve and the threshold of each client alone, and the whole of `clients.csv`."""
    clients, images = (20, 100) if quick else (1_000, 500)
    rng = np.random.default_rng(0)
    score = rng.normal(size=(clients, images)).astype(np.float32)
    local, remote = rng.random((2, clients, images)) < np.array([0.4, 0.6])[:, None, None]
    records = [{"client": client} for client in range(clients)]
    predictions = _predictions(score, local, remote)

    def curves() -> object:
        return [
            (coverage_curve(*of_client), calibrate(*of_client, Target("best")))
            for of_client in zip(score, local, remote, strict=True)
        ]

    def sort() -> object:
        return [np.argsort(of_client) for of_client in score]

    size = f"{clients:,} clients x {images} images"
    took, bare = in_turn(curves, sort, 3)
    found = [Row(f"coverage curve and calibration, {size}", AGAINST, within(1), took, bare)]
    took, bare = in_turn(lambda: client_rows(records, predictions, Target("best")), sort, 2, warm=False)
    half = f"{images // 2} to calibrate on and {images // 2} to measure on"
    found.append(Row(f"the table of clients from their predictions, {size}: {half}", AGAINST, within(1), took, bare))
    return found


def _predictions(score: np.ndarray, local: np.ndarray, remote: np.ndarray) -> pd.DataFrame:
    """As clients write them: half of a client's images for validation, half for test, all with one label, right or
    wrong."""
    clients, images = score.shape
    right, wrong = np.int16(0), np.int16(1)
    return pd.DataFrame(
        {
            "image": np.tile(np.arange(images), clients),
            "label": right,
            "local_label": np.where(local, right, wrong).ravel(),
            "confidence": np.float32(0.5),
            "score": score.ravel(),
            "remote_label": np.where(remote, right, wrong).ravel(),
            "remote_prior_label": np.where(remote, right, wrong).ravel(),
            "remote_stacked_label": np.where(remote, right, wrong).ravel(),
            "split": np.tile(np.repeat(["val", "test"], [images // 2, images - images // 2]), clients),
            "client": np.repeat(np.arange(clients, dtype=np.int32), images),
        }
    )
