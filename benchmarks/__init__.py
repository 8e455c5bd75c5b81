"""Speed and memory, measured: ``python -m benchmarks`` runs all; each module runs by itself."""
