"""Whether two arms differ, and what a policy says of it. Others take `runs`, `trials`, `tokens`, `gate`, `tune` and `everything`."""
