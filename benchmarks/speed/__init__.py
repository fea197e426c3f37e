"""Side-by-side measurements of time and memory. `make bench` runs them; see benchmarks/README.md."""
