"""Losses, and the steps that train each stage and the base model."""
