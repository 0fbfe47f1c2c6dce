"""What a suite may say, and what is wrong with one by line. Others take `schema.load_suite` and `gate_policy`."""
