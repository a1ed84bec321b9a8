"""The steps of the solver: what moves object, probe, positions, brightness and background.

Networks take their physics from here as the refinement does. When a run is over, and what is to be
moved, is decided in `reconstruction`.
"""
