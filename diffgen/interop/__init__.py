"""Weights of other programs, read as data and mapped to the parameters of our networks.

Files are read without running anything that they hold. Every parameter of ours is made of one or
several of theirs by name; a name that is missing, left over or of another size is a UsageError.
"""
