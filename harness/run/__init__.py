"""Carries a plan out: builds, measures, claims, executors, lost questions. Others take `execute.run_suite`, `infer.infer`."""
