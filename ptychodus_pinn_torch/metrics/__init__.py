"""Distances between images: registration and comparison, on top of `ptychodus.api.metrics`.

How well an image explains counts is physics, and belongs into `reconstruction`.
"""
