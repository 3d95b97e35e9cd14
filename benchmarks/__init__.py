"""Measurements behind the figures in the documentation.

Run them from the checkout, as modules: `python -m benchmarks.step_time --help`.
"""
