"""Records in, text out. Nothing here measures, and nothing shown is not in a Record or in run.json."""
