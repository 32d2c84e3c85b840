"""Where a command runs: processes, devices, loggers."""
