"""Where a command runs: its processes, the devices they compute on, and the loggers.

Devices, precisions and logins that are not there are refused in one line before any work, and no
process group, rank or logger of one job is left to the next job of a sweep.
"""
