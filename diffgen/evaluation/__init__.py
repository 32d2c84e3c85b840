"""Scoring images: features, distances to a reference set, tables of them."""
