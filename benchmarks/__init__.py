"""Benchmarks: medrep and its peers, measured in the same run, on the same split."""
