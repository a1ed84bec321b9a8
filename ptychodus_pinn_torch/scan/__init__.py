"""Scans as numpy sees them: files, groups, checks and simulation."""
