"""Everything that knows the model, the controller and the window of Ptychodus.

Engines run in the worker process only; files and products are mapped in `scan`.
"""
