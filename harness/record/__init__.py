"""What a Run holds. Others take `records.Record`, `samples`, `run_facts.RunFacts`, `folder.RunFolder` and `health`."""
