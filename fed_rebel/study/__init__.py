"""The paper's centralised study: one model on pooled data, every early classifier, against its baselines."""

from fed_rebel.study.run import PARTS, study

__all__ = ["PARTS", "study"]
