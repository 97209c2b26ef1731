"""Who serves whom: phases, decisions, state, ledger, routes, keeper, replay and judge."""
