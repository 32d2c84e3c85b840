"""Weights of other programs: their parameter names and files, read as data and mapped to ours."""
