"""Settings and names made into objects, once."""
