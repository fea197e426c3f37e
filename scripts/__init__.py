"""What writes documentation and evidence, and what runs batteries of tests; benchmarks/ measures speed."""
