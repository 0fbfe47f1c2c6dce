"""Results of other tools as Records."""
