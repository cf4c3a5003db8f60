"""What answering a query costs: operations, parameters and memory; delay and network load."""

from fed_rebel.cost.delay import Delay, Link, delay, network_load
from fed_rebel.cost.flops import flops_per_query
from fed_rebel.cost.parts import PartCost, costs

__all__ = ["Delay", "Link", "PartCost", "costs", "delay", "flops_per_query", "network_load"]
