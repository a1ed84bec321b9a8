"""What is said about a scan before a long run: findings with a number and a remedy.

Nothing here changes a scan.
"""
