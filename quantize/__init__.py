"""The quantize stage: recipes, what can be built and served, calibration, the build of a grid, and verification."""
