"""Models by name, for tests and benchmarks (`catalog.MODELS`), and those of the demo."""
