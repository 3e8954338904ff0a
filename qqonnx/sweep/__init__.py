"""Grids of models × methods × bits or budgets × data sets, on one machine or a cluster."""
