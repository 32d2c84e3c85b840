"""What the commands that sample share."""
