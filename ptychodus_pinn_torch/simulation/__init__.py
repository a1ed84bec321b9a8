"""Objects, probes, paths and noise: scans with a known truth, for demonstrations and pretraining.

Nothing here reads files of measurements, and nothing trains.
"""
