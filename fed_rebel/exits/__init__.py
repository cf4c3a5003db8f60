"""From scores to routing: coverage curves, and thresholds calibrated on validation data."""

from fed_rebel.exits.calibrate import calibrate, route
from fed_rebel.exits.confidence import calibration_error, confidence_at, fit_temperature
from fed_rebel.exits.curve import Curve, at_coverage, coverage_curve
from fed_rebel.exits.outcomes import Outcomes, Thresholds
from fed_rebel.exits.stacking import Stack
from fed_rebel.exits.target import Target

__all__ = [
    "Curve",
    "Outcomes",
    "Stack",
    "Target",
    "Thresholds",
    "at_coverage",
    "calibrate",
    "calibration_error",
    "confidence_at",
    "coverage_curve",
    "fit_temperature",
    "route",
]
