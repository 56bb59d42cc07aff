"""The model bundle, its contract checks, the gate and the rule that chains the ledger."""
