"""What this machine has, and what its environment lacks."""
