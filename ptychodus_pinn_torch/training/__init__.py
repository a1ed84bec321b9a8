"""Training runs: plans, batches, losses, run folders, on Lightning where the engine is PyTorch.

The making of an image belongs into `reconstruction`, the format of a model into `models`.
"""
