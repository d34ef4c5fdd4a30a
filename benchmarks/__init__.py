"""Benchmarks: every figure beside a baseline of the same run. Start with README.md."""
