"""Model files: the archive, its card, and the one door through which any model is opened.

Networks are built elsewhere; nothing that is opened here can execute.
"""
