"""Synthetic inputs for calibration without data: what a model takes, as far as its graph says."""
