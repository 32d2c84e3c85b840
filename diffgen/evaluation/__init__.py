"""Evaluation: how close samples are to a data set, as numbers that may be compared.

Images are uint8 (N, C, H, W). An extractor turns them into features; metrics compare these with
those of a reference set. Numbers compare only where extractor (name and hash), reference (hash)
and n are equal; the row `real (test)` is what held-out images of the data set reach. Others stand
in tables of their own.
"""
