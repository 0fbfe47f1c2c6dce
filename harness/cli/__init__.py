"""The command line: one file a group of verbs, no logic, heavy imports inside the verbs. Nothing takes from it."""
