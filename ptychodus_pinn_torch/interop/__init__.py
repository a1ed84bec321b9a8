"""Names and calls of the published PtychoPINN, thin over this package.

Readers of foreign model files belong into `models`, readers of foreign scans into `scan`.
"""
