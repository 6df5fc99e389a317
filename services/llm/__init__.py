"""Models: one chat model, its router, and the providers behind it."""
