"""Slow definitions in float64 and recorded facts to compare the packages with."""
