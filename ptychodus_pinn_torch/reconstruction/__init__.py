"""From a scan to an image: start, guard, solver, stopping, and the way back onto the object grid.

Networks are used through their contract; how one is trained or stored is not known here.
"""
