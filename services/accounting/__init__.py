"""What runs consumed: tokens, price, energy, carbon, water."""
