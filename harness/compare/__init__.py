"""Whether two arms differ, and what a policy says of it. Others take `everything`, `runs`, `trials`, `tokens`, `gate`."""
