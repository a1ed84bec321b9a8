"""What was measured: scans, their files, groups of patterns. In numpy, without physics.

What needs a forward model belongs into `physics` or above; what needs an engine never here.
"""
