"""What must be TensorFlow: a network, its loss and its train step.

Plans, hold-out, run folders, stitching, refinement and placing are those of the other rooms.
"""
