"""Benchmarks: scripts that print a ratio against a peer, measured in one run. Never timed tests."""
