"""The forward model in torch: measurement, canvas, probe, propagation, losses, update rule.

No file, no network, no training; whoever compares counts with an object does it through here.
"""
