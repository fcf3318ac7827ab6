"""Runner hosting: placement, the agent, and qnodes that are killed for real."""
