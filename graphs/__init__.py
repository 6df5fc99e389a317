"""How agents think: one file an agent."""
