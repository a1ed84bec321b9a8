"""Networks that map measured patterns to a canvas, and the contract that each of them fulfils.

Training, files and devices belong elsewhere; a network knows physics and its own options only.
"""
