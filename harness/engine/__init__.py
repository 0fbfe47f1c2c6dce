"""A running vLLM and the device under it. Others take `session.Session`, `server`, `settings`, `device` and `monitor`."""
