"""What holds for every test."""

from hypothesis import settings

# A collection of the whole run's garbage, or the other worker's servers, may fall into any example.
settings.register_profile("house", deadline=None)
settings.load_profile("house")
