"""What stands between a command line and a task: Hydra, checks before any work, exit statuses."""
