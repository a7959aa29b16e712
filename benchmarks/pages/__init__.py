"""The tables and figures of the README and of the pages, made from `benchmarks/results` alone."""
