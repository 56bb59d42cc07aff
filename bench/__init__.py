"""Benchmarks: each measures one thing and can run alone; `bench.main` measures all of them and keeps the figures."""
