"""What every room needs and none is about: errors, files, progress, processes, environments."""
