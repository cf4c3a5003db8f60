"""Starting simulations and trainings: in this process, or on Ray."""

import os

# Read by Flower, Ray and MLflow when they are imported: no telemetry, no update checks, no usage statistics.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# The default of Ray's next versions; without it each start prints a warning about it.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
# Flower's actors warn that they are ended, which everybody's end of a run is; what a client raises is told as a fault.
os.environ.setdefault("FLWR_LOG_LEVEL", "CRITICAL")
