"""What answering a query costs: operations, parameters and memory; delay and network load."""

from fed_rebel.cost.delay import BATCH, Batch, Delay, Link, delay, in_time, least_coverage, network_load
from fed_rebel.cost.flops import flops_per_query
from fed_rebel.cost.parts import PartCost, costs

__all__ = [
    "BATCH",
    "Batch",
    "Delay",
    "Link",
    "PartCost",
    "costs",
    "delay",
    "flops_per_query",
    "in_time",
    "least_coverage",
    "network_load",
]
