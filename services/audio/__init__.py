"""Speech to text: recordings taken in, cut, transcribed, and the jobs that do it."""
