"""Pure numbers behind gates, compression and rollout."""
